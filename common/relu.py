"""Guided Backprop and deconvolution: every ReLU's backward rule replaced, whichever way it is written.

A `TorchFunctionMode` sees each call of a torch function by its name, so `nn.ReLU`, `F.relu`, `relu_`, ReLU6,
`clamp(min=0)`, `maximum(x, 0)`, `where(x > 0, x, 0)`, `x * (x > 0)`, and a ReLU used several times are all ruled,
and no module is touched. Gates that are no ReLU are refused: those with a name (GELU, LeakyReLU, ...), those
written out (`x * sigmoid(x)`), and what the mode doesn't see but leaves a trace in the graph (scripted parts,
an autograd `Function` of the user's).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from common.errors import MethodError
from common.formulas import graph_nodes
from common.layers import tensors

aten = torch.ops.aten
INFINITY = float("inf")


class _RuledReLU(torch.autograd.Function):
    """min(max(x, 0), ceiling) with the backward rule 'guided' or 'deconv'; saves its output, as ReLU itself does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float, rule: str, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = F.hardtanh(x, 0.0, ceiling, inplace)
        ctx.ceiling, ctx.rule = ceiling, rule
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        if ctx.rule == "guided":  # only where the function isn't flat; deconvolution does not look at the forward pass
            (y,) = ctx.saved_tensors
            gradient = aten.hardtanh_backward(gradient, y, 0.0, ctx.ceiling)
        return gradient.clamp(min=0), None, None, None


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return (input, float(max_val)) if min_val == 0 else None


def _clamp(input: Tensor, min: Any = None, max: Any = None, **_: Any) -> tuple[Tensor, float] | None:
    if min is None or not _is_zero(min):
        return None
    if isinstance(max, Tensor) and max.dim():
        raise _refusal("a clamp at zero and a tensor of ceilings")
    return input, INFINITY if max is None else float(max)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> tuple[Tensor, float]:
    if threshold != 0 or value != 0:
        raise _refusal(f"a threshold at {threshold} with the value {value}")
    return input, INFINITY


def _maximum(input: Tensor, other: Any = None, *_: Any, **__: Any) -> tuple[Tensor, float] | None:
    if not isinstance(other, Tensor):
        return None  # the maximum over an axis
    for x, floor in ((input, other), (other, input)):
        if _is_zero(floor) and torch.broadcast_shapes(x.shape, floor.shape) == x.shape:
            return x, INFINITY
    return None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, (int, float)) and value == 0


# What each torch function, by its name, means as a ReLU: its input and ceiling, or None where it is none.
_RELUS: dict[str, Callable[..., tuple[Tensor, float] | None]] = {
    "relu": lambda input, *_, **__: (input, INFINITY), "relu6": lambda input, *_, **__: (input, 6.0),
    "hardtanh": _hardtanh, "threshold": _threshold,
    "clamp": _clamp, "clip": _clamp, "clamp_min": _clamp, "maximum": _maximum, "fmax": _maximum, "max": _maximum,
}  # fmt: skip

# Gates that are no ReLU: the rules above are not defined for them.
_SMOOTH: dict[str, str] = {
    "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "selu": "SELU", "celu": "CELU", "mish": "Mish",
    "softplus": "Softplus", "hardswish": "Hardswish", "leaky_relu": "LeakyReLU", "rrelu": "RReLU",
    "prelu": "PReLU", "hardsigmoid": "Hardsigmoid", "logsigmoid": "LogSigmoid", "log_sigmoid": "LogSigmoid",
    "softshrink": "Softshrink", "hardshrink": "Hardshrink",
}  # fmt: skip


def _name(func: Any) -> str:
    """A torch function's name without the underscores of operators (`__mul__`) and of work in place (`relu_`)."""
    return getattr(func, "__name__", "").strip("_")


def relu_call(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, float] | None:
    """The input and ceiling of a torch function's call that is a ReLU; None for any other."""
    read = _RELUS.get(_name(func))
    return None if read is None else read(*args, **kwargs)


def gate_name(func: Any) -> str | None:
    """The name of a gate that is no ReLU, for people; None for any other torch function."""
    return _SMOOTH.get(_name(func))


def _refusal(what: str) -> MethodError:
    return MethodError(
        f"this model has {what}, and Guided Backprop, deconvolution and excitation are defined for"
        " ReLU and ReLU6 only;"
        " use the methods 'gradcam', 'gradient' or 'occlusion'"
    )


# Functions of one map, value by value: signs (whether of the positive side), casts and straight lines, curves.
_SIGNS = {"gt": True, "ge": True, "lt": False, "le": False}
_CASTS = {"float", "double", "half", "to", "type_as"}
_LINES = {"add", "sub", "rsub", "mul", "div", "true_divide", "neg", *_CASTS}
_CURVES = {"sigmoid", "tanh", "erf", "exp", "hardtanh", "relu6", "clamp", "clip"}
_PRODUCTS = {"mul", "multiply", "div", "true_divide"}


class _Origin(NamedTuple):
    """The map that a tensor was made of, value by value; of a mask also whose sign it tells, and which."""

    root: Tensor
    curved: bool = False
    marked: Tensor | None = None
    positive: bool = False


