"""Which layers of a network have a feature map, and which one to explain by default.

B images, K channels, h,w feature map.
"""

import difflib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import LayerError
from common.state import ordinary, untouched

Forward = Callable[[Tensor, Any], Any]  # images, query -> output

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Layer:
    """A layer with a feature map: its name, the type of its module and the map's shape (K, h, w)."""

    name: str
    kind: str
    shape: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {'x'.join(map(str, self.shape))})"


@dataclass(frozen=True)
class _Run:
    name: str
    module: nn.Module
    shape: tuple[int, ...]
    is_map: bool
    is_tensor: bool  # the output itself, not the first part of a tuple or ModelOutput


def layers(
    network: nn.Module, images: Tensor, query: Any = None, forward: Forward | None = None
) -> list[Layer]:
    """Every layer whose output is a feature map, in the order in which they finish, from one forward pass.

    `images` (B, 3, H, W) decide the maps' sizes. A layer that runs several times is listed at its last run.
    """
    found = {
        run.name: Layer(run.name, type(run.module).__name__, (run.shape[1], run.shape[2], run.shape[3]))
        for run in _runs(network, images, query, forward)
        if run.name and run.is_map
    }
    return list(found.values())


def default_layer(
    network: nn.Module, images: Tensor, query: Any = None, forward: Forward | None = None
) -> str:
    """The last convolutional feature map after its activation, as in the paper; cached for each network.

    From the last convolution with more than one position the search goes on through the layers that keep
    its size (normalisation, activation, the block around it) and ends where pooling starts.
    Raises `LayerError` for networks without one, such as vision transformers.
    """
    known = _DEFAULTS.get(network)
    if known is None or submodule(network, known) is None:
        known = _DEFAULTS[network] = _find_default(_runs(network, images[:1], query, forward), network)
    return known


_DEFAULTS: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def _find_default(runs: list[_Run], network: nn.Module) -> str:
    convolutions = [i for i, run in enumerate(runs) if run.is_map and isinstance(run.module, CONVOLUTIONS)]
    last = max(convolutions, default=None)
    if last is None:
        raise LayerError(
            f"{type(network).__name__} runs no convolution with a feature map; name the layer to explain and,"
            " for a transformer, its TokenGrid"
        )
    size, chosen = runs[last].shape[2:], last
    mixers = 0
    for i in range(last + 1, len(runs)):
        run = runs[i]
        if "pool" in type(run.module).__name__.lower() or not run.name:
            break
        mixers += isinstance(run.module, nn.Linear) and len(run.shape) > 2
        if run.is_map and run.is_tensor and run.shape[2:] == size:
            chosen, mixers = i, 0
    if mixers > 2:
        # Many linear layers on token sequences behind the last convolution: a transformer's patch embedding.
        raise LayerError(
            f"{type(network).__name__} is a transformer: its last convolution ('{runs[chosen].name}') only"
            " cuts patches; name a layer of its last block and the TokenGrid of its tokens"
        )
    return runs[chosen].name


def _runs(network: nn.Module, images: Tensor, query: Any, forward: Forward | None) -> list[_Run]:
    runs: list[_Run] = []
    names = {module: name for name, module in network.named_modules()}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        shape = () if tensor is None else tuple(tensor.shape)
        is_map = tensor is not None and is_feature_map(tensor)
        runs.append(_Run(names[module], module, shape, is_map, tensor is output))

    call = forward or call_network(network)
    handles = [module.register_forward_hook(record) for module in names]
    try:
        with untouched(network), torch.no_grad():
            call(ordinary(images), query)
    finally:
        for handle in handles:
            handle.remove()
    return runs


def submodule(network: nn.Module, name: str) -> nn.Module | None:
    """The part of a network with this name, other than the network itself; None where there is none."""
    try:  # far quicker than `named_modules`, which is felt next to a forward pass
        return network.get_submodule(name) if name else None
    except AttributeError:
        return None


def call_network(network: nn.Module) -> Forward:
    """How a module is called unless somebody says otherwise: with the images, and with the query if any."""

    def call(images: Tensor, query: Any = None) -> Any:
        return network(images) if query is None else network(images, query)

    return call


def is_feature_map(output: Tensor) -> bool:
    """Whether a tensor is a floating-point (B, K, h, w) with more than one position."""
    return output.dim() == 4 and output.is_floating_point() and output.shape[-1] * output.shape[-2] > 1


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a module returned, or the first of a tuple, list or `ModelOutput`; None without one."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return None


def unknown_layer(name: str, network: nn.Module) -> LayerError:
    """The error for a name that is no layer of the network: the nearest names, or the network's parts."""
    names = [known for known, _ in network.named_modules() if known]
    near = difflib.get_close_matches(str(name), names, n=6, cutoff=0.5)
    parts = [known for known, _ in network.named_children()]
    hint = f"near it: {', '.join(near)}" if near else f"its parts: {', '.join(parts)}"
    return LayerError(f"the network has no layer '{name}'; {hint}; `layers()` lists all with a feature map")


def not_a_feature_map(name: str, output: Tensor | None, candidates: list[Layer]) -> LayerError:
    """The error for a layer without a feature map: what it gave, and the last layer of each map size."""
    given = "no tensor" if output is None else f"a {tuple(output.shape)} tensor"
    by_size = {layer.shape[1:]: str(layer) for layer in candidates}
    return LayerError(
        f"layer '{name}' gives {given}, not a feature map (B, K, h, w); layers that have one, the last of"
        f" each size: {', '.join(by_size.values()) or 'none'}; `layers()` lists all"
    )
