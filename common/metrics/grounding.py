"""Does a map lie on the thing it is said to be of? Pointing, activation inside over outside, energy; baselines.

Maps are (T, h, w), raw, at any resolution; before anything is measured they are upsampled to `size` (H,
W) bilinearly, as they are drawn. Boxes are (n, 4) left, top, right, bottom as shares of the image's width
and height, a list of them with one entry for each map. For all measures higher is better; what a measure
does not define (no boxes, boxes that cover all or nothing) is NaN, which `summary` leaves out and counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.formulas import upsample

SIZE = (224, 224)
Boxes = Tensor | Sequence[Sequence[float]]


def peak(maps: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """Where each map (T, h, w) is largest: (T, 2) x and y as shares of the image, NaN for a map of zeros.

    The centre of the first largest pixel at `size`. A map that is zero everywhere points nowhere.
    """
    H, W = size
    flat = _sized(maps, size).flatten(1)
    largest, at = flat.max(1)
    found = torch.stack([(at % W + 0.5) / W, (at // W + 0.5) / H], 1).to(flat.dtype)
    # A constant map has no peak either: its 'first largest pixel' would be the corner.
    return found.masked_fill((largest <= flat.min(1).values)[:, None], math.nan)


def pointing(maps: Tensor, boxes: Sequence[Boxes], size: tuple[int, int] = SIZE) -> Tensor:
    """1 where the map's largest value lies in any of its boxes, else 0: (T,); a map without a peak is a miss.

    The pointing game of Zhang et al. (ECCV 2016) without its tolerance of 15 pixels.
    """
    _check(maps, boxes)
    points = peak(maps, size).double()
    hits = [_in_any(point, _boxes(each)) for point, each in zip(points, boxes, strict=True)]
    return torch.tensor(hits, dtype=torch.float64)


def inside_outside(maps: Tensor, boxes: Sequence[Boxes], size: tuple[int, int] = SIZE) -> Tensor:
    """Mean activation inside over mean activation outside the boxes: (T,); 1 is uniform (paper, figure 10b).

    A map of zeros favours no place: 1, as the uniform map. Infinite where all activation is inside. Of signed maps the
    magnitude is taken.
    """
    _check(maps, boxes)
    sized = _sized(maps, size).abs()
    ratios = []
    for values, each in zip(sized, boxes, strict=True):
        inside = box_mask(each, size).to(values.device)
        within, without = values[inside].mean(), values[~inside].mean()  # the mean of nothing is NaN
        ratios.append(1.0 if within == without == 0 else float(within / without))
    return torch.tensor(ratios, dtype=torch.float64)


def energy_inside(maps: Tensor, boxes: Sequence[Boxes], size: tuple[int, int] = SIZE) -> Tensor:
    """The share of a map's positive activation that lies in the boxes: (T,) in [0, 1]; NaN for a map of zeros.

    The energy-based pointing game of Wang et al. (Score-CAM, CVPRW 2020).
    """
    _check(maps, boxes)
    sized = _sized(maps, size).clamp(min=0)
    shares = []
    for values, each in zip(sized, boxes, strict=True):
        inside = box_mask(each, size).to(values.device)
        total = float(values.sum())
        shares.append(float(values[inside].sum()) / total if len(_boxes(each)) and total else math.nan)
    return torch.tensor(shares, dtype=torch.float64)


def box_mask(boxes: Boxes, size: tuple[int, int] = SIZE) -> Tensor:
    """(H, W), true for the pixels whose centre lies in any of the boxes."""
    H, W = size
    x, y = (torch.arange(W) + 0.5) / W, (torch.arange(H) + 0.5) / H
    mask = torch.zeros(H, W, dtype=torch.bool)
    for left, top, right, bottom in _boxes(boxes).tolist():
        mask |= ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
    return mask


# Baselines: what needs no explanation at all.


def centre_hit(boxes: Sequence[Boxes]) -> Tensor:
    """Pointing with the image's centre: (T,)."""
    centre = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return torch.tensor([_in_any(centre, _boxes(each)) for each in boxes], dtype=torch.float64)


def random_hit(boxes: Sequence[Boxes], size: tuple[int, int] = SIZE) -> Tensor:
    """The chance that a random point hits: the share of the image that the boxes cover, exactly. (T,)"""
    covered = [float(box_mask(each, size).double().mean()) if len(_boxes(each)) else math.nan for each in boxes]
    return torch.tensor(covered, dtype=torch.float64)


def centre_map(count: int, h: int, w: int, sigma: float = 0.25) -> Tensor:
    """(count, h, w): a Gaussian about the image's centre, `sigma` as a share of its side: the prior
    that photographers put their subject in the middle.
    """
    y, x = ((torch.arange(n) + 0.5) / n - 0.5 for n in (h, w))
    bump = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))
    return bump.expand(count, h, w)


@dataclass(frozen=True)
class Summary:
    """Mean and its standard error of `n` finite values; `left_out` were undefined or infinite.

    The median is of all that are defined: infinite ones are the largest.
    """

    mean: float
    error: float
    n: int
    left_out: int = 0
    median: float = math.nan

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.error:.3f} (n = {self.n})"


def summary(values: Tensor | Sequence[float], groups: Sequence[int | str] | None = None) -> Summary:
    """Mean, standard error and count of the finite values; NaN where there are too few.

    `groups` says by number or name which values belong together (words of one image): these are not independent, so the
    error is that of the groups' sums of deviations (the cluster-robust one), which for groups of one is the usual one.
    """
    tensor = torch.as_tensor(values, dtype=torch.float64).flatten()
    kept = torch.isfinite(tensor)
    n = int(kept.sum())
    if not n:
        return Summary(math.nan, math.nan, 0, len(tensor))
    mean = float(tensor[kept].mean())
    of = np.arange(len(tensor)) if groups is None else np.asarray(groups)
    number = torch.from_numpy(np.unique(of[kept.numpy()], return_inverse=True)[1])
    count = int(number.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, number, tensor[kept] - mean)
    error = math.sqrt(float(sums.square().sum()) * count / (count - 1)) / n if count > 1 else math.nan
    return Summary(mean, error, n, len(tensor) - n, float(tensor[~tensor.isnan()].median()))


def _sized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.dim() != 3:
        raise UserError(f"maps are {tuple(maps.shape)}; give (T, h, w), one for each list of boxes")
    return upsample(maps[:, None].float(), size)[:, 0] if len(maps) else maps.float().new_zeros(0, *size)


def _boxes(boxes: Boxes) -> Tensor:
    """(n, 4), float64."""
    found = torch.as_tensor(boxes, dtype=torch.float64).cpu()
    if found.numel() == 0:
        return found.new_zeros(0, 4)
    if found.dim() != 2 or found.shape[1] != 4:
        raise UserError(f"boxes are {tuple(found.shape)}; give (n, 4) left, top, right, bottom as shares of the image")
    return found


def _in_any(point: Tensor, boxes: Tensor) -> float:
    if not len(boxes):
        return math.nan
    x, y = point.tolist()
    return float(any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes.tolist()))


def _check(maps: Tensor, boxes: Sequence[Boxes]) -> None:
    if len(maps) != len(boxes):
        raise UserError(f"{len(maps)} maps but {len(boxes)} lists of boxes; give one list for each map")
