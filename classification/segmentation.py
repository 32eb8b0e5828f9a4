"""Seed, expand and constrain: segmentation learnt from image labels and the seeds that maps give.

Kolesnikov and Lampert, Seed, Expand and Constrain (ECCV 2016): three losses on the probabilities of a
segmentation network, of which the third pulls them to the borders that a fully connected CRF (Krähenbühl and
Koltun 2011) finds in the photograph.
B images, C classes without the background, which is class 0, h,w grid of the network's output, n = h*w.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.errors import UserError
from common.metrics.segmentation import BACKGROUND, FOREGROUND_SHARE, UNDECIDED, seeds

FLOOR = 1e-4  # of probabilities, so that no logarithm runs away
# How fast a position's weight falls with its rank, on a grid of 41 x 41 (their section 3.2): classes that are
# in the photograph, that are not (their strongest position alone counts), and the background.
PRESENT, ABSENT, GROUND, GRID = 0.996, 0.0, 0.999, 41 * 41
GROUND_SHARE = 0.1  # of the grid: the least salient positions are seeds of the background (section 3.1)
CRF_SCALE = 12.0  # of distances, on a grid that is as much smaller than the photograph (section 3.3)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes of (B, C + 1, h, w), at least about `FLOOR` each and summing to 1."""
    found = logits.softmax(1) + FLOOR
    return found / found.sum(1, keepdim=True)


def localisation_cues(
    maps: Mapping[int, Tensor],
    saliency: Tensor,
    size: tuple[int, int],
    foreground: float = FOREGROUND_SHARE,
    background: float = GROUND_SHARE,
) -> Tensor:
    """Seeds (h, w) from a map for each class 1..C in the image: labels, 0 background, 255 where there is none.

    A class's seeds are where its map exceeds `foreground` of its maximum, the class with the fewer seeds
    first; the background's are the `background` share of the grid where `saliency` (at any resolution, not
    negative; it is averaged to `size` and smoothed by a 3 x 3 median) is lowest, unless a class is there.
    """
    labels = seeds(maps, size, foreground)
    classes = (labels != BACKGROUND) & (labels != UNDECIDED)
    at_size = torch.nn.functional.adaptive_avg_pool2d(saliency[None, None].detach().float().cpu(), size)[0, 0]
    smooth = torch.from_numpy(ndimage.median_filter(at_size.numpy(), 3, mode="nearest")).flatten()
    lowest = smooth.argsort(stable=True)[: round(background * smooth.numel())]
    found = torch.full(size, UNDECIDED, dtype=torch.int64)
    found.view(-1)[lowest] = BACKGROUND
    return torch.where(classes, labels, found)


def seeding_loss(f: Tensor, cues: Tensor) -> Tensor:
    """-1/|S| sum_{u in S} log f_{u, label of u} over an image's seeds S, the mean over images (their eq. 2).

    `f` (B, C + 1, h, w) probabilities, `cues` (B, h, w) labels with 255 where there is no seed; an image
    without seeds has no such loss.
    """
    seeded = cues != UNDECIDED
    chosen = f.gather(1, cues.masked_fill(~seeded, 0)[:, None])[:, 0]
    sums = (chosen.log() * seeded).sum((1, 2))
    return -(sums / seeded.sum((1, 2)).clamp(min=1)).mean()


def rank_pool(f: Tensor, decay: float) -> Tensor:
    """Global weighted rank pooling of (..., h, w): (...), the mean of the values weighted by decay^rank.

    The largest has rank 0 (their eq. 3). A decay of 0 is the maximum, of 1 the mean. It is that of a grid of
    41 x 41; on other grids it is taken so that the same share of the grid has the same weight.
    """
    if not 0 <= decay <= 1:
        raise UserError(f"a decay is from 0 (the maximum) to 1 (the mean), not {decay}")
    ranked = f.flatten(-2).sort(-1, descending=True).values
    n = ranked.shape[-1]
    weights = (decay ** (GRID / n)) ** torch.arange(n, dtype=f.dtype, device=f.device)
    return (ranked * weights).sum(-1) / weights.sum()


def expansion_loss(f: Tensor, present: Tensor) -> Tensor:
    """How badly pooled scores G agree with the image's labels, `present` (B, C), boolean (their eq. 4).

    -1/|T| sum_{c in T} log G_c - 1/|not T| sum_{c not in T} log(1 - G_c) - log G_background, the mean over
    images; a term over no class is left out.
    """
    classes = f[:, 1:]
    inside = -rank_pool(classes, PRESENT).log()
    outside = -torch.log1p(-rank_pool(classes, ABSENT).clamp(max=1 - FLOOR))
    ground = -rank_pool(f[:, 0], GROUND).log()
    return (_mean_over(inside, present) + _mean_over(outside, ~present) + ground).mean()


def _mean_over(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)


def boundary_loss(f: Tensor, refined: Tensor) -> Tensor:
    """Constrain-to-boundary: the mean over positions and images of KL(refined || f) (their eq. 5).

    `refined` (B, C + 1, h, w) is what `dense_crf` makes of `f`; it is a constant here, and bounded from below
    as `f` is.
    """
    q = refined.detach().clamp(min=FLOOR)
    q = q / q.sum(1, keepdim=True)
    return (q * (q / f).log()).sum(1).mean()


def dense_crf(f: Tensor, image: np.ndarray, scale: float = 1.0, iterations: int = 10) -> Tensor:
    """Probabilities (C + 1, h, w) refined by a fully connected CRF over the pixels of `image` (h, w, 3) uint8.

    Potts potentials with the weights of Krähenbühl and Koltun's code: 3 for positions within 3 pixels, 10 for
    positions within 80 pixels of colours within 13; `scale` divides the distances on a reduced grid.
    Raises `UserError` when the package that does it is not installed, or when sizes differ.
    """
    crf = crf_package()
    classes, h, w = f.shape
    if image.shape != (h, w, 3) or image.dtype != np.uint8:
        raise UserError(f"the image is {image.shape} {image.dtype}; the CRF needs ({h}, {w}, 3) uint8")
    field = crf.DenseCRF2D(w, h, classes)
    unary = -f.detach().double().clamp(min=1e-10).log().reshape(classes, -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary.cpu().numpy(), dtype=np.float32))
    field.addPairwiseGaussian(sxy=3 / scale, compat=3)
    field.addPairwiseBilateral(sxy=80 / scale, srgb=13, rgbim=np.array(image, order="C"), compat=10)
    refined = torch.from_numpy(np.array(field.inference(iterations), dtype=np.float32))
    return refined.reshape(classes, h, w).to(f.device, f.dtype)


def crf_package() -> Any:
    """The module `pydensecrf.densecrf`. Raises `UserError` naming the extra that brings it."""
    try:
        import pydensecrf.densecrf as crf
    except ImportError as error:
        raise UserError(
            f"SEC needs the dense CRF of pydensecrf2 ({error}): pip install 'saywhy[segmentation]'"
        ) from error
    return crf
