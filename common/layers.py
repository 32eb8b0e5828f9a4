"""Which layers of a network have a feature map, and which one to explain by default.

B images, K channels, h,w feature map, H,W image.
"""

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import LayerError, UserError
from common.grid import lies_on
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

    @property
    def size(self) -> tuple[int, ...]:
        return self.shape[2:]

    def has_parameters(self) -> bool:
        return any(True for _ in self.module.parameters())

    def is_pooling(self) -> bool:
        return "pool" in type(self.module).__name__.lower() and not self.has_parameters()

    def mixes_tokens(self) -> bool:
        return isinstance(self.module, nn.Linear) and len(self.shape) > 2


def layers(network: nn.Module, images: Tensor, query: Any = None, forward: Forward | None = None) -> list[Layer]:
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
    network: nn.Module, images: Tensor, query: Any = None, forward: Forward | None = None, token_layers: int = 2
) -> str:
    """The last convolutional feature map after its activation and before pooling, as in the paper.

    From the last convolution with more than one position the search goes on through the layers that keep its
    size (normalisation, activation, the block around it), and through those that token layers lie before. It
    costs a pass of one image each time: name the layer where that is felt.
    Raises `LayerError` for networks without one, such as vision transformers: where more than `token_layers`
    linear layers on tokens, or any on (B, h, w, K), follow.
    """
    runs = [run for run in _runs(network, images[:1], query, forward) if run.name]
    kind = type(network).__name__
    last = max((i for i, run in enumerate(runs) if run.is_map and isinstance(run.module, CONVOLUTIONS)), default=None)
    if last is None:
        raise LayerError(
            f"{kind} runs no convolution with a feature map; name the layer to explain and, for a transformer,"
            " its TokenGrid"
        )
    chosen, mixers = _last_map(runs[last:], images.shape[-2:])
    if len(mixers) > token_layers or any(len(run.shape) > 3 for run in mixers):
        # Token layers behind the last convolution: a transformer's patch embedding, or a branch of a block.
        raise LayerError(
            f"{kind} works on tokens, as transformers do, behind its last convolution ('{chosen.name}'); name a"
            " layer of its last block and the TokenGrid of its tokens"
        )
    return chosen.name


def _last_map(runs: list[_Run], image: tuple[int, ...]) -> tuple[_Run, list[_Run]]:
    """The last map that belongs to the first of `runs`, and the token layers that run behind it."""
    chosen, mixers = runs[0], []
    for run in runs[1:]:
        mixers += [run] if run.mixes_tokens() else []
        # Another size alone is what pooling leaves; behind token layers it is the next stage's map.
        if not run.is_map or not run.is_tensor or run.is_pooling():
            continue
        if run.size == chosen.size or (mixers and run.has_parameters() and lies_on(run.size, image)):
            chosen, mixers = run, []
    return chosen, mixers


def _runs(network: nn.Module, images: Tensor, query: Any, forward: Forward | None) -> list[_Run]:
    check_hookable(network)
    runs: list[_Run] = []
    names = {module: name for name, module in network.named_modules()}
    images = ordinary(images)

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        shape = () if tensor is None else tuple(tensor.shape)
        is_map = tensor is not None and is_map_of(network, names[module], tensor, images)
        runs.append(_Run(names[module], module, shape, is_map, tensor is output))

    with untouched(network), hooked(names, record), torch.no_grad():
        (forward or call_network(network))(images, query)
    return runs


