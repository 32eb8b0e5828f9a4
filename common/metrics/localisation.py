"""Finding an object by its map: a box around its largest segment, the error of ILSVRC, pointing games.

Maps are (T, h, w), raw, at any resolution; they are upsampled to `size` (H, W) bilinearly before anything is measured.
Boxes are left, top, right, bottom as shares of the image's width and height. An error is better low, everything else
high; what a measure does not define is NaN, which `grounding.summary` leaves out and counts.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.errors import UserError
from common.metrics.grounding import SIZE, Boxes, Summary, _boxes, _sized, energy_inside, peak, pointing

SHARE = 0.15  # of a map's maximum: what is above belongs to the object (paper, section 4.1)
OVERLAP = 0.5  # intersection over union at which a box counts as found (ILSVRC)
TOLERANCE = 15.0  # pixels, of the pointing game (Zhang et al. 2016)
HARD_SHARE = 0.25  # of the image: classes that cover less, beside another class, are their 'difficult' subset


def pixel_strength(maps: Tensor) -> Tensor:
    """One value a pixel for gradients of the image, (..., 3, H, W) -> (..., H, W): the largest magnitude of
    its channels (Simonyan et al. 2014, section 3.1)."""
    if maps.dim() < 3 or maps.shape[-3] != 3:
        raise UserError(f"maps are {tuple(maps.shape)}; give gradients of images, (..., 3, H, W)")
    return maps.abs().amax(-3)


def segment_boxes(maps: Tensor, size: tuple[int, int] = SIZE, share: float = SHARE) -> Tensor:
    """The box around the largest segment of each map (T, h, w) that exceeds `share` of its maximum: (T, 4).

    Pixels that touch by a corner belong together. NaN for a map without a positive value.
    """
    if not 0 < share <= 1:
        raise UserError(f"a share of the maximum is in (0, 1], not {share}; the paper's is {SHARE}")
    found = [_segment_box(values, share) for values in _sized(maps, size).cpu().numpy()]
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 4)


def _segment_box(values: np.ndarray, share: float) -> list[float]:
    top = values.max()
    if not top > 0:
        return [math.nan] * 4
    labels, count = ndimage.label(values >= share * top, structure=np.ones((3, 3)))
    largest = 1 + int(np.bincount(labels.ravel(), minlength=count + 1)[1:].argmax())
    rows, columns = ndimage.find_objects(labels)[largest - 1]
    H, W = values.shape
    return [columns.start / W, rows.start / H, columns.stop / W, rows.stop / H]


def box_overlap(these: Boxes, those: Boxes) -> Tensor:
    """Intersection over union of each of n boxes with each of m: (n, m); NaN where a box is NaN."""
    a, b = _boxes(these)[:, None], _boxes(those)[None]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / union


def localisation_errors(
    predicted: Tensor, boxes: Tensor, truth: Sequence[int], true_boxes: Sequence[Boxes], overlap: float = OVERLAP
) -> Tensor:
    """1 where none of an image's first k guesses is right, else 0: (B, k), errors at 1, 2, ... k guesses.

    `predicted` (B, k) classes, likeliest first, with a box each (B, k, 4); a guess is right when its class is the
    image's and its box overlaps one of the true boxes by `overlap` or more (ILSVRC; paper, section 4.1).
    """
    right = torch.zeros(predicted.shape, dtype=torch.bool)
    for image, (label, those) in enumerate(zip(truth, true_boxes, strict=True)):
        shared = box_overlap(boxes[image], those).nan_to_num(0)
        fits = shared.amax(1) >= overlap if shared.shape[1] else torch.zeros(len(shared), dtype=torch.bool)
        right[image] = fits & (predicted[image].cpu() == label)
    return (right.cumsum(1) == 0).double()


def cell_boxes(side: int) -> list[list[float]]:
    """The cells of a grid of `side` by `side`, row by row, each a box."""
    return [[c / side, r / side, (c + 1) / side, (r + 1) / side] for r in range(side) for c in range(side)]


def cell_share(maps: Tensor, cells: Sequence[int], side: int, size: tuple[int, int] = SIZE) -> Tensor:
    """The share of each map's positive values that lies in its own cell of a grid: (T,) in [0, 1].

    The grid pointing game (Böhle et al. 2021): the image is a mosaic of `side` by `side` photographs, `cells` says
    which of them a map is to explain. Chance is 1 / side**2; NaN for a map without a positive value.
    """
    return energy_inside(maps, _own_cells(cells, side), size)


def cell_hit(maps: Tensor, cells: Sequence[int], side: int, size: tuple[int, int] = SIZE) -> Tensor:
    """1 where a map is largest in its own cell of the grid (see `cell_share`), else 0: (T,)."""
    return pointing(maps, _own_cells(cells, side), size)


def mosaic(images: Tensor) -> Tensor:
    """side**2 images (n, 3, H, W) as one picture, row by row: (3, side*H, side*W)."""
    side = math.isqrt(len(images))
    if side * side != len(images) or not side:
        raise UserError(f"{len(images)} images do not fill a square mosaic; give 4, 9, 16, ...")
    n, channels, H, W = images.shape
    rows = images.reshape(side, side, channels, H, W).permute(2, 0, 3, 1, 4)
    return rows.reshape(channels, side * H, side * W)


def pointing_hits(maps: Tensor, regions: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """1 where a map is largest within `tolerance` pixels of its region, else 0: (T,); NaN for an empty region.

    The pointing game of Zhang et al. (2016). `regions` (T, H, W) are boolean, at the image's own resolution,
    in whose pixels the tolerance is. A map without a peak misses.
    """
    if len(maps) != len(regions) or regions.dim() != 3:
        raise UserError(f"{len(maps)} maps do not go with regions {tuple(regions.shape)}; give (T, H, W)")
    if not len(maps):
        return torch.zeros(0, dtype=torch.float64)
    H, W = regions.shape[-2:]
    points = peak(maps, (H, W)).double().cpu() * torch.tensor([W, H], dtype=torch.float64) - 0.5
    points = points.round()  # `peak` gives single-precision shares of pixel centres
    hits = [_near(point, region, tolerance) for point, region in zip(points, regions.cpu(), strict=True)]
    return torch.tensor(hits, dtype=torch.float64)


def _near(point: Tensor, region: Tensor, tolerance: float) -> float:
    places = region.nonzero().double()
    if not len(places):
        return math.nan
    x, y = point.tolist()
    return float((places - torch.tensor([y, x], dtype=torch.float64)).square().sum(1).min() <= tolerance**2)


def told_apart(maps: Tensor, regions: Tensor) -> Tensor:
    """1 where a map is stronger in its own region than in the other's, 0 where weaker, 1/2 where equal: (2,).

    Two maps (2, h, w) of one image, one for each of two classes, and where these are, `regions` (2, H, W), boolean: a
    stand-in for people who say which of the two a map is of (paper, section 5.1). Means of magnitudes over the pixels
    that belong to one region only; NaN where a region has no pixel of its own.
    """
    if len(maps) != 2 or len(regions) != 2 or regions.dim() != 3:
        raise UserError(f"{len(maps)} maps and {len(regions)} regions; give one of each for each of two classes")
    strength = _sized(maps, (regions.shape[-2], regions.shape[-1])).abs().double().cpu()
    first, second = (regions[n] & ~regions[1 - n] for n in (0, 1))
    inside = [(each[first].mean(), each[second].mean()) for each in strength]  # the mean of nothing is NaN
    gains = torch.stack([inside[0][0] - inside[0][1], inside[1][1] - inside[1][0]])
    return torch.where(gains.isnan(), gains, (gains.sign() + 1) / 2)


def chance_of_hit(regions: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The chance that a random pixel is a hit of `pointing_hits`: (T,), exactly; NaN for an empty region."""
    shares = []
    for region in regions.cpu().numpy():
        near = ndimage.distance_transform_edt(~region) <= tolerance
        shares.append(float(near.mean()) if region.any() else math.nan)
    return torch.tensor(shares, dtype=torch.float64)


