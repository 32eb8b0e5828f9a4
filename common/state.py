"""Leaving a model as it was found."""

import contextlib
import random
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; modes, RNN dropout and random state put back after it, come what may.

    The caller's `no_grad` and `inference_mode` are lifted inside as well, so that what is explained does not
    depend on where the call stands. cuDNN refuses the backward pass of an RNN in evaluation mode, so RNNs on
    CUDA run in training mode with their dropout at zero, which computes the same.

    Threads: one at a time is let into the block of a network, the others wait, so a model may be explained by
    many. A thread that calls the model itself meanwhile finds it in evaluation mode. The random states (of
    PyTorch, NumPy and Python) belong to the process: what another thread draws meanwhile may be drawn again.

    A block inside another one of the same network leaves all that to the outer one.
    """
    guard = _guard(network)
    with guard.lock:
        if guard.entered:
            with torch.inference_mode(False):
                yield
            return
        guard.entered = True
        try:
            with _untouched(network):
                yield
        finally:
            guard.entered = False


class _Guard:
    """Who is inside a network's block: the thread that holds `lock`, once `entered` is set."""

    def __init__(self) -> None:
        self.lock, self.entered = threading.RLock(), False


_GUARDS: weakref.WeakKeyDictionary[nn.Module, _Guard] = weakref.WeakKeyDictionary()
_GUARDS_LOCK = threading.Lock()


def _guard(network: nn.Module) -> _Guard:
    with _GUARDS_LOCK:
        return _GUARDS.setdefault(network, _Guard())


@contextlib.contextmanager
def _untouched(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in _modules(network)]
    rnns, cuda = [], []
    if torch.cuda.is_initialized():  # else nothing can be on a CUDA device
        rnns = [(m, m.dropout) for m, _ in modes if isinstance(m, nn.RNNBase) and _on_cuda(m)]
        cuda = sorted({p.device.index or 0 for p in network.parameters() if p.is_cuda})
    try:
        for module, mode in modes:
            if mode:  # assigning is slow enough to be felt next to a forward pass
                module.training = False
        for rnn, _ in rnns:
            rnn.training, rnn.dropout = True, 0.0
        with torch.random.fork_rng(devices=cuda), _other_random_state(), torch.inference_mode(False):
            yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.training = mode
        for rnn, dropout in rnns:
            rnn.dropout = dropout


@contextlib.contextmanager
def _other_random_state() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def ordinary(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it that autograd can record if it was made in `inference_mode`."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


def _modules(network: nn.Module) -> list[nn.Module]:
    # What `network.modules()` gives, without the names it makes on the way: next to a forward pass it is felt.
    found = {network: None}
    waiting = [network]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def _on_cuda(module: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in module.parameters())
