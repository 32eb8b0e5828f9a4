"""A trunk: a network without its classifier, whose last feature map the heads of the captioner and the VQA model read.

    trunk = load_trunk("efficientnet_lite0")
    A = trunk.features(images)        # (B,3,H,W) -> (B,K,h,w), after the last activation
    front, tail = trunk.split(5)      # the front stays as it is, so its output can be stored; the tail is trained

Letters: B images, K channels, h,w map.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.grid import lies_on
from common.images import Preprocessing
from common.layers import hooked
from common.networks.loading import load_network
from common.networks.small_cnn import SmallCnn

SMALL = "small_cnn"
# What `forward_features` ends with, in timm's and our networks.
_LAST = ("bn2", "norm_head", "final_conv", "body")


@dataclass(frozen=True)
class Trunk:
    """A network without its classifier, and what is known of its last feature map.

    `layer` is the map's layer, None where the module's own `forward_features` ends there; `classifier` the linear layer
    that the network came with, where it reads the mean of the map. A trunk that isn't `pretrained` is trained whole.
    """

    module: nn.Module
    layer: str | None
    preprocessing: Preprocessing
    channels: int
    source: str
    classifier: nn.Linear | None = None
    pretrained: bool = True

    @property
    def layer_name(self) -> str:
        return layer_name(self.module, self.layer)

    def features(self, images: Tensor) -> Tensor:
        """The map after the last activation: (B,3,H,W) -> (B,K,h,w)."""
        return feature_map(self.module, self.layer, images)

    def first_trained(self, blocks: int | None) -> int | None:
        """The block that training begins at when it is asked to begin at `blocks`; None: the trunk stays as it is.

        timm's EfficientNets can be cut before any block; any other pretrained network stays as it is.
        """
        if blocks is None:
            return None
        if not self.pretrained:
            return 0
        parts = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
        if self.layer is not None or not all(hasattr(self.module, part) for part in parts):
            return None
        count = len(self.module.blocks)  # type: ignore[arg-type]
        if not 0 <= blocks <= count:
            raise UserError(f"the trunk has blocks 0 to {count}; cannot train it from {blocks}")
        return blocks

    def split(self, blocks: int | None) -> tuple[Callable[[Tensor], Tensor], nn.Sequential]:
        """Front, which stays as it is, and tail, which is trained from block `blocks` on: tail(front(images)) is A."""
        first = self.first_trained(blocks)
        if first is None:
            return self.features, nn.Sequential()
        if not self.pretrained:
            return nn.Identity(), nn.Sequential(self.module)
        net: Any = self.module
        front = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:first])
        return front, nn.Sequential(*net.blocks[first:], net.conv_head, net.bn2)

    def fingerprint(self, blocks: int | None, views: int) -> str:
        """What stored outputs of the front depend on: the weights, the preprocessing, the cut and the views."""
        cut = self.first_trained(blocks)
        return fingerprint(self.module, self.preprocessing, cut, self.layer, views)


def load_trunk(name: str, random_weights: bool = False) -> Trunk:
    """The trunk `name`: a network of `common.networks.loading.load_network`, or `small_cnn`, which knows nothing yet.

    Raises `UserError` for a network without a feature map (tokens, for example).
    """
    if name == SMALL:
        half = (0.5, 0.5, 0.5)
        preprocessing = Preprocessing((64, 64), half, half)
        small = SmallCnn().eval()
        return Trunk(small, None, preprocessing, SmallCnn.channels, "untrained", pretrained=False)
    network = load_network(name, random_weights=random_weights)
    module: Any = network.module
    classifier = module.get_classifier() if hasattr(module, "get_classifier") else getattr(module, "fc", None)
    layer = None
    if hasattr(module, "forward_features") and hasattr(module, "reset_classifier"):
        module.reset_classifier(0)
    else:
        layer = network.located().layer
    blank = network.blank()
    with torch.no_grad():
        maps = feature_map(module, layer, blank)
    if not isinstance(maps, Tensor) or maps.ndim != 4 or not lies_on(maps.shape[2:], blank.shape[2:]):
        raise UserError(f"'{name}' has tokens, not a feature map; a trunk is a convolutional network")
    channels = maps.shape[1]
    if random_weights or not isinstance(classifier, nn.Linear) or classifier.in_features != channels:
        classifier = None
    return Trunk(module, layer, network.preprocessing, channels, network.source, classifier)


def feature_map(module: nn.Module, layer: str | None, images: Tensor) -> Tensor:
    """The output of `layer` (None: of `forward_features`) for images (B,3,H,W): a map (B,K,h,w)."""
    if layer is None:
        return module.forward_features(images)  # type: ignore[operator]
    caught: list[Tensor] = []
    with hooked([module.get_submodule(layer)], lambda part, inputs, output: caught.append(output)):
        module(images)
    return caught[-1]


def layer_name(module: nn.Module, layer: str | None) -> str:
    """The layer of the last map as a model names it that holds the network as `trunk`: `trunk.layer4`."""
    if layer is None:
        layer = next((name for name, _ in reversed(list(module.named_children())) if name in _LAST), None)
    return "trunk" if layer is None else f"trunk.{layer}"


def fingerprint(module: nn.Module, *parts: object) -> str:
    """A hash of all weights of `module` and of `parts`: what stored features depend on."""
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