def centred_box(share: float) -> list[float]:
    """The box about the image's centre whose sides are `share` of the image's: what needs no explanation."""
    return [0.5 - share / 2, 0.5 - share / 2, 0.5 + share / 2, 0.5 + share / 2]


def hard_to_point(shares: Tensor) -> Tensor:
    """Which classes of one image are in the 'difficult' subset of Zhang et al. (2016): (C,), boolean.

    `shares` (C,) is the total area of each class's objects as a share of the image: it has to be below a
    quarter, and at least one other class has to be in the image.
    """
    return (shares < HARD_SHARE) & (len(shares) > 1)


def class_summary(values: Tensor, classes: Sequence[Hashable], groups: Sequence[int | str] | None = None) -> Summary:
    """The mean over classes of the mean of their finite values, as pointing accuracies are published.

    `values` (N,) with a class each. The error is that of a mean of independent means, the root of
    sum_c s_c^2 / n_c over the number of classes; a class with a single value is taken to vary as the others
    do. Values of one of the `groups` (one photograph) are not independent: their deviations are summed before they
    are squared. `n` counts values, not classes; the median is that of the classes' means.
    """
    kept = values.isfinite().nonzero().flatten().tolist()
    if not kept:
        return Summary(math.nan, math.nan, 0, len(values))
    number = np.unique([str(classes[i]) for i in kept], return_inverse=True)[1]
    found, n = values[kept].double().numpy(), np.bincount(number)
    means = np.bincount(number, found) / n
    # Each value's share of the mean's error; squared and summed within a class: s_c^2 / n_c.
    parts = (found - means[number]) / np.sqrt(n * np.maximum(n - 1, 1))[number]
    together = (
        np.arange(len(kept)) if groups is None else np.unique([str(groups[i]) for i in kept], return_inverse=True)[1]
    )
    varied = (np.bincount(number, parts**2) * n)[n > 1]  # s_c^2
    alone = float(varied.mean()) * int((n == 1).sum()) if len(varied) else math.nan
    error = math.sqrt(float((np.bincount(together, parts) ** 2).sum()) + alone) / len(n)
    return Summary(float(means.mean()), error, len(kept), len(values) - len(kept), float(np.median(means)))


