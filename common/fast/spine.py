"""Running a network again where only a window of the image changed: the early maps are recomputed in a crop.

Buys: 169 windows of occlusion cost 36 forward passes of EfficientNet-Lite0 on a CPU instead of 147.

The spine (see `common/fast/trace.py`) is copied, folded (see `common/fast/fold.py`) and run link by link. Each link
has, for each axis, a stride and a reach: output o depends on inputs s*o - before ... s*o + after and no
others. So a changed region of its input changes a known region of its output, and running the link on a crop
that holds what this region depends on gives it exactly; elsewhere the map is that of the unchanged image.
Once the crop is nearly the whole map, or a link isn't local, whole maps go through the rest.

Checked: reaches are measured with NaN, in the middle and along the borders (padding that mirrors, repeats or
goes round reaches further there), and each link that is cropped must give in crops what it gives in one
piece. Whoever uses a spine compares some of its outputs with the network's own as well.

B images, N windows of one image, K channels, H,W size of a map.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
_PROBE = 48  # side of the maps on which reaches are measured; at least this minus 16


@dataclass(frozen=True)
class Axis:
    """How a link maps one axis: output o depends on inputs stride*o - before ... stride*o + after."""

    stride: int
    before: int
    after: int
    inputs: int
    outputs: int

    def reached(self, at: int) -> slice:
        """The outputs that depend on input `at`."""
        return slice(max(0, -((self.after - at) // self.stride)), max(0, (at + self.before) // self.stride + 1))


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
    at = np.array(starts)
    lows = np.clip(-((axis.after - at) // s), 0, m - 1)
    highs = np.minimum(np.maximum((at + size - 1 + axis.before) // s + 1, lows + 1), m)
    part = int((highs - lows).max())
    lows = np.minimum(lows, m - part)
    # The crop starts at a multiple of the stride and ends where the map's size modulo the stride wants it, so
    # that the link's own padding falls on it as it falls on the whole map.
    firsts = np.minimum(np.maximum(lows * s - axis.before, 0), at) // s * s
    lasts = np.minimum(np.maximum((lows + part - 1) * s + axis.after + 1, at + size), n)
    crop = int((lasts - firsts).max())
    crop += (n - crop) % s
    return Step(np.minimum(firsts, n - crop).tolist(), crop, lows.tolist(), part, s)


@dataclass(frozen=True)
class Windows:
    """Where windows of one size (height, width) may lie: at every pair of a top and a left, in pixels."""

    tops: Sequence[int]
    lefts: Sequence[int]
    size: tuple[int, int]


class Spine:
    """The chain of links that an image runs through in `network`, ready to be run with windows covered.

    `build` gives None where there is no chain that is worth it. `steps` plan the links that run on crops.
    """

    def __init__(
        self, chain: list[Call], links: list[nn.Module], windows: Windows, steps: list[tuple[Step, Step]]
    ) -> None:
        self.modules = [call.module for call in chain]
        self.shapes = [call.output[0].shape for call in chain if call.output is not None]
        self.links, self.windows, self.steps = links, windows, steps

    @staticmethod
    def build(
        network: nn.Module, image: Tensor, run: Callable[[], Any], windows: Windows, end: str | None = None
    ) -> "Spine | None":
        """Find the spine in one pass: `run()` runs the network on `image` (1, 3, H, W), the very tensor.

        It ends with the last map, or with that of the layer `end`.
        """
        calls = trace(network, run)
        chain = _until(spine(calls, image), calls, None if end is None else network.get_submodule(end))
        if not chain:
            return None
        folded, _ = fold_traced(nn.Sequential(*[call.module for call in chain]), calls)
        copies: Any = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps = _plan([nn.Sequential(*group) for group in _groups(copies)], image, windows)
        if not steps:
            return None
        # Reaches are measured with NaN, which a fused ReLU may swallow; so this comes last.
        fuse(copies, trace(copies, lambda: copies(image)))
        return Spine(chain, [nn.Sequential(*group) for group in _groups(copies)], windows, steps)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The inputs of all links for an unchanged image (1, 3, H, W), and the output of the last."""
        maps = [image.to(memory_format=torch.channels_last)]
        for link in self.links:
            # A link may change its input in place; the map before it is kept.
            maps.append(link(maps[-1].clone()))
        return maps

    def covered(self, maps: list[Tensor], positions: Sequence[tuple[int, int]], patches: Sequence[Tensor]) -> Tensor:
        """The spine's output for N windows of one image, covered by a patch (3, height, width) each.

        `maps` are the image's own; `positions` index the tops and lefts of the windows.
        """
        changed = list(patches)
        at = [(self.windows.tops[i], self.windows.lefts[j]) for i, j in positions]
        for (y, x), link, base in zip(self.steps, self.links, maps, strict=False):
            corners = [(y.crop_starts[i], x.crop_starts[j]) for i, j in positions]
            out = link(_pasted(base, corners, (y.crop, x.crop), changed, at))
            at = [(y.starts[i], x.starts[j]) for i, j in positions]
            changed = [_part(one, y, x, corner, place) for one, corner, place in zip(out, corners, at, strict=True)]
        whole = maps[len(self.steps)]
        out = _pasted(whole, [(0, 0)] * len(positions), whole.shape[-2:], changed, at)
        for link in self.links[len(self.steps) :]:
            out = link(out)
        return out.contiguous()

    @contextlib.contextmanager
    def replaced(self, output: Tensor) -> Iterator[None]:
        """Inside, the network's own links do nothing, and the last of them gives `output` (N, ...).

        What stands before it gets tensors of the right shape without content.
        """
        empty = output.new_zeros(())
        results = [empty.expand(len(output), *shape[1:]) for shape in self.shapes[:-1]]
        queues: dict[nn.Module, list[Tensor]] = {}
        for module, result in zip(self.modules, [*results, output], strict=True):
            queues.setdefault(module, []).append(result)
        own = {module: module.__dict__.get("forward") for module in queues}
        try:
            for module, queue in queues.items():
                module.forward = _from_queue(queue, module.forward)  # type: ignore[method-assign]
            yield
        finally:
            for module, forward in own.items():
                del module.forward
                if forward is not None:
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