class _GuidedReLUs(TorchFunctionMode):
    """Rules the ReLUs. What is made of a map remembers it, so that a gate written out is known where they meet."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.origins: Any = WeakIdKeyDictionary()  # Tensor -> _Origin; a tensor that is missing is its own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in _SMOOTH:
            raise _refusal(f"{_SMOOTH[name]} activations")
        given = (*args, *kwargs.values())
        written_out = self._written_out(name, given)
        found = relu_call(func, args, kwargs) if written_out is None else (written_out, INFINITY)
        if found is None:
            result = func(*args, **kwargs)
        else:
            result = _RuledReLU.apply(*found, self.rule, _in_place(func, args, kwargs))
        if name in _LINES or name in _CURVES or name in _SIGNS:
            self._remember(name, given, result)
        return result

    def _origin(self, x: Any) -> _Origin:
        return self.origins.get(x) or _Origin(x)

    def _remember(self, name: str, given: Any, result: Any) -> None:
        maps = [value for value in given if isinstance(value, Tensor) and value.dim()]
        if not maps or (len(maps) > 1 and name != "type_as") or result is maps[0]:
            return
        origin = self._origin(maps[0])
        if name in _SIGNS and _is_zero(given[1]):
            origin = _Origin(origin.root, True, maps[0], _SIGNS[name])
        elif name not in _LINES or (origin.curved and name not in _CASTS):
            origin = _Origin(origin.root, True)
        if origin.root.requires_grad:
            self.origins[result] = origin

    def _written_out(self, name: str, given: Any) -> Tensor | None:
        """The input of a ReLU written out; raises `MethodError` for another gate written out."""
        if name in _PRODUCTS and len(given) == 2 and all(isinstance(value, Tensor) for value in given):
            return self._product(*given)
        if len(given) != 3 or name not in ("where", "masked_fill", "setitem"):
            return None
        x, mask, other = given  # x.where(mask, other), x.masked_fill(mask, value), x[mask] = value
        if name != "where":
            x, other = other, x
        elif x.dtype == torch.bool:  # torch.where(mask, x, other)
            x, mask = mask, x
        return self._choice(mask, x, other, name) if isinstance(mask, Tensor) else None

    def _product(self, a: Tensor, b: Tensor) -> Tensor | None:
        one, other = self._origin(a), self._origin(b)
        if one.root is not other.root or not (one.curved or other.curved):
            return None
        for x, gate in ((a, other), (b, one)):
            if gate.marked is x and gate.positive:
                return x
        raise _refusal("a map multiplied by a function of itself, such as x * sigmoid(x)")

    def _choice(self, mask: Tensor, chosen: Any, other: Any, name: str) -> Tensor | None:
        root, _, marked, positive = self._origin(mask)
        if marked is None:
            return None
        x, rest = (chosen, other) if positive else (other, chosen)
        if x is marked and _is_zero(rest) and name != "setitem":
            return x
        if any(isinstance(value, Tensor) and self._origin(value).root is root for value in (chosen, other)):
            raise _refusal(f"a gate written as '{name}' on a map's sign")
        return None


def _in_place(func: Any, args: Any, kwargs: Any) -> bool:
    # `relu_` and `__imul__`, not `__mul__`; or inplace=True, or F.relu(x, True).
    name = getattr(func, "__name__", "")
    by_name = name.startswith("__i") or (name.endswith("_") and not name.startswith("_"))
    return by_name or kwargs.get("inplace", args[-1] if args else False) is True


@contextlib.contextmanager
def guided_relus(rule: str | None, network: nn.Module | None = None) -> Iterator[Callable[[Any], Any]]:
    """Give every ReLU called inside the block the backward rule 'guided' or 'deconv'; None changes nothing.

    Guided Backprop (Springenberg et al. 2015) passes a gradient where the ReLU's input and the gradient are
    both positive; deconvolution (Zeiler and Fergus 2014) where the gradient is. Values of the forward pass
    stay as they are. Gives a function that takes what the block computed and returns it, once its graph was
    searched for gates that were not seen. Raises `MethodError` for a gate that is no ReLU (GELU, SiLU, ...), for
    scripted parts and for autograd Functions, whose gates are out of reach.

    >>> x = torch.tensor([2.0, 2.0, -1.0], requires_grad=True)
    >>> with guided_relus("guided") as checked:
    ...     y = checked(torch.relu(x))
    >>> torch.autograd.grad(y, x, torch.tensor([1.0, -1.0, 1.0]))[0].tolist()
    [1.0, 0.0, 0.0]
    """
    if rule is None:
        yield lambda output: output
        return
    if rule not in ("guided", "deconv"):
        raise MethodError(f"unknown ReLU rule {rule!r}; known: guided, deconv")
    for name, module in network.named_modules() if network is not None else ():
        if isinstance(module, torch.jit.ScriptModule):
            raise _refusal(f"a scripted or traced part, '{name}', where activations can't be ruled")
    with _GuidedReLUs(rule):
        yield _checked


def _checked(output: Any) -> Any:
    """`output`, whose graph has no gate that went past the mode."""
    for node in graph_nodes(tensors(output)):
        what = _out_of_reach(node)
        if what is not None:
            raise _refusal(f"{what} where activations can't be ruled")
    return output


def _out_of_reach(node: Any) -> str | None:
    """What a node of a graph that may hold a gate is, for people; None for an ordinary one."""
    kind = node.name().split("::")[-1].removesuffix("Backward").rstrip("0123456789").removesuffix("Backward")
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return None if kind in _HARMLESS else f"an autograd Function of its own, '{kind}',"
    if kind == "DifferentiableGraph":
        return "a scripted function"
    floor = getattr(node, "_saved_min", getattr(node, "_saved_min_val", None))
    if kind in ("Relu", "Threshold") or (kind in ("Clamp", "ClampMin", "Hardtanh") and floor == 0):
        return f"a scripted function or extension, with '{kind}',"
    return None


# Ours; and what modules with full backward hooks put around themselves.
_HARMLESS = ("_RuledReLU", "BackwardHookFunction")
