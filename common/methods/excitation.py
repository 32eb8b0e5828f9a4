"""Excitation backprop: which units of a layer share in a unit's firing, as probabilities of a winner.

Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016). From parent i to child j flows
P(j) = a_j sum_i w+_ij P(i) / z_i with z_i = sum_j' w+_ij' a_j' (their eq. 4): inhibitory weights and biases
are left out, each unit's activity is taken as not negative. No module is touched: a `TorchFunctionMode` sees
every call.

T targets, B images, K channels, h,w feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.errors import MethodError
from common.explainable import Explainable
from common.gradcam import Targets, as_explainable
from common.relu import gate_name, relu_call
from common.state import ordinary, untouched
from common.targets import as_targets, score_table

Linear = Callable[..., Tensor]  # children's activities -> z, linear, without negative weights


def excitation(
    model: nn.Module | Explainable,
    images: Tensor,
    targets: Targets,
    layer: str | None = None,
    query: Any = None,
    contrastive: bool = False,
) -> Tensor:
    """Marginal winning probabilities (T, B, h, w) at the layer, summed over its channels: not negative.

    `contrastive` (c-MWP) subtracts those of the unit's dual, whose last weights are negated, and keeps what
    is positive (their section 3.3). Targets are single units of the output (logits), not functions of
    several. Fold batch normalisation first (`classification.load(fast=True)`): its gain has a sign, and left
    alone it passes probabilities on as they are. Raises `MethodError` for gates that excitation is not
    defined for (GELU, ...).
    """
    explainable = as_explainable(model, ordinary(images), layer, query)
    wanted = as_targets(targets)
    with untouched(explainable.network):
        with _Excitation() as mode:
            leaf, output = explainable.split(ordinary(images), query)
        with torch.enable_grad():
            scores = score_table(wanted, output, len(images))
        maps = torch.stack([_winners(mode, row, leaf) for row in scores])
        if contrastive:
            mode.dual = True
            maps = (maps - torch.stack([_winners(mode, row, leaf) for row in scores])).clamp(min=0)
    return maps.detach()


def _winners(mode: _Excitation, row: Tensor, leaf: Tensor) -> Tensor:
    if not mode.linears:
        raise MethodError(
            "excitation backprop found no linear layer or convolution behind the explained layer;"
            " name an earlier layer"
        )
    return torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0].sum(1)


class _Share(torch.autograd.Function):
    """An operation's own value forward; backward, each parent's probability is shared among its children."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, mode: _Excitation, place: int, positive: Linear, *xs: Tensor
    ) -> Tensor:
        ctx.mode, ctx.place, ctx.positive = mode, place, positive
        ctx.save_for_backward(*xs)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            children = [x.detach().clamp(min=0).requires_grad_() for x in ctx.saved_tensors]
            z = ctx.positive(*children, sign=-1 if ctx.mode.is_dual(ctx.place) else 1)
        shares = torch.where(
            z > 0, gradients[0] / z.clamp(min=torch.finfo(z.dtype).tiny), torch.zeros_like(z)
        )
        found = torch.autograd.grad(z, children, shares)
        return None, None, None, None, *(x * g for x, g in zip(children, found, strict=True))


class _Pass(torch.autograd.Function):
    """A gate or a norm: its value forward; a unit's probability goes to the one unit before it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class _Excitation(TorchFunctionMode):
    """Gives every call inside the block the rule of its kind; `dual` negates the last linear layer's
    weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linears, self.dual = 0, False

    def is_dual(self, place: int) -> bool:
        return self.dual and place == self.linears

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [arg for arg in args if isinstance(arg, Tensor)] or list(kwargs.values())[:1]
        if not torch.is_grad_enabled() or not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return func(*args, **kwargs)
        if func in _WEIGHTED:
            return self._weighted(func, *args, **kwargs)
        if func in _AVERAGES:
            return self._average(func, *args, **kwargs)
        if func in _SUMS and len(inputs) == 2:
            children = [x.clone() for x in inputs]  # before a sum in place overwrites one of them
            return self._shared(
                func(*args, **kwargs), 0, lambda a, b, sign: torch.add(a, b, **kwargs), *children
            )
        if func in _GATES or relu_call(func, args, kwargs) is not None:
            value = func(
                *[arg.detach() if isinstance(arg, Tensor) else arg for arg in args], **_detached(kwargs)
            )
            return _Pass.apply(value, inputs[0])
        if gate_name(func) or (
            func in _PRODUCTS and len(inputs) == 2 and all(x.requires_grad for x in inputs)
        ):
            kind = gate_name(func) or "products of two maps"
            raise MethodError(
                f"this model has {kind} behind the explained layer, for which excitation backprop is not"
                " defined; use the method 'gradcam', or a layer behind the last of them"
            )
        return func(*args, **kwargs)

    def _weighted(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        self.linears += 1
        value = func(input, weight, bias, *args, **kwargs)

        def positive(a: Tensor, sign: int) -> Tensor:
            return func(a, (sign * weight.detach()).clamp(min=0), None, *args, **kwargs)

        return self._shared(value, self.linears, positive, input)

    def _average(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._shared(func(x, *args, **kwargs), 0, lambda a, sign: func(a, *args, **kwargs), x)

    def _shared(self, value: Tensor, place: int, positive: Linear, *xs: Tensor) -> Tensor:
        return _Share.apply(value.detach(), self, place, positive, *xs)


# Where the children have weights, where they have equal ones, where two are added, and where there is one
# child.
_WEIGHTED = {F.linear, F.conv2d, torch.conv2d}
_AVERAGES = {
    F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, Tensor.mean, torch.sum, Tensor.sum,
}  # fmt: skip
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}
_GATES = {F.batch_norm, torch.batch_norm}
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__, Tensor.__rmul__}


def _detached(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