def _part(out: Tensor, y: Step, x: Step, corner: tuple[int, int], at: tuple[int, int]) -> Tensor:
    """What is new, at `at` of the whole map, in a link's output (K, h, w) for the crop at `corner`."""
    row, column = at[0] - corner[0] // y.stride, at[1] - corner[1] // x.stride
    return out[:, row : row + y.size, column : column + x.size]


def _until(chain: list[Call], calls: list[Call], end: nn.Module | None) -> list[Call]:
    """The chain up to its last feature map, or up to the output of `end`."""
    outputs = [call.output for call in chain if call.output is not None]
    if end is None:
        ends = [k for k, output in enumerate(outputs) if is_feature_map(output[0])]
    else:
        wanted = [call.output for root in calls for call in root.walk() if call.module is end]
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


def _plan(links: list[nn.Module], image: Tensor, windows: Windows) -> list[tuple[Step, Step]]:
    """Steps of the links from the first on, up to one that is not local or that crops don't pay for."""
    steps: list[tuple[Step, Step]] = []
    tops, lefts, (high, wide) = windows.tops, windows.lefts, windows.size
    before = image.to(memory_format=torch.channels_last)
    for link in links:
        if before.shape[-1] * before.shape[-2] < 64:
            break  # a map this small is not cropped
        after = link(before.clone())
        axes = _axes(link, before, after)
        if axes is None:
            break
        y, x = plan_step(axes[0], tops, high), plan_step(axes[1], lefts, wide)
        pays = y.crop * x.crop <= _PAYS * axes[0].inputs * axes[1].inputs
        if not pays or not _same_in_crops(link, before, after, axes):
            break
        steps.append((y, x))
        before, tops, lefts, high, wide = after, y.starts, x.starts, y.size, x.size
    return steps


