"""Pooling of evidence maps, linear in the feature map, and what reaches the map through it on the way back.

Letters: K channels, E evidence words, h,w map, P = h*w positions.
"""

import math

from torch import Tensor


def log_mean_exp(maps: Tensor) -> Tensor:
    """(B,E,h,w) -> (B,E): the mean where the evidence is flat, nearly the maximum where it peaks."""
    flat = maps.flatten(2)
    return flat.logsumexp(2) - math.log(flat.shape[2])


def pooled_importance(mean: Tensor, evidence: Tensor, weight: Tensor, positions: int) -> Tensor:
    """Mean over positions of d y / d A (..., K) (Grad-CAM paper, eq. 1), in closed form.

    Given are d y / d of the mean feature (..., K) and of the pooled evidence (..., E), which is `log_mean_exp` of
    maps that are linear in A with `weight` (E, K). The mean passes its gradient to every position alike.
    Log-mean-exp passes on shares that sum to 1 over the positions: summed, its gradient times the weights.
    """
    return (mean + evidence @ weight) / positions
