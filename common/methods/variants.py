"""CAM variants as a table: each is one function (A, gradient) -> map, and one entry of `VARIANTS`.

All of them ask the same two things, what the feature map A holds and how the score changes with it (the gradient),
and differ in how they put these together. Grad-CAM pools the gradient over positions before it weighs channels
with it; HiResCAM does not pool; LayerCAM keeps what is positive of it; and so on. A variant of your own goes in
by hand, or into the table, and is then known by its name everywhere:

    def squared(A, gradient):                       # (B, K, h, w), (T, B, K, h, w) -> (T, B, h, w)
        return (gradient * A).sum(2).square()

    explain(model, images, targets, methods=["gradcam", squared]).squared
    VARIANTS["squared"] = squared                   # explain(..., methods="gradcam,squared")

T targets, B images, K channels, h,w feature map. Gradients come in float32 where the model has half precision.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.formulas import localisation, weighted

Variant = Callable[[Tensor, Tensor], Tensor]
_PLACES = (-2, -1)


def gradcam(A: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k mean(g_k) A_k): the paper's (eq. 1 and 2). `explain` itself takes a cheaper way to the same."""
    return localisation(A, gradient.mean(_PLACES))


def hirescam(A: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k g_k A_k): the gradient is not pooled at all (Draelos and Carin, HiResCAM, 2020)."""
    return (gradient * A).sum(2).relu()


def layercam(A: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k ReLU(g_k) A_k): positive gradients only, each at its place (Jiang et al., LayerCAM, 2021)."""
    return (gradient.relu() * A).sum(2).relu()


def xgradcam(A: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k w_k A_k) with w_k = sum(g_k A_k) / sum(A_k): means weighted by A (Fu et al., XGrad-CAM, 2020).

    A channel whose sum is zero has no say.
    """
    total = A.sum(_PLACES)
    weights = (gradient * A).sum(_PLACES) / torch.where(total == 0, torch.inf, total)
    return localisation(A, weights)


def gradcam_plus_plus(A: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k w_k A_k) with w_k = sum_ij a_ij ReLU(g_ij) (Chattopadhay et al., Grad-CAM++, 2018, eq. 5, 7, 19).

    The published a = g^2 / (2 g^2 + sum(A) g^3) is 1 / (2 + sum(A) g) wherever g is not 0, and no small number
    has to keep it from 0/0. Their score is exp(y); exp(y), one positive number for the whole map, is left out.
    """
    positive = gradient.relu()
    share = 2 + A.sum(_PLACES, keepdim=True) * positive
    return localisation(A, (positive / torch.where(share == 0, torch.inf, share)).sum(_PLACES))


def no_relu(A: Tensor, gradient: Tensor) -> Tensor:
    """sum_k mean(g_k) A_k, signed: Grad-CAM before its ReLU (paper, appendix B.1)."""
    return weighted(A, gradient.mean(_PLACES))


def absolute(A: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM with the mean of absolute gradients (paper, appendix B.1)."""
    return localisation(A, gradient.abs().mean(_PLACES))


def summed(A: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM with sums of gradients instead of means: h*w times Grad-CAM (paper, appendix B.1)."""
    return localisation(A, gradient.sum(_PLACES))


def max_pooled(A: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM with the largest gradient of each channel instead of their mean (paper, appendix B.1)."""
    return localisation(A, gradient.amax(_PLACES))


VARIANTS: dict[str, Variant] = {
    "gradcam": gradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
    "gradcam_plus_plus": gradcam_plus_plus,
    "no_relu": no_relu,
    "absolute": absolute,
    "summed": summed,
    "max_pooled": max_pooled,
}
