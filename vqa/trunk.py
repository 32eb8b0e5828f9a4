"""The VQA model's trunk: a network by name without its classifier, or the small CNN for drawn images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from common.images import Preprocessing
from common.networks.loading import load_network
from common.networks.trunk import channels_of, feature_map, load_trunk, split_trunk
from common.training.loop import seed_everything
from vqa.small_cnn import SmallCnn

SMALL = "small_cnn"
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Trunk:
    """A trunk: its module, the layer whose map is A (None: `forward_features`), preprocessing and channels.

    `layer_name` is the map's layer as the model names it, for `--layer` and for what an explanation says.
    """

    module: nn.Module
    layer: str | None
    preprocessing: Preprocessing
    channels: int
    source: str
    classifier: nn.Linear | None = None  # the network's own, on the mean of the map

    def features(self, module: nn.Module, images: Tensor) -> Tensor:
        return feature_map(module, self.layer, images)

    def split(self, blocks: int | None) -> tuple[nn.Module, Any]:
        """Front (frozen; its output is stored) and tail (trained); the small CNN is trained whole."""
        if isinstance(self.module, SmallCnn):
            return _Pixels(self.module), _Whole(self.module)
        return split_trunk(self.module, self.layer, blocks)

    @property
    def layer_name(self) -> str:
        if self.layer is not None:
            return f"trunk.{self.layer}"
        last = [
            name
            for name, _ in self.module.named_children()
            if name in ("bn2", "norm_head", "final_conv", "body")
        ]
        return f"trunk.{last[-1]}" if last else "trunk"


class _Pixels(nn.Module):
    """A front that changes nothing: the images themselves are stored."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.blocks = module, 0

    def forward(self, images: Tensor) -> Tensor:
        return images


class _Whole(nn.Module):
    def __init__(self, module: SmallCnn):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module.forward_features(images)

    def trained(self) -> list[nn.Parameter]:
        return list(self.module.parameters())


def load(name: str, random_weights: bool = False, seed: int = 0) -> Trunk:
    """The trunk `name`: `small_cnn` (untrained, from `seed`), or any convolutional network of `load_network`."""
    if name == SMALL:
        seed_everything(seed, SMALL)
        return Trunk(SmallCnn(), None, Preprocessing((64, 64), _HALF, _HALF), SmallCnn.channels, "untrained")
    network, layer = load_trunk(name, random_weights)
    channels = channels_of(network.module, layer, network.blank())[0]
    classifier = None if random_weights else own_classifier(name, channels)
    return Trunk(network.module, layer, network.preprocessing, channels, network.source, classifier)


def own_classifier(name: str, channels: int) -> nn.Linear | None:
    """The classifier of the network `name`, where it is one linear layer on the mean of the map."""
    module: Any = load_network(name).module
    found = module.get_classifier() if hasattr(module, "get_classifier") else getattr(module, "fc", None)
    return found if isinstance(found, nn.Linear) and found.in_features == channels else None
