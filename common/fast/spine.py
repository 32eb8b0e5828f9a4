"""Running a network again where only a window of the image changed: the early maps are recomputed in a crop.

The spine (see `common/fast/trace.py`) is copied, folded (see `common/fast/fold.py`) and run link by link. Each link
has, for each axis, a stride and a reach: output o depends on inputs s*o - before ... s*o + after and no
others. So a changed region of its input changes a known region of its output, and running the link on a crop
that holds what this region depends on gives it exactly; elsewhere the map is that of the unchanged image.
Once the crop is nearly the whole map, whole maps go through the rest.

B images, N windows of one image, K channels, H,W size of a map.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.fast.fold import FoldedNorm, fold_traced
from common.fast.fuse import fuse
from common.fast.trace import Call, same, spine, trace
from common.layers import is_feature_map

_PAYS = 0.7  # a crop of more than this share of the map is not worth the copying
_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.BatchNorm2d, FoldedNorm,
    nn.Identity, nn.Dropout,
)  # fmt: skip
_PROBE = 64  # side of the maps on which reaches are measured; at least this minus 16


@dataclass(frozen=True)
class Axis:
    """How a link maps one axis: output o depends on inputs stride*o - before ... stride*o + after."""

    stride: int
    before: int
    after: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Step:
    """One axis of a link, planned for all windows: the crop it takes, and the part of its output that is new.

    Crop and part have one size for all windows, so that windows can be batched; they shift to fit at borders.
    """

    crop_starts: list[int]
    crop: int
    starts: list[int]
    size: int
    stride: int


def plan_step(axis: Axis, starts: Sequence[int], size: int) -> Step:
    """Plan a link for changed regions [start, start + size) of its input."""
    s, n, m = axis.stride, axis.inputs, axis.outputs
    lows = [min(max(0, -((axis.after - start) // s)), m - 1) for start in starts]
    highs = [
        min(m, max((start + size - 1 + axis.before) // s + 1, low + 1))
        for start, low in zip(starts, lows, strict=True)
    ]
    part = max(high - low for low, high in zip(lows, highs, strict=True))
    lows = [min(low, m - part) for low in lows]
    # The crop starts at a multiple of the stride and ends where the map's size modulo the stride wants it, so
    # that the link's own padding falls on it as it falls on the whole map.
    firsts = [
        min(max(0, low * s - axis.before), start) // s * s for low, start in zip(lows, starts, strict=True)
    ]
    lasts = [
        min(n, max((low + part - 1) * s + axis.after + 1, start + size))
        for low, start in zip(lows, starts, strict=True)
    ]
    crop = max(last - first for first, last in zip(firsts, lasts, strict=True))
    crop += (n - crop) % s
    return Step([min(first, n - crop) for first in firsts], crop, lows, part, s)


class Spine:
    """The chain of links that an image runs through in `network`, ready to be run with windows covered.

    `build` gives None where there is no chain that is worth it.
    """

    def __init__(
        self, modules: list[nn.Module], shapes: list[torch.Size], links: list[nn.Module], axes: list[Any]
    ):
        self.modules, self.shapes, self.links, self.axes = modules, shapes, links, axes

    @staticmethod
    def build(
        network: nn.Module, image: Tensor, run: Callable[[], Any], end: str | None = None
    ) -> "Spine | None":
        """Find the spine in one pass: `run()` runs the network on `image` (1, 3, H, W), the very tensor.

        It ends with the last map, or with that of the layer `end`.
        """
        calls = trace(network, run)
        chain = _until(spine(calls, image), calls, None if end is None else network.get_submodule(end))
        if not chain:
            return None
        modules = [call.module for call in chain]
        shapes = [call.output[0].shape for call in chain if call.output is not None]
        folded, _ = fold_traced(nn.Sequential(*modules), calls)
        del calls, chain
        copies: Any = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = _groups(copies)
        axes = _measure([nn.Sequential(*group) for group in groups], image)
        if not axes:
            return None
        # Reaches are measured with NaN, which a fused ReLU may swallow; so this comes last.
        fuse(copies, trace(copies, lambda: copies(image)))
        return Spine(modules, shapes, [nn.Sequential(*group) for group in _groups(copies)], axes)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The inputs of all links for an unchanged image (1, 3, H, W), and the output of the last."""
        maps = [image.to(memory_format=torch.channels_last)]
        for link in self.links:
            # A link may change its input in place; the map before it is kept.
            maps.append(link(maps[-1].clone()))
        return maps

    def plan(
        self, tops: Sequence[int], lefts: Sequence[int], window: tuple[int, int]
    ) -> list[tuple[Step, Step]]:
        """Steps of the links that are run on crops, for windows at all (top, left)."""
        steps: list[tuple[Step, Step]] = []
        (high, wide) = window
        for down, across in self.axes:
            y, x = plan_step(down, tops, high), plan_step(across, lefts, wide)
            if y.crop * x.crop > _PAYS * down.inputs * across.inputs:
                break
            steps.append((y, x))
            tops, lefts, high, wide = y.starts, x.starts, y.size, x.size
        return steps

    def covered(
        self,
        maps: list[Tensor],
        steps: list[tuple[Step, Step]],
        tops: Sequence[int],
        lefts: Sequence[int],
        positions: Sequence[tuple[int, int]],
        patch: Tensor,
    ) -> Tensor:
        """The spine's output for N windows of one image, covered by `patch` (3, height, width).

        `positions` index `tops` and `lefts`, for which `steps` were planned.
        """
        changed = [patch] * len(positions)
        at = [(tops[i], lefts[j]) for i, j in positions]
        for (y, x), link, base in zip(steps, self.links, maps, strict=False):
            corners = [(y.crop_starts[i], x.crop_starts[j]) for i, j in positions]
            out = link(_pasted(base, corners, (y.crop, x.crop), changed, at))
            at = [(y.starts[i], x.starts[j]) for i, j in positions]
            changed = []
            for part, (top, left), (row, column) in zip(out, corners, at, strict=True):
                row, column = row - top // y.stride, column - left // x.stride
                changed.append(part[:, row : row + y.size, column : column + x.size])
        whole = maps[len(steps)]
        out = _pasted(whole, [(0, 0)] * len(positions), whole.shape[-2:], changed, at)
        for link in self.links[len(steps) :]:
            out = link(out)
        return out.contiguous()

    @contextlib.contextmanager
    def replaced(self, output: Tensor) -> Iterator[None]:
        """Inside, the network's own links do nothing, and the last of them gives `output` (N, ...).

        What stands before it gets tensors of the right shape without content.
        """
        empty = output.new_zeros(())
        results: list[Tensor] = [empty.expand(len(output), *shape[1:]) for shape in self.shapes[:-1]]
        queues: dict[nn.Module, list[Tensor]] = {module: [] for module in self.modules}
        for module, result in zip(self.modules, [*results, output], strict=True):
            queues[module].append(result)
        own = {module: module.__dict__.get("forward") for module in queues}
        try:
            for module, queue in queues.items():
                module.forward = _from_queue(queue, module.forward)  # type: ignore[method-assign]
            yield
        finally:
            for module, forward in own.items():
                if forward is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.forward = forward  # type: ignore[method-assign]


