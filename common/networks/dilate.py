"""A finer feature map out of a trained network: late strides become dilations, weights stay.

Chen et al., DeepLab (ICLR 2015), the hole algorithm. H,W input, h,w map.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from common.networks.trunk import feature_map


def dilated(module: nn.Module, layer: str | None, blank: Tensor, stride: int = 8) -> nn.Module:
    """A copy of a network whose maps are nowhere coarser than the input over `stride`, up to `layer`.

    `blank` (1, 3, H, W) is an input it takes. A convolution or pooling that would reduce a map of that
    resolution moves by 1 instead, and what comes behind it is spread by as much, so that every unit sees the
    same positions as before, only more densely; a pooling of 2 becomes one of 3, as in DeepLab.
    """
    module = copy.deepcopy(module)
    finest = blank.shape[-1] // stride
    seen: dict[nn.Module, int] = {}
    parts = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))]

    def note(part: nn.Module, inputs: Any) -> None:
        seen.setdefault(part, inputs[0].shape[-1])

    hooks = [part.register_forward_pre_hook(note) for part in parts]
    try:
        with torch.no_grad():
            feature_map(module, layer, blank)
    finally:
        for hook in hooks:
            hook.remove()
    for part, side in seen.items():
        if 1 < side <= finest:  # 1: behind global pooling
            _spread(part, max(1, round(finest / side)))
    return module


def _spread(part: Any, factor: int) -> None:
    """Stride 1, and `factor` times as far between the inputs of one output."""
    if not isinstance(part, nn.Conv2d):
        if part.stride not in (1, (1, 1)):
            part.kernel_size, part.stride, part.padding = 3, 1, 1
        return
    part.stride = (1, 1)
    if part.kernel_size != (1, 1):
        part.dilation = tuple(factor * d for d in part.dilation)
        if not isinstance(part.padding, str):
            part.padding = tuple(factor * p for p in part.padding)
