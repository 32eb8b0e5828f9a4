"""Occlusion maps: the drop of a score when a grey window covers a position (paper, section 5.3).

T targets, B images, N windows of one image, H,W image; h,w window positions.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.explainable import Explainable
from common.fast.spine import Spine, Windows
from common.metrics.faithfulness import blurred
from common.state import ordinary, untouched
from common.targets import Target, score_table

_WORTH_A_PLAN = 24  # windows of all images together: fewer are done before a plan has paid for itself
# Allowed difference of scores from the plain definition: rounding, relative to the largest score, and a
# thousandth of the largest drop.
_ROUNDING = {torch.float64: 1e-10, torch.float32: 2e-5}
_OF_DROP = 1e-3

# What a network or a target may raise that is given more or fewer rows than it was made for: a slower way is
# taken then. Anything else is a mistake in it, and the caller's to see.
_CANNOT = (RuntimeError, ValueError, IndexError, AssertionError)

Position = tuple[int, int]  # row and column of a window


@dataclass(frozen=True)
class OcclusionOptions:
    """What is covered, and how it is computed.

    `window` and `stride` are in pixels of the model's input; windows lie within the image, the first at its top left
    corner. `fill` is the window's value in the model's input, after normalisation: one number, or one for each channel.
    0 is mid-grey for EfficientNet-Lite and the mean colour of ImageNet for models normalised by its statistics; "blur"
    is the image without detail, by a Gaussian of a third of the window. `batch` is how many windows run at once
    (default: on a CPU, where large batches are slower, 8, or 4 for whole networks; 64 elsewhere). `fast=False` runs the
    whole network, unchanged, for each window; the maps are the same up to rounding.
    """

    window: int = 32
    stride: int = 16
    fill: float | tuple[float, ...] | Literal["blur"] = 0.0
    batch: int | None = None
    fast: bool = True


def occlusion(
    explainable: Explainable,
    images: Tensor,
    targets: Sequence[Target],
    query: Any = None,
    options: OcclusionOptions | None = None,
) -> Tensor:
    """Drop of each target's score (T, B, h, w) at each window position, negative where the score rises.

    h = (H - window) // stride + 1, and w likewise. The quick ways (a folded copy of the trunk, early maps recomputed
    only where a window reaches, several windows in one batch) are taken where they agree with running the whole network
    on the covered images: each part of the trunk is looked at along its borders and all over its map
    (`common/fast/spine.py`), rows of a batch must not depend on each other, and scores are compared for every image, at
    windows that change it. Otherwise a slower way is taken. Raises `UserError` for a window that does not fit.
    """
    options = options or OcclusionOptions()
    with untouched(explainable.network), torch.no_grad():
        task = _Task(explainable, ordinary(images), targets, query, options)
        _, drops = _exact(task)
    return drops.unflatten(-1, (len(task.windows.tops), len(task.windows.lefts)))


class _Task:
    """One call's arguments, its windows, and how the covered images are scored by definition."""

    def __init__(
        self, explainable: Explainable, images: Tensor, targets: Sequence[Target], query: Any, options: OcclusionOptions
    ) -> None:
        self.explainable, self.images, self.targets, self.query = explainable, images, targets, query
        self.options = options
        _check(options, images)
        tops, lefts = [range(0, side - options.window + 1, options.stride) for side in images.shape[-2:]]
        self.windows = Windows(tops, lefts, (options.window,) * 2)
        self.positions = list(itertools.product(range(len(tops)), range(len(lefts))))
        self.filled = _filled(images, options)
        # (B, N): how much a window changes an image, the mean over its pixels.
        change = (images - self.filled).abs().sum(1, keepdim=True).float()
        self.change = F.avg_pool2d(change, options.window, options.stride).flatten(1)

    def patch(self, position: Position, image: int | slice = slice(None)) -> Tensor:
        """What covers the window at `position` of an image, or of all: (..., 3, window, window)."""
        top, left = self.windows.tops[position[0]], self.windows.lefts[position[1]]
        return self.filled[image, ..., top : top + self.options.window, left : left + self.options.window]

    def cover(self, images: Tensor, position: Position, image: int | slice = slice(None)) -> None:
        """Cover the window in `images` (..., 3, H, W), which are of one image or of all, in place."""
        top, left = self.windows.tops[position[0]], self.windows.lefts[position[1]]
        window = self.options.window
        images[..., top : top + window, left : left + window] = self.patch(position, image)

    def samples(self) -> list[int]:
        """Two windows at least, by number, one of them in a corner; each image that any changes is changed."""
        worth = self.change / self.change.amax(1, keepdim=True).clamp(min=1e-30)
        bottom, right = len(self.windows.tops) - 1, len(self.windows.lefts) - 1
        corners = [self.positions.index(corner) for corner in itertools.product((0, bottom), (0, right))]
        first = max(corners, key=lambda window: float(worth[:, window].mean()))
        others = worth.mean(0)
        others[first] = -1
        found = [first, int(others.argmax())]
        for row in worth:
            if row[found].max() < min(0.1, row.max()):
                found.append(int(row.argmax()))
        return list(dict.fromkeys(found))

    def batch(self, on_cpu: int) -> int:
        return self.options.batch or (on_cpu if self.images.device.type == "cpu" else 64)

    def plain(self, position: Position | None = None) -> Tensor:
        """Scores (T, B) of all images, each covered at `position`."""
        images = self.images.clone()
        if position is not None:
            self.cover(images, position)
        return score_table(self.targets, self.explainable.forward(images, self.query), len(images))


