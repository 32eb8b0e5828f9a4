"""Where the tokens of a chat model lie on the photograph.

Such a model reads an image in views: the whole photograph, squashed or cropped, and tiles of it, each a grid of
tokens, row by row. A view is a grid over a box of the photograph; a layout lists the views in the order of their
tokens, and leaves out tokens that have no place, such as the one that ends each row in LLaVA-NeXT.

    >>> layout = Layout((View(1, 2), View(2, 2, after_row=1)))     # the whole, then four quarters, rows ended
    >>> layout.places
    (0, 1, 2, 3, 5, 6)
    >>> layout.canvas, layout.place(torch.ones(1, 6)).tolist()     # each token's value, shared out over its box
    ((2, 2), [[[1.5, 1.5], [1.5, 1.5]]])

N tokens, n of them with a place, T maps, h,w canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class View:
    """A grid of rows x columns tokens over a box of the photograph.

    `box` is (left, top, right, bottom) in shares of the photograph's sides; it reaches beyond 0..1 where the model's
    view does, into padding. `before` tokens without a place come first, `after_row` behind each row.
    """

    rows: int
    columns: int
    box: Box = WHOLE
    before: int = 0
    after_row: int = 0

    def __len__(self) -> int:
        return self.before + self.rows * (self.columns + self.after_row)

    @property
    def places(self) -> list[int]:
        """The numbers of the tokens that have a place, counted within the view."""
        starts = range(self.before, len(self), self.columns + self.after_row)
        return [start + column for start in starts for column in range(self.columns)]

    def token_box(self, row: int, column: int) -> Box:
        """What one token sees: (left, top, right, bottom) in shares of the photograph's sides."""
        left, top, right, bottom = self.box
        wide, high = (right - left) / self.columns, (bottom - top) / self.rows
        return left + column * wide, top + row * high, left + (column + 1) * wide, top + (row + 1) * high


@dataclass(frozen=True)
class Layout:
    """The views of one photograph, in the order of their tokens; `about` says what they show, for people."""

    views: tuple[View, ...]
    about: str = ""

    def __len__(self) -> int:
        return sum(map(len, self.views))

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The numbers of the n tokens that have a place."""
        found: list[int] = []
        start = 0
        for view in self.views:
            found += [start + place for place in view.places]
            start += len(view)
        return tuple(found)

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """What each of the n tokens sees of the photograph."""
        return tuple(
            view.token_box(row, column)
            for view in self.views
            for row in range(view.rows)
            for column in range(view.columns)
        )

    @cached_property
    def canvas(self) -> tuple[int, int]:
        """(h, w): as fine as the finest view, over the whole photograph."""
        rows = [view.rows / (view.box[3] - view.box[1]) for view in self.views]
        columns = [view.columns / (view.box[2] - view.box[0]) for view in self.views]
        return max(1, round(max(rows))), max(1, round(max(columns)))

    def place(self, values: Tensor) -> Tensor:
        """Values (T, n) of the tokens on the photograph (T, h, w): each shared out evenly over the token's box.

        Views that overlap add up, so a map's sum is that of its tokens, and what no view shows is 0.
        """
        h, w = self.canvas
        total = values.new_zeros(len(values), h, w)
        sizes = [view.rows * view.columns for view in self.views]
        for view, part in zip(self.views, values.split(sizes, 1), strict=True):
            left, top, right, bottom = view.box
            down = _shares(view.rows, top, bottom, h).to(values)
            across = _shares(view.columns, left, right, w).to(values)
            grid = part.unflatten(1, (view.rows, view.columns))
            total = total + torch.einsum("hr,trc,wc->thw", down, grid, across)
        return total

    def read(self, maps: Tensor) -> Tensor:
        """What maps (T, h, w) of the photograph say of each of the n tokens (T, n): the mean over what it sees."""
        found = []
        for view in self.views:
            left, top, right, bottom = view.box
            down, across = (
                _means(maps.shape[1], top, bottom, view.rows),
                _means(maps.shape[2], left, right, view.columns),
            )
            found.append(torch.einsum("rh,thw,cw->trc", down.to(maps), maps, across.to(maps)).flatten(1))
        return torch.cat(found, 1)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        views = [{"rows": v.rows, "columns": v.columns, "box": [round(side, 6) for side in v.box]} for v in self.views]
        return {"about": self.about, "views": views}


def _shares(cells: int, start: float, stop: float, bins: int) -> Tensor:
    """(bins, cells): which share of each cell between start and stop, clipped to 0..1, lies in each bin of 0..1."""
    edges = torch.linspace(start, stop, cells + 1, dtype=torch.float64).clamp(0, 1)
    marks = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    low = torch.maximum(edges[None, :-1], marks[:-1, None])
    high = torch.minimum(edges[None, 1:], marks[1:, None])
    overlap = (high - low).clamp(min=0)
    length = (edges[1:] - edges[:-1])[None]
    return torch.where(length > 0, overlap / length.clamp(min=1e-12), torch.zeros_like(overlap))


def _means(bins: int, start: float, stop: float, cells: int) -> Tensor:
    """(cells, bins): the weights of a mean over each cell between start and stop, of bins that divide 0..1."""
    shares = _shares(cells, start, stop, bins).T
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-12)


def tiled(rows: int, columns: int, side: int) -> Sequence[View]:
    """Tiles of side x side tokens, row by row over the whole photograph."""
    return [
        View(side, side, (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows))
        for row in range(rows)
        for column in range(columns)
    ]
