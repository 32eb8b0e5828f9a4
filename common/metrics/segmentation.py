"""Weakly supervised segmentation: seeds from maps, and how well labels cover what they should.

C classes, h,w map, H,W image. Labels are integers (H, W): 0 background, 1..C classes, 255 undecided.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.errors import UserError
from common.formulas import upsample
from common.metrics.grounding import Summary

BACKGROUND, UNDECIDED = 0, 255
FOREGROUND_SHARE = 0.2  # of a map's maximum (Kolesnikov and Lampert 2016, section 3.1)


def seeds(
    maps: Mapping[int, Tensor],
    size: tuple[int, int],
    foreground: float = FOREGROUND_SHARE,
    background: float | None = None,
) -> Tensor:
    """Labels (H, W) from one map (h, w) for each class 1..254 in the image (SEC; paper, section 4.2).

    A pixel belongs to a class where the map exceeds `foreground` of its maximum; where several classes do,
    to the one with the smallest such area, as in SEC. It is background where every map is below `background`
    of its maximum (default: wherever no class is), undecided between.
    """
    low = foreground if background is None else background
    if not 0 <= low <= foreground <= 1:
        raise UserError(f"shares are background {low} <= foreground {foreground}, both from 0 to 1")
    labels = torch.zeros(size, dtype=torch.int64)
    sized = {}
    for label, values in maps.items():
        if not 0 < label < UNDECIDED:
            raise UserError(f"class {label} is not from 1 to {UNDECIDED - 1}")
        at_size = upsample(values[None, None].detach().float().cpu(), size)[0, 0].clamp(min=0)
        sized[label] = at_size / at_size.max().clamp(min=1e-30)
    for values in sized.values():
        labels[(values >= low) & (values > 0)] = UNDECIDED
    masks = {label: (values >= foreground) & (values > 0) for label, values in sized.items()}
    for label in sorted(masks, key=lambda key: int(masks[key].sum()), reverse=True):
        labels[masks[label]] = label
    return labels


def confusion(labels: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts of pixels (C + 1, C + 1), true labels down, given ones across; a column more for undecided ones.

    Pixels that the truth leaves undecided (255, VOC's contours) are left out. Add up over images, then `overlaps`.
    """
    if labels.shape != truth.shape:
        raise UserError(f"labels {tuple(labels.shape)} and truth {tuple(truth.shape)} differ in size")
    kept = truth != UNDECIDED
    given, true = labels[kept].long(), truth[kept].long()
    decided = given[given != UNDECIDED]
    if max([0, *decided.unique().tolist(), *true.unique().tolist()]) > classes:
        raise UserError(f"a label is above {classes}, the last class")
    given = torch.where(given == UNDECIDED, torch.full_like(given, classes + 1), given)
    columns = classes + 2
    return torch.bincount(true * columns + given, minlength=(classes + 1) * columns).reshape(-1, columns)


def overlaps(counts: Tensor) -> Tensor:
    """Intersection over union of each class from `confusion`: (C + 1,); NaN for what occurs nowhere.

    An undecided pixel counts as a miss of its true class.
    """
    square = counts[:, :-1].double()
    shared = square.diagonal()
    union = counts.double().sum(1) + square.sum(0) - shared
    return torch.where(union > 0, shared / union, torch.full_like(union, math.nan))


def mean_overlap(counts: Tensor, resamples: int = 300, seed: int = 0) -> Summary:
    """Mean of `overlaps` over the classes that occur in the truth, from the counts of N images (N, C + 1, C + 2).

    As VOC has it: counts are added up over images first, so that no image has a value of its own; the error
    is therefore the spread over `resamples` draws of N images with replacement (Efron's bootstrap).
    """
    _check(counts)
    return _bootstrap(len(counts), lambda rows: _mean_of_true(counts[rows].sum(0)), resamples, seed)


def overlap_difference(these: Tensor, those: Tensor, resamples: int = 300, seed: int = 0) -> Summary:
    """`mean_overlap` of one labelling of N images less that of another, each (N, C + 1, C + 2).

    Its error is the bootstrap's too: both are counted on the same images in every draw.
    """
    _check(these)
    if these.shape != those.shape:
        raise UserError(f"counts {tuple(these.shape)} and {tuple(those.shape)} differ; give both of the same images")

    def less(rows: Tensor) -> float:
        return _mean_of_true(these[rows].sum(0)) - _mean_of_true(those[rows].sum(0))

    return _bootstrap(len(these), less, resamples, seed)


def _check(counts: Tensor) -> None:
    if counts.dim() != 3 or not len(counts):
        raise UserError(f"counts are {tuple(counts.shape)}; give those of one image or more (N, C + 1, C + 2)")


def _bootstrap(count: int, statistic: Callable[[Tensor], float], resamples: int, seed: int) -> Summary:
    """A statistic of the images (N,), and its spread over draws of as many with replacement."""
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    values = torch.tensor([statistic(rows) for rows in drawn], dtype=torch.float64)
    return Summary(statistic(torch.arange(count)), float(values.std()) if count > 1 else math.nan, count)


def _mean_of_true(counts: Tensor) -> float:
    return float(overlaps(counts)[counts.sum(1) > 0].mean())