class _Plain:
    """The definition: all images at once, as they were given, one window after the other."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.known: dict[Position | None, Tensor] = {}

    def base(self, image: int) -> Tensor:
        return self._scores(None)[:, image]

    def windows(self, image: int, positions: Sequence[Position]) -> Tensor:
        return torch.stack([self._scores(position)[:, image] for position in positions], 1)

    def _scores(self, position: Position | None) -> Tensor:
        if position not in self.known:
            self.known[position] = self.task.plain(position)
        return self.known[position]


class _Batched:
    """Several windows of one image at once, through the whole network; `rows` makes query and targets fit."""

    def __init__(self, task: _Task, rows: Rows) -> None:
        self.task, self.rows, self.batch = task, rows, task.batch(4)

    def base(self, image: int) -> Tensor:
        return self._scores(image, [None])[:, 0]

    def windows(self, image: int, positions: Sequence[Position]) -> Tensor:
        parts = [positions[k : k + self.batch] for k in range(0, len(positions), self.batch)]
        return torch.cat([self._scores(image, part) for part in parts], 1)

    def beside_another(self, image: int, positions: Sequence[Position]) -> Tensor:
        """Scores in one batch, with a very different input behind them, which must not make a difference."""
        return self._scores(image, positions, another=True)[:, : len(positions)]

    def _scores(self, image: int, positions: Sequence[Position | None], another: bool = False) -> Tensor:
        images = self.task.images[[image] * len(positions)]
        for covered, position in zip(images, positions, strict=True):
            if position is not None:
                self.task.cover(covered, position, image)
        return self._scored(image, torch.cat([images, _unlike(images[:1])]) if another else images)

    def _scored(self, image: int, images: Tensor) -> Tensor:
        task, chosen = self.task, [image] * len(images)
        query = self.rows(task.query, chosen, len(task.images))
        targets = self.rows(list(task.targets), chosen, len(task.images))
        return score_table(targets, task.explainable.forward(images, query), len(images))


class _Cropped(_Batched):
    """The trunk by its spine, early maps in crops (see `common/fast/spine.py`); what is behind it as it is."""

    def __init__(self, task: _Task, rows: Rows, spine: Spine) -> None:
        super().__init__(task, rows)
        self.spine, self.batch = spine, task.batch(8)
        self.maps: tuple[int, list[Tensor]] = (-1, [])

    def _scores(self, image: int, positions: Sequence[Position | None], another: bool = False) -> Tensor:
        task = self.task
        if self.maps[0] != image:
            self.maps = image, self.spine.maps(task.images[image : image + 1])
        maps = self.maps[1]
        windows = [position for position in positions if position is not None]
        patches = [task.patch(window, image) for window in windows]
        output = self.spine.covered(maps, windows, patches) if windows else maps[-1]
        if another:
            output = torch.cat([output, _unlike(output[:1])])
        with self.spine.replaced(output):
            return self._scored(image, task.images[image : image + 1].expand(len(output), -1, -1, -1))


def _unlike(one: Tensor) -> Tensor:
    # Not negative where the original isn't: what stands behind may take roots or logarithms of it.
    return 2 * one.flip(-1) + 1


def _exact(task: _Task) -> tuple[_Plain | _Batched, Tensor]:
    """The quickest way that agrees with the definition at sampled windows of each image, and its drops (T, B, N)."""
    plain = _Plain(task)
    if len(task.positions) > 2:
        samples = task.samples()
        positions = [task.positions[window] for window in samples]
        expected = torch.stack([plain.windows(b, positions) for b in range(len(task.images))], 1)
        shown = int(task.change.amax(1).argmax())
        for way in _quicker_ways(task, shown):
            if _can(way, shown, positions, expected[:, shown]):
                base, scores = _all_windows(way, task)
                drop = (base - scores).abs().max()
                if _agrees(scores[..., samples], expected, drop):
                    return way, base - scores
    base, scores = _all_windows(plain, task)
    return plain, base - scores


def _all_windows(way: _Plain | _Batched, task: _Task) -> tuple[Tensor, Tensor]:
    """Scores of the images as they are (T, B, 1), and of each covered at each position (T, B, N)."""
    rows = range(len(task.images))
    base = torch.stack([way.base(b) for b in rows], 1)
    return base[..., None], torch.stack([way.windows(b, task.positions) for b in rows], 1)


def _quicker_ways(task: _Task, shown: int) -> Iterator[_Batched]:
    if task.options.fast and len(task.positions) * len(task.images) >= _WORTH_A_PLAN:
        # Up to the last map; or, for a head that reads an earlier one, up to the layer of the split.
        for end in (None, task.explainable.layer):
            for rows in _ROWS:
                spine = _spine(task, rows, shown, end)
                if spine is not None:
                    yield _Cropped(task, rows, spine)
    for rows in _ROWS:
        yield _Batched(task, rows)


def _spine(task: _Task, rows: Rows, shown: int, end: str | None) -> Spine | None:
    image = task.images[shown : shown + 1].clone()
    query = rows(task.query, [shown], len(task.images))
    model = task.explainable
    try:
        return Spine.build(model.network, image, lambda: model.forward(image, query), task.windows, end)
    except _CANNOT:
        return None


def _can(way: _Batched, image: int, positions: list[Position], expected: Tensor) -> bool:
    """Whether a way works at all, and its rows do not depend on each other: before it does all windows."""
    try:
        found = way.beside_another(image, positions)
    except _CANNOT:
        return False
    return _agrees(found, expected, (way.base(image)[:, None] - expected).abs().max())


def _agrees(found: Tensor, expected: Tensor, drop: Tensor) -> bool:
    """Whether scores differ by rounding only; `drop` is the largest drop there is."""
    rounding = max(_ROUNDING.get(expected.dtype, 2e-2), 5e-3 if expected.is_cuda else 0)  # CUDA: TF32
    allowed = rounding * expected.abs().max() + _OF_DROP * drop
    return bool(((found - expected).abs() <= allowed).all())


def select_rows(value: Any, rows: Sequence[int], count: int, axis: int = 0) -> Any:
    """A batch of `count` made into one of its `rows`, which may repeat.

    Tensors by their axis `axis`, or by their first if they have no more than two; lists of text by their
    items; other tuples and lists, mappings and dataclasses by their parts. Anything else is the same for all.
    """
    if isinstance(value, Tensor):
        axis = axis if value.dim() > 2 else 0
        fits = value.dim() > axis and value.shape[axis] == count
        return value.index_select(axis, torch.tensor(rows, device=value.device)) if fits else value
    if isinstance(value, (tuple, list)):
        if len(value) == count and value and all(isinstance(part, str) for part in value):
            return type(value)(value[row] for row in rows)
        parts = [select_rows(part, rows, count, axis) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, MutableMapping):
        twin = copy.copy(value)
        twin.update((key, select_rows(part, rows, count, axis)) for key, part in value.items())
        return twin
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **select_rows(own, rows, count, axis))
    return value


Rows = Callable[[Any, Sequence[int], int], Any]
# Ways to make query and targets of B images fit N windows of one; `_agrees` finds out which is right. Captions
# are (S, B, L), several sequences for each image; and what is the same for all stays as it is.
_ROWS: tuple[Rows, ...] = (select_rows, partial(select_rows, axis=1), lambda value, rows, count: value)


def _filled(images: Tensor, options: OcclusionOptions) -> Tensor:
    """What windows show of each image where they cover it (B, 3, H, W)."""
    if options.fill == "blur":
        return blurred(images, options.window / 3)
    return images.new_tensor(options.fill).expand(images.shape[1])[:, None, None].expand_as(images)


def _check(options: OcclusionOptions, images: Tensor) -> None:
    H, W = images.shape[-2:]
    if not 1 <= options.window <= min(H, W):
        raise UserError(
            f"an occlusion window of {options.window} does not fit images of {H}x{W}; give 1 to {min(H, W)}"
        )
    if options.stride < 1 or (options.batch is not None and options.batch < 1):
        raise UserError(f"occlusion stride {options.stride} and batch {options.batch} are at least 1")
    if isinstance(options.fill, str) and options.fill != "blur":
        raise UserError(f"the occlusion fill is '{options.fill}'; give a number, one for each channel, or 'blur'")
    if isinstance(options.fill, tuple) and len(options.fill) not in (1, images.shape[1]):
        raise UserError(f"the occlusion fill {options.fill} has neither one value nor {images.shape[1]}, one a channel")
