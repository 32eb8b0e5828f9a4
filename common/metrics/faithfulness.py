"""Does a map say what the model really looked at? Agreement with occlusion, insertion and deletion.

T maps, B images, S steps, h,w map, H,W image. Rank correlation and insertion are better high, deletion low.
"""

import math
from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor

from common.errors import UserError
from common.formulas import upsample

# Images (N, 3, H, W), and which of the B images each is made from (N,) -> scores (N,).
ScoreFunction = Callable[[Tensor, Tensor], Tensor]


def rank_correlation(maps: Tensor, references: Tensor) -> Tensor:
    """Spearman's rank correlation of each map (T, h, w) with its reference (T, h', w'): (T,) in [-1, 1].

    The maps are brought to the references' grid, averaged where they are finer and bilinear where coarser
    (paper, section 5.3, with occlusion maps as the references; see `over_windows`). A map that is the same everywhere,
    such as one of zeros, ranks nothing and counts as 0; where the reference is, there is nothing to agree with: NaN.
    """
    if len(maps) != len(references) or maps.dim() != 3 or references.dim() != 3:
        raise UserError(f"maps {tuple(maps.shape)} and references {tuple(references.shape)}; give (T, h, w) for both")
    pairs = zip(on_grid(maps, (references.shape[-2], references.shape[-1])), references, strict=True)
    return torch.tensor([_spearman(a, b) for a, b in pairs], dtype=torch.float64)


def over_windows(maps: Tensor, size: tuple[int, int], window: int, stride: int) -> Tensor:
    """Maps (T, h, w) as occlusion sees the image: the mean of each under each window, where the windows lie.

    `size` (H, W) is the model's input, to which a map is upsampled as it is drawn. What remains at the right and at the
    bottom, where no window fits, counts for none: the grid of the windows is not stretched over the image.
    """
    sized = upsample(maps[:, None].float(), size)
    return torch.nn.functional.avg_pool2d(sized, window, stride)[:, 0]


def on_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (T, h, w) at another resolution: means of areas where it is coarser, else bilinear."""
    if maps.shape[-2:] == tuple(size):
        return maps
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return torch.nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0]
    return upsample(maps[:, None], size)[:, 0]


def _spearman(a: Tensor, b: Tensor) -> float:
    x, y = (values.detach().double().cpu().flatten().numpy() for values in (a, b))
    if y.max() == y.min():
        return math.nan
    if x.max() == x.min():
        return 0.0
    return float(stats.spearmanr(x, y).statistic)


def deletion(
    score: ScoreFunction, images: Tensor, maps: Tensor, baseline: Tensor, steps: int = 28, batch: int = 16
) -> Tensor:
    """Scores (B, steps + 1) while pixels turn into the baseline's, those with the largest map values first.

    Petsiuk et al., RISE (BMVC 2018). `images` and `baseline` (B, 3, H, W), `maps` (B, h, w) upsampled to them.
    """
    return _curve(score, images, baseline, maps, steps, batch)


def insertion(
    score: ScoreFunction, images: Tensor, maps: Tensor, baseline: Tensor, steps: int = 28, batch: int = 16
) -> Tensor:
    """Scores (B, steps + 1) while the baseline's pixels turn into the image's; otherwise as `deletion`."""
    return _curve(score, baseline, images, maps, steps, batch)


def area(curves: Tensor) -> Tensor:
    """The area under each curve (..., S + 1) over the share of pixels, 0 to 1, by the trapezoidal rule: (...)."""
    return (curves[..., :-1] + curves[..., 1:]).mean(-1) / 2


def grey(images: Tensor, value: float | Tensor = 0.0) -> Tensor:
    """A baseline (B, 3, H, W) of one value, in the network's units: 0 is the mean colour."""
    return torch.zeros_like(images) + value


def blurred(images: Tensor, sigma: float = 11.0) -> Tensor:
    """A baseline (B, 3, H, W): the images without detail, by a Gaussian of `sigma` pixels; edges are extended."""
    if not sigma > 0:
        raise UserError(f"the blur's sigma is {sigma}; give a number of pixels above 0")
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    pad = torch.nn.functional.pad
    convolve = torch.nn.functional.conv2d
    across = convolve(pad(images, (radius, radius, 0, 0), mode="replicate"), kernel, groups=images.shape[1])
    down = pad(across, (0, 0, radius, radius), mode="replicate")
    return convolve(down, kernel.transpose(-1, -2), groups=images.shape[1])


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"blur": blurred, "grey": grey}


def _curve(score: ScoreFunction, start: Tensor, end: Tensor, maps: Tensor, steps: int, batch: int) -> Tensor:
    _check(start, end, maps, steps)
    rank = _ranks(maps, (start.shape[-2], start.shape[-1]))
    pixels = start.shape[-2] * start.shape[-1]
    changed = torch.linspace(0, 1, steps + 1, dtype=torch.float64).mul(pixels).round().to(rank.device)
    jobs = torch.cartesian_prod(torch.arange(len(start)), torch.arange(steps + 1)).to(rank.device)
    scores = []
    with torch.no_grad():
        for rows, stages in (part.unbind(1) for part in jobs.split(batch)):
            done = (rank[rows] < changed[stages][:, None, None])[:, None]
            scores.append(score(torch.where(done, end[rows], start[rows]), rows))
    return torch.cat(scores).reshape(len(start), steps + 1)


def _ranks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W): each pixel's place among those of its map, 0 for the largest."""
    order = upsample(maps[:, None].float(), size).flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).reshape(len(maps), *size)


def _check(start: Tensor, end: Tensor, maps: Tensor, steps: int) -> None:
    if start.shape != end.shape or start.dim() != 4 or maps.dim() != 3 or len(maps) != len(start):
        raise UserError(
            f"images {tuple(start.shape)}, baseline {tuple(end.shape)} and maps {tuple(maps.shape)} do not go"
            " together; give (B, 3, H, W) twice and (B, h, w)"
        )
    if not 1 <= steps <= start.shape[-2] * start.shape[-1]:
        raise UserError(f"{steps} steps; give at least 1, at most one for each pixel")
