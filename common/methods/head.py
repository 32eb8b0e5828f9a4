"""Methods that run the head again, on feature maps that are changed: a table of functions (A, head) -> map.

`head` is what stands behind the explained layer as a function: a map (B, K, h, w) in, scores (T, B) out. So these
methods see more of it than one gradient tells: what happens when a channel is taken away, or on the way from an
empty map to A.

T targets, B images, K channels, h,w feature map.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.formulas import cannot_be_batched, gradient_parts, localisation, wide

Head = Callable[[Tensor], Tensor]
STEPS = 32  # of integrated gradients
_AT_ONCE = 2**22  # elements of changed maps run through the head at once


def ablation_cam(A: Tensor, head: Head) -> Tensor:
    """ReLU(sum_k w_k A_k) (T, B, h, w) with w_k = y - y_k: the drop of the score without channel k.

    Desai and Ramaswamy, Ablation-CAM (WACV 2020), eq. 3 and 4. No gradient is used. They divide w by y, which
    scales the map, and would turn it over where scores are negative, as log-likelihoods are; that is left out. The
    head runs once for each of the K channels, many at once where `torch.vmap` can, and the trunk once for these.

    >>> ablation_cam(torch.ones(1, 2, 1, 1), lambda A: 3 * A[None, :, 0, 0, 0] - A[None, :, 1, 0, 0]).item()
    2.0
    """
    channels = torch.arange(A.shape[1], device=A.device)

    def without(channel: Tensor) -> Tensor:
        return head(A * (channels != channel)[:, None, None])

    with torch.no_grad():
        drops = wide(head(A)) - wide(_for_each(without, channels, max(1, _AT_ONCE // A.numel())))
    return localisation(A, drops.permute(1, 2, 0))


def integrated_gradients(A: Tensor, head: Head, steps: int = STEPS) -> Tensor:
    """sum_k A_k mean_s(d y / d A_k at s A) (T, B, h, w): the path from an empty map, s = 0, to A, s = 1.

    Sundararajan et al., Axiomatic Attribution for Deep Networks (ICML 2017), eq. 3, at the feature map; s by the
    midpoint rule. Signed, and complete: a map's sum is the score less that of the empty map (as `steps` grow).

    >>> integrated_gradients(torch.full((1, 1, 1, 2), 3.0), lambda A: (A**2).sum((1, 2, 3))[None]).tolist()
    [[[[9.0, 9.0]]]]
    """
    total: Tensor | float = 0.0
    for part in ((torch.arange(steps) + 0.5) / steps).to(A).split(max(1, _AT_ONCE // A.numel())):
        maps = (A * part[:, None, None, None, None]).requires_grad_()
        with torch.enable_grad():
            scores = _for_each(head, maps, len(part)).sum(0)
        # d scores / d each of the maps, (T, steps, B, K, h, w); no map has a part in the score of another.
        total = total + torch.cat([each.sum(1) for each in gradient_parts(scores, maps)])
    return (total * wide(A) / steps).sum(2)


def token_occlusion(A: Tensor, head: Head) -> Tensor:
    """y - y_p (T, B, h, w): by how much the score falls where position p holds the mean of all positions instead.

    Occlusion at the feature map: exact for the head, and blind to what the trunk has mixed into other positions.
    Signed. The head runs once for each position.

    >>> token_occlusion(torch.tensor([[[[1.0, 3.0]]]]), lambda A: A[None, :, 0, 0, 1]).tolist()
    [[[[0.0, 1.0]]]]
    """
    B, _, h, w = A.shape
    with torch.no_grad():
        base, mean, drops = wide(head(A)), A.mean((-2, -1)), []
        for place in range(h * w):
            covered = A.flatten(2).clone()
            covered[:, :, place] = mean
            drops.append(base - wide(head(covered.view_as(A))))
    return torch.stack(drops, -1).view(-1, B, h, w)


def _for_each(function: Callable[[Tensor], Tensor], values: Tensor, at_once: int) -> Tensor:
    """The function of each value, stacked; batched where every operation in it can be."""
    try:
        return torch.vmap(function, chunk_size=min(at_once, len(values)), randomness="same")(values)
    except RuntimeError as error:
        if not cannot_be_batched(error):
            raise
    return torch.stack([function(value) for value in values])


HEAD_METHODS: dict[str, Callable[[Tensor, Head], Tensor]] = {
    "ablation_cam": ablation_cam,
    "integrated_gradients": integrated_gradients,
    "token_occlusion": token_occlusion,
}