@contextlib.contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """`hook(module, inputs, output)` behind each of the modules inside the block, in this thread's passes alone."""
    thread = threading.get_ident()

    def mine(module: nn.Module, inputs: Any, output: Any) -> Any:
        return hook(module, inputs, output) if threading.get_ident() == thread else None

    handles = [module.register_forward_hook(mine) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def submodule(network: nn.Module, name: str) -> nn.Module | None:
    """The part of a network with this name, other than the network itself; None where there is none."""
    try:  # far quicker than `named_modules`, which is felt next to a forward pass
        return network.get_submodule(name) if name and isinstance(name, str) else None
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


def is_map_of(network: nn.Module, name: str, output: Tensor, images: Tensor) -> bool:
    """Whether a layer's output is a feature map of the images: one row for each, and its channels not last.

    The layers in it, or around it, tell a (B, h, w, K): convolutions and batch norms make as many first channels,
    linear layers as many last ones, layer norms either; where both could be, the image's proportions decide.
    """
    if not is_feature_map(output) or len(output) != len(images):
        return False
    _, a, b, c = output.shape
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        convolved, linear, normed = _widths(network.get_submodule(".".join(parts[:depth])))
        if convolved or linear or normed:
            break
    first, last = a in convolved | normed, c in linear | normed
    as_map, as_cells = (lies_on(size, images.shape[-2:]) for size in ((b, c), (a, b)))
    if first or last:
        return not last or (first and as_map)
    return bool(convolved or not linear) and (as_map or not as_cells)


def _widths(module: nn.Module) -> tuple[set[int], set[int], set[int]]:
    """How many channels the convolutions (and batch norms) in a module make, its linear layers, its layer norms."""
    convolved, linear, normed = set(), set(), set()
    for part in module.modules():
        if isinstance(part, CONVOLUTIONS):
            convolved.add(part.out_channels)
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            convolved.add(part.num_features)
        elif isinstance(part, nn.Linear):
            linear.add(part.out_features)
        elif isinstance(part, nn.LayerNorm):
            normed.add(part.normalized_shape[-1])
    return convolved, linear, normed


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a module returned, or the first of a tuple, list, dict or `ModelOutput`; None without one."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):  # a `ModelOutput` is one
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return None


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in what a module returned, however deep."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from tensors(part)
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))
    elif hasattr(output, "__dict__") and not isinstance(output, nn.Module):
        yield from tensors(list(vars(output).values()))


def unknown_layer(name: str, network: nn.Module) -> LayerError:
    """The error for a name that is no layer of the network: the nearest names, or the network's parts."""
    names = [known for known, _ in network.named_modules() if known]
    near = difflib.get_close_matches(str(name), names, n=6, cutoff=0.5)
    parts = [known for known, _ in network.named_children()]
    hint = f"near it: {', '.join(near)}" if near else f"its parts: {', '.join(parts)}"
    given = f"'{name}'" if isinstance(name, str) else f"{name!r} ({type(name).__name__}; layers are named by strings)"
    return LayerError(f"the network has no layer {given}; {hint}; `layers()` lists all with a feature map")


def not_a_feature_map(name: str, output: Tensor | None, candidates: list[Layer]) -> LayerError:
    """The error for a layer without a feature map: what it gave, and the last layer of each map size."""
    given = "no tensor" if output is None else f"a {tuple(output.shape)} tensor"
    tokens = output is not None and output.dim() in (3, 4)
    hint = "; where it is (B, N, K) or (B, h, w, K), give its TokenGrid" if tokens else ""
    return LayerError(
        f"layer '{name}' gives {given}, not a feature map (B, K, h, w){hint}; {last_of_each_size(candidates)}"
    )


def last_of_each_size(candidates: list[Layer]) -> str:
    """What an error says of the layers that could be named instead."""
    by_size = {layer.shape[1:]: str(layer) for layer in candidates}
    return f"layers that do, the last of each size: {', '.join(by_size.values()) or 'none'}; `layers()` lists all"


def did_not_run(name: str, network: nn.Module) -> LayerError:
    """The error for a layer whose hook no pass has called."""
    parts = name.split(".")
    around = [network.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    closed = [kind for kind in map(_closed, around) if kind]
    if closed:
        return LayerError(f"layer '{name}' is part of a {closed[0]}; {_OPEN}")
    return LayerError(f"layer '{name}' did not run in the forward pass; name a layer that does")


_OPEN = "explain the module that it was made from"


def check_hookable(network: nn.Module) -> None:
    """Raises `UserError` for networks whose layers can't be watched or have no gradient."""
    kind = _closed(network)
    if kind:
        raise UserError(f"{type(network).__name__} is a {kind}, whose layers cannot be watched; {_OPEN}")
    parameter = next(network.parameters(), None)
    if parameter is not None and parameter.is_inference():
        raise UserError(
            f"{type(network).__name__} was made in inference_mode, so that it has no gradients; make or load it outside"
        )


def _closed(module: nn.Module) -> str | None:
    """'compiled module' or 'scripted or traced module', which run without hooks; None for any other."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced module"
    compiled = type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
    return "compiled module (torch.compile)" if compiled else None
