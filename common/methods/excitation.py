"""Excitation backprop: which units of a layer share in a unit's firing, as probabilities of a winner.

Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016). From parent i to child j flows
P(j) = a_j sum_i w+_ij P(i) / z_i with z_i = sum_j' w+_ij' a_j' (their eq. 4): inhibitory weights and biases
are left out, each unit's activity is taken as not negative.

That is a gradient as well: of z_i / constant(z_i), by children whose own gradient is a_j. So each operation gets a
stand-in, a term of value 0 with this gradient, beside its own value without one, and autograd does the rest. No
module is touched: a `TorchFunctionMode` sees every call.

T targets, B images, K channels, h,w feature map.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.errors import MethodError
from common.explainable import Explainable, as_explainable
from common.formulas import gradients
from common.relu import gate_name, relu_call
from common.state import ordinary, untouched
from common.targets import Targets, as_targets, score_table


def excitation(
    model: nn.Module | Explainable,
    images: Tensor,
    targets: Targets,
    layer: str | None = None,
    query: Any = None,
    contrastive: bool = False,
) -> Tensor:
    """Marginal winning probabilities (T, B, h, w) at the layer, summed over its channels: not negative.

    `contrastive` (c-MWP) subtracts those of the unit's dual, whose last weights are negated, and keeps what is positive
    (their section 3.3). Targets are single units of the output (logits), not functions of several. Fold batch
    normalisation first (`classification.load(fast=True)`): its gain has a sign, and left alone it passes probabilities
    on as they are. Raises `MethodError` for gates that excitation is not defined for (GELU, ...).

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> excitation(network, torch.rand(1, 3, 16, 16), [4, 0], contrastive=True).shape
    torch.Size([2, 1, 14, 14])
    """
    images = ordinary(images)
    explainable, wanted = as_explainable(model, images, layer, query), as_targets(targets)

    def probabilities(dual: int | None = None) -> tuple[Tensor, int]:
        with _Excitation(dual) as mode:
            leaf, output = explainable.split(images.clone(), query)
        if not mode.linears:
            raise MethodError(
                "excitation backprop found no linear layer or convolution behind the explained layer;"
                " name an earlier layer"
            )
        with torch.enable_grad():
            scores = score_table(wanted, output, len(leaf), differentiable=True)
        return gradients(scores, leaf).sum(2), mode.linears

    with untouched(explainable.network):
        maps, linears = probabilities()
        return (maps - probabilities(dual=linears)[0]).clamp(min=0) if contrastive else maps


class _Excitation(TorchFunctionMode):
    """Gives every call inside the block the rule of its kind; `dual` is the linear layer whose weights it negates."""

    def __init__(self, dual: int | None = None) -> None:
        super().__init__()
        self.linears, self.dual = 0, dual

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
            return func(*args, **kwargs)
        if func in _WEIGHTED:
            return self._weighted(func, *args, **kwargs)
        if func in _AVERAGES:
            return _average(func, *args, **kwargs)
        if func in _SUMS and len(inputs) == 2:
            total = torch.add(*map(_child, inputs), **kwargs)  # before a sum in place overwrites one of them
            return _standing_in(func(*args, **kwargs), _share(total))
        if func in _GATES or relu_call(func, args, kwargs) is not None:
            value = func(*map(_detached, args), **{name: _detached(x) for name, x in kwargs.items()})
            return _standing_in(value, inputs[0])  # the probability goes to the one unit before it
        several = func in _PRODUCTS and len(inputs) == 2 and all(x.requires_grad for x in inputs)
        if gate_name(func) or several:
            raise MethodError(
                f"this model has {gate_name(func) or 'products of two maps'} behind the explained layer, for which"
                " excitation backprop is not defined; use the method 'gradcam', or a layer behind the last of them"
            )
        return func(*args, **kwargs)

    def _weighted(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        self.linears += 1
        sign = -1 if self.linears == self.dual else 1
        value = func(input, weight, bias, *args, **kwargs)
        z = func(_child(input), (sign * weight.detach()).clamp(min=0), None, *args, **kwargs)
        return _standing_in(value, _share(z))


def _average(func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _standing_in(func(input, *args, **kwargs), _share(func(_child(input), *args, **kwargs)))


def _child(x: Tensor) -> Tensor:
    """The activity a = max(x, 0), whose gradient by x is a itself."""
    return x.detach().clamp(min=0) * (1 + x - x.detach())


def _share(z: Tensor) -> Tensor:
    """z / constant(z), whose gradient by a child is its weight's share; nothing where no child excites."""
    return torch.where(z > 0, z, 0) / z.detach().clamp(min=torch.finfo(z.dtype).tiny)


def _standing_in(value: Tensor, stand_in: Tensor) -> Tensor:
    """The value of one, with the gradient of the other."""
    return value.detach() + (stand_in - stand_in.detach())


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


# Where the children have weights, where they have equal ones, where two are added, where there is one child.
_WEIGHTED = {F.linear, F.conv2d, torch.conv2d}
_AVERAGES = {
    F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, Tensor.mean, torch.sum, Tensor.sum,
}  # fmt: skip
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}
_GATES = {F.batch_norm, torch.batch_norm}
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__, Tensor.__rmul__}
