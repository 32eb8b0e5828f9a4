"""One forward pass watched: which module took which tensor, and the chain of modules an image runs through.

The spine of a network is the chain in which each module's input is exactly what the module before it gave:
convolutions, blocks with a shortcut inside (each one link), pooling. Nothing else happens to the image there,
so the links can be run one by one in the network's stead.

Buys nothing by itself: folding, fusing and cropping learn here what they may touch. Checked: a tensor counts as
another's only if it is the same object at the same version, so that work in place breaks the chain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.layers import first_tensor

# A module that is no whole chain itself is still one link if it shrinks the map at most so much; a larger one
# is a part of the network, and it is entered instead.
_LARGEST_STRIDE = 4


# A tensor with its version counter at that time, which tells it from itself after an in-place operation.
Version = tuple[Tensor, int]


@dataclass(eq=False)
class Call:
    """One call of a module."""

    module: nn.Module
    source: Version | None
    alone: bool  # whether the source is the only thing the module was given
    output: Version | None = None
    tensor_output: bool = False
    calls: list["Call"] = field(default_factory=list)

    def walk(self) -> Iterator["Call"]:
        yield self
        for call in self.calls:
            yield from call.walk()


def trace(network: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """All calls of the network's modules during `run()`, as trees, in order. Keeps every activation alive."""
    roots: list[Call] = []
    open_calls: list[Call] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        source = next((value for value in given if isinstance(value, Tensor)), None)
        call = Call(module, _versioned(source), all(value is source for value in given))
        (open_calls[-1].calls if open_calls else roots).append(call)
        open_calls.append(call)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = open_calls.pop()
        call.output, call.tensor_output = _versioned(first_tensor(output)), isinstance(output, Tensor)

    handles: list[Any] = []
    try:
        for module in network.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        # Version counters exist in no_grad, not in inference_mode.
        with torch.inference_mode(False), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return roots


def spine(calls: list[Call], images: Tensor) -> list[Call]:
    """The longest chain of calls that starts at `images`: see the top of this file. May be empty."""
    return _follow(calls, _versioned(images))[0]


def _follow(calls: list[Call], at: Version | None) -> tuple[list[Call], Version | None]:
    """The chain from the tensor `at` through `calls`, and the tensor it ends with (None: it broke off inside)."""
    chain: list[Call] = []
    for call in calls:
        if not same(call.source, at):
            continue
        inner, end = _follow(call.calls, at)
        if inner and same(end, call.output) and call.tensor_output:
            chain += inner
        elif call.alone and call.tensor_output and _is_link(call):
            chain.append(call)
        else:
            return chain + inner, None
        at = call.output
    return chain, at


def same(one: Version | None, other: Version | None) -> bool:
    """Whether both are one tensor that was not changed in between."""
    return one is not None and other is not None and one[0] is other[0] and one[1] == other[1]


def _is_link(call: Call) -> bool:
    if not call.calls:
        return True
    source, output = call.source, call.output
    if source is None or output is None or source[0].dim() != 4 or output[0].dim() != 4:
        return False
    sizes = zip(source[0].shape[-2:], output[0].shape[-2:], strict=True)
    return all(before <= after * _LARGEST_STRIDE for before, after in sizes)


def _versioned(tensor: Tensor | None) -> Version | None:
    return None if tensor is None else (tensor, tensor._version)
