"""Guided Backprop and deconvolution: every ReLU's backward rule replaced, whichever way it is written.

A `TorchFunctionMode` sees each call of a torch function by its name, so `nn.ReLU`, `F.relu`, `relu_`, ReLU6,
`clamp(min=0)`, `maximum(x, 0)`, `where(x > 0, x, 0)`, `x * (x > 0)`, and a ReLU used several times are all ruled,
and no module is touched. Gates that are no ReLU are refused: those with a name (GELU, LeakyReLU, ...), those
written out (`x * sigmoid(x)`), and what the mode doesn't see but leaves a trace in the graph (scripted parts,
an autograd `Function` of the user's).
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

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


def _relu(input: Tensor, inplace: bool = False) -> tuple[Tensor, float]:
    return input, INFINITY


def _relu6(input: Tensor, inplace: bool = False) -> tuple[Tensor, float]:
    return input, 6.0


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
    "relu": _relu, "relu6": _relu6, "hardtanh": _hardtanh, "threshold": _threshold,
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


# Functions of one map, value by value, by what they make of it. What is made of x remembers x (its root), so
# that a gate written out is known where x meets it.
_MASKS = {"gt": "positive", "ge": "positive", "lt": "negative", "le": "negative"}
_CURVES = {"sigmoid", "tanh", "erf", "exp", "hardtanh", "relu6", "clamp", "clip"}
_LINES = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "true_divide",
    "neg",
    "float",
    "double",
    "half",
    "to",
    "type_as",
}
_CASTS = {"float", "double", "half", "to", "type_as"}
_PRODUCTS = {"mul", "multiply", "div", "true_divide"}
_CHOICES = {"where", "masked_fill", "setitem"}


class _Origin(NamedTuple):
    root: Tensor
    kind: str  # 'line', 'curve', or the sign that a mask marks
    marked: Tensor | None = None  # whose sign it is


class _Origins:
    """Which map each tensor was made of, value by value."""

    def __init__(self) -> None:
        self.known: Any = WeakIdKeyDictionary()

    def of(self, x: Tensor) -> _Origin:
        root, kind, marked = self.known.get(x, (lambda: None, "line", lambda: None))
        found = root()
        return _Origin(x, "line") if found is None else _Origin(found, kind, marked())

    def note(self, name: str, args: Any, result: Any) -> None:
        """Remember what `result` was made of."""
        if name not in _LINES and name not in _CURVES and name not in _MASKS:
            return
        maps = [arg for arg in args if isinstance(arg, Tensor) and arg.dim()]
        if len(maps) != 1 and not (maps and name == "type_as"):
            return
        root, kind, marked = self.of(maps[0])
        if result is maps[0] or not root.requires_grad:
            return
        if name in _MASKS:
            kind, marked = (_MASKS[name], maps[0]) if _is_zero(args[1]) else ("curve", None)
        elif name in _CURVES or (kind != "line" and name not in _CASTS):
            kind, marked = "curve", None
        self.known[result] = (
            weakref.ref(root),
            kind,
            (lambda: None) if marked is None else weakref.ref(marked),
        )

    def relu(self, name: str, args: Any) -> Tensor | None:
        """The input of a ReLU written out; raises `MethodError` for another gate written out."""
        if name in _PRODUCTS and len(args) == 2 and all(isinstance(arg, Tensor) for arg in args):
            return self._product(*args)
        if name in _CHOICES and len(args) == 3:
            first, second, third = args
            if name == "where" and first.dtype == torch.bool:
                return self._choice(first, second, third, name)
            # x.where(mask, other), x.masked_fill(mask, value), x[mask] = value
            return self._choice(second, *((first, third) if name == "where" else (third, first)), name)
        return None

    def _product(self, a: Tensor, b: Tensor) -> Tensor | None:
        one, other = self.of(a), self.of(b)
        if one.root is not other.root or one.kind == other.kind == "line":
            return None
        for x, mask in ((a, other), (b, one)):
            if mask.kind == "positive" and mask.marked is x:
                return x
        raise _refusal("a map multiplied by a function of itself, such as x * sigmoid(x)")

    def _choice(self, mask: Any, chosen: Any, other: Any, name: str) -> Tensor | None:
        origin = self.of(mask) if isinstance(mask, Tensor) else None
        if origin is None or origin.kind not in ("positive", "negative"):
            return None
        x, rest = (chosen, other) if origin.kind == "positive" else (other, chosen)
        if x is origin.marked and _is_zero(rest) and name != "setitem":
            return x
        if any(isinstance(value, Tensor) and self.of(value).root is origin.root for value in (chosen, other)):
            raise _refusal(f"a gate written as '{name}' on a map's sign")
        return None


class _GuidedReLUs(TorchFunctionMode):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule, self.origins = rule, _Origins()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in _SMOOTH:
            raise _refusal(f"{_SMOOTH[name]} activations")
        written_out = self.origins.relu(name, (*args, *kwargs.values()))
        found = relu_call(func, args, kwargs) if written_out is None else (written_out, INFINITY)
        if found is None:
            result = func(*args, **kwargs)
        else:
            result = _RuledReLU.apply(*found, self.rule, _in_place(func, kwargs, args))
        self.origins.note(name, args, result)
        return result


def _in_place(func: Any, kwargs: Any, args: Any) -> bool:
    name = getattr(func, "__name__", "")
    last = args[-1] if args and isinstance(args[-1], bool) else False  # F.relu(x, True)
    return (
        kwargs.get("inplace", last) is True
        or name.startswith("__i")
        or (name.endswith("_") and name[0] != "_")
    )


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
    if rule not in RULES:
        raise MethodError(f"unknown ReLU rule {rule!r}; known: {', '.join(RULES)}")
    for name, module in network.named_modules() if network is not None else ():
        if isinstance(module, torch.jit.ScriptModule):
            raise _refusal(f"a scripted or traced part, '{name}', where activations can't be ruled")
    with _GuidedReLUs(rule):
        yield _checked


def _checked(output: Any) -> Any:
    """`output`, whose graph has no gate that went past the mode."""
    nodes, waiting = set(), [tensor.grad_fn for tensor in _tensors(output)]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        what = _out_of_reach(node)
        if what is not None:
            raise _refusal(f"{what} where activations can't be ruled")
        waiting += [following for following, _ in node.next_functions]
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


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (dict, list, tuple)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)
    elif hasattr(output, "__dict__") and not isinstance(output, nn.Module):
        yield from _tensors(list(vars(output).values()))
