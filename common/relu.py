"""Guided Backprop and deconvolution: every ReLU's backward rule replaced, whichever way it is called.

A `TorchFunctionMode` sees each call of a torch function, so `nn.ReLU`, `F.relu`, `torch.relu`,
`Tensor.relu_`, a ReLU used several times and ReLU6 are all caught, and no module is touched.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from common.errors import MethodError

aten = torch.ops.aten
INFINITY = float("inf")


def _guided(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    # A gradient passes where the input and the gradient are positive (Springenberg et al. 2015, sec. 3.4),
    # and for ReLU6 below its ceiling, where the function is flat.
    return _plain(gradient, output, ceiling).clamp_(min=0)


def _deconv(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    # Only the sign of the gradient gates (Zeiler and Fergus 2014): the forward pass is not looked at.
    return gradient.clamp(min=0)


def _plain(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    if ceiling == INFINITY:
        return aten.threshold_backward(gradient, output, 0)
    return aten.hardtanh_backward(gradient, output, 0.0, ceiling)


RULES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"guided": _guided, "deconv": _deconv}


class _RuledReLU(torch.autograd.Function):
    """min(max(x, 0), ceiling) with a backward rule of `RULES`; saves its output, as ReLU itself does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float, rule: str, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
            y = x.relu_() if ceiling == INFINITY else aten.hardtanh_(x, 0.0, ceiling)
        else:
            y = x.relu() if ceiling == INFINITY else aten.hardtanh(x, 0.0, ceiling)
        ctx.ceiling, ctx.rule = ceiling, rule
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return RULES[ctx.rule](gradient, y, ctx.ceiling), None, None, None


def _relu(x: Tensor, inplace: bool = False) -> tuple[float, bool] | None:
    return INFINITY, inplace


def _relu_(x: Tensor) -> tuple[float, bool] | None:
    return INFINITY, True


def _relu6(x: Tensor, inplace: bool = False) -> tuple[float, bool] | None:
    return 6.0, inplace


def _hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> tuple[float, bool] | None:
    return (float(max_val), inplace) if min_val == 0 else None


def _clamp(x: Tensor, min: Any = None, max: Any = None, **_: Any) -> tuple[float, bool] | None:
    if isinstance(min, (int, float)) and min == 0 and (max is None or isinstance(max, (int, float))):
        return (INFINITY if max is None else float(max)), False
    return None


# What each torch function means as a ReLU: (ceiling, in place), or None where it is none.
_RELUS: dict[Any, Callable[..., tuple[float, bool] | None]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu,
    F.relu_: _relu_, torch.relu_: _relu_, Tensor.relu_: _relu_,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    torch.clamp: _clamp, Tensor.clamp: _clamp, torch.clamp_min: _clamp, Tensor.clamp_min: _clamp,
}  # fmt: skip

# Gates that are no ReLU: the rules above are not defined for them.
_SMOOTH: dict[Any, str] = {
    F.gelu: "GELU", F.silu: "SiLU", F.elu: "ELU", F.selu: "SELU", F.celu: "CELU", F.mish: "Mish",
    F.softplus: "Softplus", F.hardswish: "Hardswish", F.leaky_relu: "LeakyReLU", F.rrelu: "RReLU",
    torch.prelu: "PReLU", F.prelu: "PReLU", F.hardsigmoid: "Hardsigmoid", F.logsigmoid: "LogSigmoid",
}  # fmt: skip


class _GuidedReLUs(TorchFunctionMode):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _RELUS.get(func)
        if read is not None:
            found = read(*args, **kwargs)
            if found is not None:
                x = args[0] if args else kwargs["input"]
                return _RuledReLU.apply(x, found[0], self.rule, found[1])
        elif func in _SMOOTH:
            raise MethodError(
                f"this model has {_SMOOTH[func]} activations, and Guided Backprop and deconvolution are"
                f" defined for ReLU and ReLU6 only; use the methods 'gradcam', 'gradient' or 'occlusion'"
            )
        return func(*args, **kwargs)


@contextlib.contextmanager
def guided_relus(rule: str | None) -> Iterator[None]:
    """Give every ReLU called inside the block the backward rule 'guided' or 'deconv'; None changes nothing.

    Guided Backprop (Springenberg et al. 2015) passes a gradient where the ReLU's input and the gradient are
    both positive; deconvolution (Zeiler and Fergus 2014) where the gradient is. Values of the forward pass
    stay as they are. Raises `MethodError` when a gate that is no ReLU (GELU, SiLU, ...) is called inside.

    >>> x = torch.tensor([2.0, 2.0, -1.0], requires_grad=True)
    >>> with guided_relus("guided"):
    ...     y = torch.relu(x)
    >>> torch.autograd.grad(y, x, torch.tensor([1.0, -1.0, 1.0]))[0].tolist()
    [1.0, 0.0, 0.0]
    """
    if rule is None:
        yield
        return
    if rule not in RULES:
        raise MethodError(f"unknown ReLU rule {rule!r}; known: {', '.join(RULES)}")
    with _GuidedReLUs(rule):
        yield
