"""Occlusion of cells of the feature map: the drop of a score when nothing is seen at one position of the last map.

What Grad-CAM says to first order, measured: the two are of the same map, so that their agreement is the most that an
occlusion of pixels, which reaches the map through the whole network, can be expected to show.
T targets, B images, K channels, h,w feature map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.explainable import Explainable
from common.state import ordinary, untouched
from common.targets import Target, score_table


def cell_occlusion(
    explainable: Explainable,
    images: Tensor,
    targets: Sequence[Target],
    query: Any = None,
    features: Tensor | None = None,
) -> Tensor:
    """Drop of each target's score (T, B, h, w) when all channels are zero at one position of the map.

    `features` (B, K, h, w) is the map, where it is at hand. The head runs h * w + 1 times, the trunk once at most.
    """
    with untouched(explainable.network), torch.no_grad():
        A = explainable.features(ordinary(images), query) if features is None else features

        def scores(at: tuple[int, int] | None) -> Tensor:
            covered = A.clone()
            if at is not None:
                covered[..., at[0], at[1]] = 0
            return score_table(targets, explainable.forward_from(covered, images, query), len(images))

        h, w = A.shape[-2:]
        whole = scores(None)
        drops = [whole - scores((y, x)) for y in range(h) for x in range(w)]
    return torch.stack(drops, -1).unflatten(-1, (h, w))
