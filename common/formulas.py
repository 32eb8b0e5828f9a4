"""The formulas of Grad-CAM as pure functions of tensors (Selvaraju et al., IJCV 2019, eq. 1 and 2).

    alpha = importance(scores, A)          (T, B, K)     eq. 1: the mean over positions of d score / d A
    maps = localisation(A, alpha)          (T, B, h, w)  eq. 2: ReLU(sum_k alpha_k A_k)
    upsample(maps, (H, W))                 (T, B, H, W)  for drawing and measuring

B images, T targets, K channels, h,w feature map, H,W image.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

_GRADIENT_BUDGET = 2**26  # elements of all targets' gradients held at once: 256 MB in float32


def importance(scores: Tensor, A: Tensor) -> Tensor:
    """alpha (T, B, K): the mean over positions of d scores (T, B) / d A (B, K, h, w) (paper, eq. 1).

    Images are taken to be independent of each other, as they are in evaluation mode.
    """
    return torch.cat([part.mean((-2, -1)) for part in gradient_parts(scores, A)])


def activation_energy(A: Tensor) -> Tensor:
    """(B, h, w): the sum over channels of the squared map (B, K, h, w): what the trunk fires at, whatever is asked."""
    return A.square().sum(1)


def weighted(A: Tensor, alpha: Tensor) -> Tensor:
    """sum_k alpha_k A_k (T, B, h, w), signed, of A (B, K, h, w) and alpha (T, B, K)."""
    return torch.einsum("tbk,bkhw->tbhw", wide(alpha), wide(A))


def localisation(A: Tensor, alpha: Tensor) -> Tensor:
    """ReLU(sum_k alpha_k A_k) (T, B, h, w), of A (B, K, h, w) and alpha (T, B, K) (paper, eq. 2)."""
    return weighted(A, alpha).relu()


def guided_localisation(heatmaps: Tensor, gradient_images: Tensor) -> Tensor:
    """Guided Grad-CAM (T, B, 3, H, W): heatmaps (T, B, h, w), upsampled bilinearly, times gradient images."""
    return upsample(heatmaps, gradient_images.shape[-2:])[:, :, None] * gradient_images


def upsample(heatmaps: Tensor, size: Sequence[int]) -> Tensor:
    """Heatmaps (T, B, h, w) at `size` (H, W): (T, B, H, W), bilinear, corners not aligned."""
    return F.interpolate(heatmaps, size=tuple(size), mode="bilinear", align_corners=False)


def wide(values: Tensor) -> Tensor:
    """Half precision as float32, in which sums over positions and channels keep what is small; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def gradient_parts(scores: Tensor, A: Tensor) -> Iterator[Tensor]:
    """d scores (T, B) / d A in parts (t, B, K, h, w), each of as many targets as memory is meant to hold."""
    for part in scores.split(max(1, _GRADIENT_BUDGET // A.numel())):
        yield wide(gradients(part, A))


def gradients(scores: Tensor, inputs: Tensor) -> Tensor:
    """d scores (T, B) / d inputs (B, ...): (T, B, ...), in one batched backward pass of the graph between them.

    Raises `UserError` when the scores do not depend on the inputs.
    """
    if scores.requires_grad and len(scores) > 1:
        rows = torch.eye(len(scores)).to(scores)[:, :, None].expand(-1, -1, scores.shape[1])
        try:
            return _grad(scores, inputs, rows)
        except RuntimeError as error:
            if not cannot_be_batched(error):
                raise
    # One target, or an operation that cannot be batched: one backward pass for each target gives the same.
    return torch.stack([gradient_of(row, inputs) for row in scores])


def gradient_of(row: Tensor, inputs: Tensor, retain: bool = True) -> Tensor:
    """d sum(row (B,)) / d inputs (B, ...): one target's pass; without `retain` the graph goes with it."""
    return _grad(row.sum(), inputs, retain=retain)


def _grad(scores: Tensor, inputs: Tensor, rows: Tensor | None = None, retain: bool = True) -> Tensor:
    options: dict[str, Any] = {"retain_graph": retain, "allow_unused": True, "is_grads_batched": rows is not None}
    try:
        found = torch.autograd.grad(scores, inputs, rows, **options)[0] if scores.requires_grad else None
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise UserError(f"the network is checkpointed; {_REENTRANT}") from error
        raise
    if found is None:
        raise UserError(
            f"a target does not depend on the explained layer; name a layer on its way to the output ({_REENTRANT})"
        )
    return found


_REENTRANT = "checkpoint(..., use_reentrant=True) gives layers no gradients; set it to False, or turn it off"


def cannot_be_batched(error: RuntimeError) -> bool:
    """Whether `torch.vmap` gave up, for want of a rule for some operation or of memory: a loop does the same."""
    words = ("vmap", "batching rule", "functorch", "storage")  # a batched tensor has no storage to look into
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def graph_nodes(tensors: Iterable[Tensor]) -> list[Any]:
    """The nodes of autograd's graph behind some tensors, each once."""
    nodes: dict[Any, None] = {}
    waiting = [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes[node] = None
            waiting += [following for following, _ in node.next_functions]
    return list(nodes)
