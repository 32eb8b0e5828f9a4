"""VGG's head on another network's convolutions: max-pooling and hidden layers with ReLUs behind the last map.

Behind average pooling and one linear layer, as today's networks end, many methods are one and the same map: the
gradient is equal at every position, and no ReLU stands between it and the score. The published experiments are of
networks with hidden layers there (VGG-16, AlexNet), and so is this one: the convolutions of EfficientNet-Lite0 as they
are, and a head that was trained to say what Lite0 says (`saywhy train vgg-head`).

B images, K channels, C classes, h,w the last map.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

SHIPPED = Path(__file__).parents[2] / "data" / "checkpoints" / "vgg_head.safetensors"
BASE = "efficientnet_lite0"
POOLED, HIDDEN = 3, 384  # positions a side that fc6 reads; units of each hidden layer


def pooled(maps: Tensor) -> Tensor:
    """The largest value of each channel (B, K, h, w) in 3 x 3 overlapping parts: (B, K, 3, 3)."""
    return F.adaptive_max_pool2d(maps, POOLED)


def hidden_layers(channels: int, classes: int) -> nn.Sequential:
    """Logits (B, C) of what is `pooled`, flattened: layers as VGG's are named (Simonyan & Zisserman 2015)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, before in ((6, channels * POOLED**2), (7, HIDDEN)):
        layers[f"fc{number}"] = nn.Linear(before, HIDDEN)
        layers[f"relu{number}"] = nn.ReLU()
    layers["fc8"] = nn.Linear(HIDDEN, classes)
    return nn.Sequential(layers)


def with_vgg_head(network: nn.Module, classes: int = 1000) -> nn.Module:
    """A network of timm with such a head in the place of its own, untrained. Raises `UserError` for others."""
    last: Any = getattr(network, "classifier", None)
    if not isinstance(last, nn.Linear) or not hasattr(network, "global_pool"):
        raise UserError(f"{type(network).__name__} has no pooling and linear layer that a head could take the place of")
    network.global_pool = nn.Sequential(nn.AdaptiveMaxPool2d(POOLED), nn.Flatten())
    network.classifier = hidden_layers(last.in_features, classes)
    return network