def _same_in_crops(link: nn.Module, x: Tensor, y: Tensor, axes: tuple[Axis, Axis]) -> bool:
    """Whether a link gives the same wherever a crop lies: quarters of its input `x`, compared with `y`."""
    halves = [(axis.inputs + 1) // 2 for axis in axes]
    down, across = [plan_step(axis, (0, axis.inputs - half), half) for axis, half in zip(axes, halves, strict=True)]
    corners = list(itertools.product(down.crop_starts, across.crop_starts))
    out = link(_pasted(x, corners, (down.crop, across.crop), [x[0, :, :0, :0]] * len(corners), corners))
    allowed = (5e-3 if y.is_cuda else 100 * torch.finfo(y.dtype).eps) * y.abs().max()
    places = itertools.product(down.starts, across.starts)
    for one, corner, (row, column) in zip(out, corners, places, strict=True):
        expected = y[0, :, row : row + down.size, column : column + across.size]
        found = _part(one, down, across, corner, (row, column))
        if not bool(((found - expected).abs() <= allowed).all()):
            return False
    return True


def _axes(link: nn.Module, x: Tensor, y: Any) -> tuple[Axis, Axis] | None:
    """A link's axes, measured: which outputs become NaN when one input is NaN. None if it is not local."""
    if not isinstance(y, Tensor) or y.dim() != 4:
        return None
    sizes = list(zip(x.shape[-2:], y.shape[-2:], strict=True))
    strides = [max(1, round(before / after)) for before, after in sizes]
    small = [_PROBE - 16 + (n - _PROBE) % 16 if n > _PROBE else n for n in x.shape[-2:]]
    if any(16 % stride for stride in strides):
        small = list(x.shape[-2:])
    starts = [side // 2 // stride * stride for side, stride in zip(small, strides, strict=True)]
    pixels = [[(starts[0] + k, starts[1] + k)] for k in range(2 * max(strides))]
    blank = x.new_zeros(1, x.shape[1], *small)
    try:
        hit = _reached(link, blank, pixels)
        down = _axis(hit.any(2), starts[0], strides[0], *sizes[0])
        across = _axis(hit.any(1), starts[1], strides[1], *sizes[1])
        if down is None or across is None or not _ends_at_borders(link, blank, hit.shape[1:], down, across):
            return None
    except RuntimeError:
        return None  # it takes maps of one size only
    return down, across


def _reached(link: nn.Module, blank: Tensor, pixels: list[list[tuple[int, int]]]) -> Tensor:
    """Which outputs (n, h, w) of a link become NaN when these pixels of `blank` (1, K, H, W) are."""
    probe = blank.repeat(len(pixels), 1, 1, 1).to(memory_format=torch.channels_last)
    for one, places in zip(probe, pixels, strict=True):
        for row, column in places:
            one[:, row, column] = math.nan
    return link(probe).isnan().any(1)


def _ends_at_borders(link: nn.Module, blank: Tensor, outputs: Sequence[int], down: Axis, across: Axis) -> bool:
    """Whether pixels along the borders reach no outputs but those that the axes say."""
    H, W = blank.shape[-2:]
    pad = max(
        max(0, axis.before, axis.stride * (m - 1) + axis.after - (n - 1))
        for axis, m, n in zip((down, across), outputs, (H, W), strict=True)
    )
    if pad >= min(H, W) // 4:
        return False
    # One pixel at each border, at different places, so that none hides what comes from the opposite one.
    pixels = [[(k, W // 4), (H - 1 - k, 3 * W // 4), (H // 4, k), (3 * H // 4, W - 1 - k)] for k in range(pad + 1)]
    hit = _reached(link, blank, pixels)
    for reached, places in zip(hit, pixels, strict=True):
        for row, column in places:
            reached[down.reached(row), across.reached(column)] = False
    return not bool(hit.any())


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
