"""A trunk: a network without its classifier, whose last feature map the heads of the captioner and the VQA model read.

    trunk = load_trunk("efficientnet_lite0")
    A = trunk.features(images)        # (B,3,H,W) -> (B,K,h,w), after the last activation
    front, tail = trunk.split(5)      # the front stays as it is, so its output can be stored; the tail is trained
    seeing = SeeingTrunk.of(trunk, ["dog", "grass"], counted=1)
    seeing.summary(A)                 # (B,E+C): which concepts are there, and how many things of the counted ones

Letters: B images, K channels, h,w map, E concepts, C of which are counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.grid import lies_on
from common.images import Preprocessing
from common.layers import hooked
from common.networks.evidence import Evidence
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


class SeeingTrunk(nn.Module):
    """A trunk that says what is in an image: a network and the evidence on its last map.

    A head reads its `summary` alone. `map_layer` is the map's layer in the network (None: what its
    `forward_features` returns); `fingerprint` tells trunks of different weights or concepts apart, and is empty for
    one that is in no file.
    """

    fingerprint = ""

    def __init__(
        self,
        network: nn.Module,
        evidence: Evidence,
        preprocessing: Preprocessing,
        map_layer: str | None = None,
        source: str = "the caller's",
    ):
        super().__init__()
        self.network, self.evidence = network, evidence
        self.preprocessing, self.map_layer, self.source = preprocessing, map_layer, source

    @classmethod
    def of(cls, trunk: Trunk, words: Sequence[str], counted: int = 0) -> SeeingTrunk:
        """A trunk with evidence of `words` that knows nothing yet."""
        evidence = Evidence(trunk.channels, words, counted)
        return cls(trunk.module, evidence, trunk.preprocessing, trunk.layer, trunk.source)

    @property
    def layer(self) -> str:
        """The layer of the last map: `network.bn2`."""
        return layer_name(self.network, self.map_layer, "network")

    @property
    def channels(self) -> int:
        """K, the channels of the last map."""
        return self.evidence.channels

    def features(self, images: Tensor) -> Tensor:
        """The map after the last activation: (B,3,H,W) -> (B,K,h,w)."""
        return feature_map(self.network, self.map_layer, images)

    def summary(self, features: Tensor) -> Tensor:
        """All that is told of the images: (B,K,h,w) -> (B,E+C); see `Evidence.summary`."""
        return self.evidence.summary(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.summary(self.features(images))

    def same_as(self, other: SeeingTrunk) -> bool:
        """Whether what one of the two says of an image is what the other says of it."""
        return self is other or bool(self.fingerprint) and self.fingerprint == other.fingerprint


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


def layer_name(module: nn.Module, layer: str | None, held_as: str = "trunk") -> str:
    """The layer of the last map as a model names it that holds the network as `trunk`: `trunk.layer4`."""
    if layer is None:
        layer = next((name for name, _ in reversed(list(module.named_children())) if name in _LAST), None)
    return held_as if layer is None else f"{held_as}.{layer}"


def fingerprint(module: nn.Module, *parts: object) -> str:
    """A hash of all weights of `module` and of `parts`: what stored features depend on."""
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