def hits_with_reject(hits: Tensor, strengths: Tensor, present: Tensor, threshold: float) -> Tensor:
    """The pointing game with the option to reject a class (paper, section 4.3): (T,), 1 for a hit.

    A map whose largest value (`strengths`) is below `threshold` rejects its class: right where the class is not
    `present`. Any other map is right where the class is present and the map hits it (`hits`, else ignored; the chance
    of a hit where a point is drawn).
    """
    rejects = strengths < threshold
    return torch.where(present, (~rejects) * hits.nan_to_num(0), rejects.to(hits.dtype)).double()


def best_threshold(hits: Tensor, strengths: Tensor, present: Tensor) -> float:
    """The threshold at which `hits_with_reject` is right most often; choose it on images held out."""
    tried = [-math.inf, *sorted(set(strengths.tolist())), math.inf]
    return max(tried, key=lambda t: float(hits_with_reject(hits, strengths, present, t).sum()))


def _own_cells(cells: Sequence[int], side: int) -> list[list[list[float]]]:
    boxes = cell_boxes(side)
    bad = [cell for cell in cells if not 0 <= cell < len(boxes)]
    if bad:
        raise UserError(f"cell {bad[0]} is not in a grid of {side} by {side}; cells are 0 to {len(boxes) - 1}")
    return [[boxes[cell]] for cell in cells]