def _from_queue(queue: list[Tensor], forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: queue.pop(0) if queue else forward(*args, **kwargs)


def _pasted(
    base: Tensor,
    corners: Sequence[tuple[int, int]],
    size: Sequence[int],
    changed: Sequence[Tensor],
    at: Sequence[tuple[int, int]],
) -> Tensor:
    """Crops of `base` (1, K, H, W) at `corners`, (N, K, *size), with what changed pasted in."""
    high, wide = size
    shape = (len(corners), base.shape[1], high, wide)
    out = torch.empty(shape, dtype=base.dtype, device=base.device, memory_format=torch.channels_last)
    for crop, (top, left), patch, (row, column) in zip(out, corners, changed, at, strict=True):
        if patch.shape[-2:] != crop.shape[-2:]:
            crop.copy_(base[0, :, top : top + high, left : left + wide])
        row, column = row - top, column - left
        crop[:, row : row + patch.shape[-2], column : column + patch.shape[-1]] = patch
    return out


def _until(chain: list[Call], calls: list[Call], end: nn.Module | None) -> list[Call]:
    """The chain up to its last feature map, or up to the output of `end`."""
    outputs = [call.output for call in chain if call.output is not None]
    if end is None:
        ends = [k for k, output in enumerate(outputs) if is_feature_map(output[0])]
    else:
        wanted = [call.output for root in calls for call in root.walk() if call.module is end and call.output]
        ends = [k for k, output in enumerate(outputs) if any(same(output, one) for one in wanted)]
    return chain[: ends[-1] + 1] if ends else []


def _groups(links: nn.Sequential) -> list[list[nn.Module]]:
    """Activations joined to the link before them."""
    groups: list[list[nn.Module]] = []
    for link in links:
        if groups and isinstance(link, _POINTWISE):
            groups[-1].append(link)
        else:
            groups.append([link])
    return groups


def _measure(links: list[nn.Module], image: Tensor) -> list[tuple[Axis, Axis]]:
    """Both axes of each link, up to the first that is not local."""
    axes = []
    x = image.to(memory_format=torch.channels_last)
    for link in links:
        if x.shape[-1] * x.shape[-2] < 64:
            break  # a map this small is not cropped
        y = link(x.clone())
        pair = _axes(link, x, y)
        if pair is None:
            break
        axes.append(pair)
        x = y
    return axes


def _axes(link: nn.Module, x: Tensor, y: Any) -> tuple[Axis, Axis] | None:
    """A link's axes, measured: which outputs become NaN when one input is NaN. None if it is not local."""
    if not isinstance(y, Tensor) or y.dim() != 4:
        return None
    sizes = list(zip(x.shape[-2:], y.shape[-2:], strict=True))
    strides = [max(1, round(before / after)) for before, after in sizes]
    small = [_PROBE - 16 + (n - _PROBE) % 16 if n > _PROBE else n for n in x.shape[-2:]]
    if any(16 % stride for stride in strides):
        small = list(x.shape[-2:])
    count = 2 * max(strides)
    starts = [side // 2 // stride * stride for side, stride in zip(small, strides, strict=True)]
    probe = x.new_zeros(count, x.shape[1], *small).to(memory_format=torch.channels_last)
    for k in range(count):
        probe[k, :, starts[0] + k, starts[1] + k] = math.nan
    try:
        hit = link(probe).isnan().any(1)
    except RuntimeError:
        return None  # it takes maps of one size only
    down = _axis(hit.any(2), starts[0], strides[0], *sizes[0])
    across = _axis(hit.any(1), starts[1], strides[1], *sizes[1])
    return None if down is None or across is None else (down, across)


def _axis(hit: Tensor, first: int, stride: int, inputs: int, outputs: int) -> Axis | None:
    """One axis from `hit` (pixels, outputs): whether input first + k reaches output o."""
    reach: list[tuple[int, int] | None] = []
    for row in hit:
        found = row.nonzero().flatten().tolist()
        reach.append((found[0], found[-1]) if found else None)
    seen = [pair for pair in reach if pair is not None]
    if not seen or any(low == 0 or high == hit.shape[1] - 1 for low, high in seen):
        return None  # as far as the border: everything depends on everything
    later = [None if pair is None else (pair[0] + 1, pair[1] + 1) for pair in reach[:-stride]]
    if later != reach[stride:]:
        return None  # no regular stride
    before = max(stride * pair[1] - first - k for k, pair in enumerate(reach) if pair is not None)
    after = max(first + k - stride * pair[0] for k, pair in enumerate(reach) if pair is not None)
    return Axis(stride, before, after, inputs, outputs)
