"""Which layers of a loaded network lie on the image, as feature maps or as tokens, and which one to explain.

In a transformer that is the last layer whose tokens all reach the scores: the normalisation that opens the last
block where the class is read off one token (behind that block, the patch tokens' gradient is zero), or the last
normalisation where the tokens are averaged (Swin).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.grid import TokenGrid, lies_on
from common.layers import CONVOLUTIONS, Forward, Layer, call_network, first_tensor, hooked, is_map_of
from common.state import ordinary, untouched
from common.targets import logits

PREFIXES = (0, 1, 2, 4, 5, 8, 9)  # numbers of class, distillation and register tokens that are looked for


@dataclass(frozen=True, eq=False)
class Reading:
    """What a layer gave in a pass, and how it lies on the images: the grid of its tokens, None for a feature map."""

    name: str
    module: nn.Module
    output: Tensor
    grid: TokenGrid | None

    def as_map(self, values: Tensor, images: Tensor) -> Tensor:
        """Values like the output, such as its gradient, as (B, K, h, w)."""
        return values if self.grid is None else self.grid.to_map(values, images)

    def layer(self, images: Tensor) -> Layer:
        _, K, h, w = self.as_map(self.output, images).shape
        return Layer(self.name, type(self.module).__name__, (K, h, w))


def readings(
    module: nn.Module, images: Tensor, forward: Forward | None = None, grid: TokenGrid | None = None
) -> tuple[list[Reading], Any]:
    """Every layer that lies on the images, in the order in which they finish, and the network's output.

    `grid` is tried first, then equal patches behind a few other tokens, then channels last.
    """
    found: dict[str, Reading] = {}
    names = {part: name for name, part in module.named_modules() if name}
    grids = [grid, *_grids(module)] if grid else _grids(module)

    def record(part: nn.Module, inputs: Any, output: Any) -> None:
        tensor, name = first_tensor(output), names[part]
        if tensor is None or not tensor.is_floating_point():
            return
        if tensor is not output and any(reading.output is tensor for reading in found.values()):
            return  # handed on among other things, such as its average, which may be all that is read
        is_map = is_map_of(module, name, tensor, images)
        fitting = [None] if is_map else [one for one in grids if one.fits(tensor, images)]
        if fitting:
            found[name] = Reading(name, part, tensor, fitting[0])

    with untouched(module), hooked(names, record):
        output = (forward or call_network(module))(images, None)
    return list(found.values()), output


def layers_on(
    module: nn.Module, images: Tensor, forward: Forward | None = None, grid: TokenGrid | None = None
) -> list[tuple[Layer, TokenGrid | None]]:
    """The layers that can be explained, with their maps' shapes (K, h, w) and the grids of their tokens."""
    with torch.no_grad():
        found, _ = readings(module, images, forward, grid)
    return [(reading.layer(images), reading.grid) for reading in found]


def find_layer(
    module: nn.Module, images: Tensor, forward: Forward | None = None, grid: TokenGrid | None = None
) -> tuple[str, TokenGrid | None] | None:
    """The last block or normalisation whose every position reaches the scores of `images`, and its tokens' grid.

    One pass and its gradient tell. None where no layer lies on the images.
    """
    leaf = ordinary(images).detach().requires_grad_()
    with untouched(module), torch.enable_grad():
        found, output = readings(module, leaf.clone(), forward, grid)
        scores = logits(output)
        found = [reading for reading in found if reading.output.requires_grad and _on_road(reading, images)]
        if not found or not scores.requires_grad:
            return None
        # What a NaN comes back to is read; a number would be lost on the way through weights that are zero.
        seed = torch.full_like(scores, float("nan"))
        slopes = torch.autograd.grad(scores, [one.output for one in found], seed, allow_unused=True)
    for one, slope in reversed(list(zip(found, slopes, strict=True))):
        if slope is not None and bool(one.as_map(slope, images).isnan().any(1).all()):
            return one.name, one.grid
    return None


def _on_road(reading: Reading, images: Tensor) -> bool:
    """Whether this is a block or a normalisation: on the network's main road, not in a branch of it."""
    whole = any(True for _ in reading.module.children()) or "norm" in type(reading.module).__name__.lower()
    return whole and (reading.grid is not None or lies_on(reading.output.shape[2:], images.shape[2:]))


def _grids(module: nn.Module) -> list[TokenGrid]:
    """Tokens behind ever more others, in patches of the proportions that the first convolution cuts; channels last."""
    strides = (part.stride for part in module.modules() if isinstance(part, CONVOLUTIONS))
    height, width = next(strides, (1, 1))
    patch = (height // math.gcd(height, width), width // math.gcd(height, width))
    return [*(TokenGrid(prefix, patch=patch) for prefix in PREFIXES), TokenGrid(layout="channels_last", patch=patch)]
