"""Pooling of evidence maps.

Letters: B images, E concepts, h,w map.
"""

import math

from torch import Tensor


def log_mean_exp(maps: Tensor) -> Tensor:
    """(B,E,h,w) -> (B,E): the mean where the evidence is flat, nearly the maximum where it peaks."""
    flat = maps.flatten(2)
    return flat.logsumexp(2) - math.log(flat.shape[2])
