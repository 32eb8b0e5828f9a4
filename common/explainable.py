"""Models split at a feature map: what every explanation method needs to know of a model, and no more.

Any module and the name of a layer make one. One pass gives A as a leaf and the output whose graph starts there:

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> model = HookedModel(network, "1")
    >>> A, output = model.split(torch.rand(2, 3, 16, 16))
    >>> A.shape, output.shape
    (torch.Size([2, 8, 14, 14]), torch.Size([2, 5]))

What is read off the output, here all five classes, is explained by the backward pass from there to A (eq. 1):

    >>> model.importance(output.T, A, output).shape         # (T, B, K)
    torch.Size([5, 2, 8])

A model with a seam of its own is a `SplitModel`: it says how images become A and how A becomes the output, and the
trunk is not run again for an A that is at hand. One that knows a closed form of eq. 1 overrides `importance`.
B images, K channels, h,w feature map, H,W image, N tokens.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from common import formulas
from common.errors import LayerError, MethodError, UserError
from common.grid import TokenGrid as TokenGrid
from common.layers import (
    Forward,
    call_network,
    check_hookable,
    default_layer,
    did_not_run,
    first_tensor,
    hooked,
    is_map_of,
    layers,
    not_a_feature_map,
    submodule,
    tensors,
    unknown_layer,
)
from common.relu import guided_relus


class Explainable:
    """A model, the layer at which it is split, and how to run it.

    `network` is the module whose state every method leaves as it was, `layer` the name of the split.
    """

    network: nn.Module
    layer: str
    about: Mapping[str, Any] = MappingProxyType({})  # what else an explanation's provenance says of the split

    def forward(self, images: Tensor, query: Any = None, relu_rule: str | None = None) -> Any:
        """Output for images (B, 3, H, W) and a query; `relu_rule` rules the ReLUs of the vision part."""
        raise NotImplementedError

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        """The feature map A (B, K, h, w) at `layer`, without a graph."""
        raise NotImplementedError

    def split(self, images: Tensor, query: Any = None, features: Tensor | None = None) -> tuple[Tensor, Any]:
        """One pass: the feature map A (B, K, h, w) as a leaf, and the output whose graph starts at it.

        `features`, when given, is A as `features(images, query)` returned it: the trunk is not run again
        where the model can avoid it.
        """
        raise NotImplementedError

    def forward_from(self, features: Tensor, images: Tensor, query: Any = None) -> Any:
        """Output when `features` (B, K, h, w) stand in the place of the map at `layer`: the head as a function."""
        raise NotImplementedError

    def importance(self, scores: Tensor, A: Tensor, output: Any) -> Tensor:
        """alpha (T, B, K) of the scores (T, B) read off what `split` returned (paper, eq. 1).

        A model that knows a shorter way to the same numbers than the gradient of the whole map takes it.
        """
        return formulas.importance(scores, A)

    def on_image(self, maps: Tensor) -> Tensor:
        """Maps (T, B, h, w) at the positions of A as maps of the image: the same, where A lies on it as a grid."""
        return maps

    def at_positions(self, maps: Tensor) -> Tensor:
        """Maps (T, B, h, w) of the image as what they say of A's positions: the way back from `on_image`."""
        return maps


class SplitModel(Explainable):
    """A model with a seam of its own: a subclass gives `features(images, query)` and `head(A, query)`."""

    def head(self, features: Tensor, query: Any = None) -> Any:
        """Output for a feature map A (B, K, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor, query: Any = None, relu_rule: str | None = None) -> Any:
        # Guided Backprop covers the CNN alone; a head that is a language model keeps its own gradient.
        with guided_relus(relu_rule, self.network) as checked:
            features = checked(self.features(images, query))
        return self.head(features, query)

    def split(self, images: Tensor, query: Any = None, features: Tensor | None = None) -> tuple[Tensor, Any]:
        if features is None:
            with torch.no_grad():
                features = self.features(images, query)
        leaf = features.detach().requires_grad_()
        with torch.enable_grad():
            return leaf, self.head(leaf, query)

    def forward_from(self, features: Tensor, images: Tensor, query: Any = None) -> Any:
        return self.head(features, query)


class Unsplit(Explainable):
    """A network of which no layer is known that lies on the image: it can be occluded, and has no map."""

    layer = ""

    def __init__(self, network: nn.Module, forward: Forward | None = None) -> None:
        self.network, self._call = network, forward or call_network(network)

    def forward(self, images: Tensor, query: Any = None, relu_rule: str | None = None) -> Any:
        with guided_relus(relu_rule, self.network) as checked:
            return checked(self._call(images, query))

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        raise LayerError(
            f"no layer of {type(self.network).__name__} was found that has a feature map or tokens in known places;"
            " name one, and its TokenGrid (layer=..., grid=...), or use a method that needs none, as 'occlusion'"
        )

    def split(self, images: Tensor, query: Any = None, features: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.features(images), None

    def forward_from(self, features: Tensor, images: Tensor, query: Any = None) -> Any:
        return self.features(images)


class _NotAFeatureMap(Exception):
    """Raised inside a forward pass whose layer gave something else; holds what it gave."""


class HookedModel(Unsplit):
    """Any `nn.Module` split at a layer by name: a hook swaps the layer's output for a leaf.

    The trunk runs without a graph; the graph starts at the leaf. A layer that runs several times in one
    pass is split at its last run. `grid` puts a transformer's tokens on a grid. `forward` says how the
    module is called; the default is `module(images)`, or `module(images, query)` where there is a query.
    Raises `LayerError` when the layer is missing or its output is not a feature map, `UserError` for networks
    that run without hooks or gradients (compiled, scripted, made in inference mode).
    """

    def __init__(
        self, network: nn.Module, layer: str, grid: TokenGrid | None = None, forward: Forward | None = None
    ) -> None:
        check_hookable(network)
        found = submodule(network, layer)
        if found is None:
            raise unknown_layer(layer, network)
        super().__init__(network, forward)
        self.layer, self.grid, self._module = layer, grid, found

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(self._to_map(output, images))

        with torch.no_grad(), self._pass(keep, images, query):
            self._call(images, query)
        return self._last(found)

    def split(self, images: Tensor, query: Any = None, features: Tensor | None = None) -> tuple[Tensor, Any]:
        with torch.no_grad():
            leaves, output = self._split(images, query)
        if not any(tensor.requires_grad for tensor in tensors(output)):
            # The network turns gradients off again behind the layer (a frozen backbone in `no_grad`, say):
            # then the whole pass has to be recorded; the leaf still cuts it.
            with torch.enable_grad():
                leaves, output = self._split(images, query)
        return self._last(leaves), output

    def _split(self, images: Tensor, query: Any) -> tuple[list[Tensor], Any]:
        leaves: list[Tensor] = []

        def swap(module: nn.Module, inputs: Any, output: Any) -> Any:
            leaf = self._to_map(output, images).detach().requires_grad_()
            leaves.append(leaf)
            torch.set_grad_enabled(True)  # from here on; the block around the pass puts it back
            # A clone, because an in-place ReLU may follow, and a leaf must not be changed in place.
            return self._with_map(output, leaf.clone())

        with self._pass(swap, images, query):
            return leaves, self._call(images, query)

    def forward_from(self, features: Tensor, images: Tensor, query: Any = None) -> Any:
        runs: list[nn.Module] = []
        recorded = torch.is_grad_enabled()

        def put(module: nn.Module, inputs: Any, output: Any) -> Any:
            runs.append(module)
            torch.set_grad_enabled(recorded)  # whatever the network says; the block around puts it back
            return self._with_map(output, features.clone())

        with torch.set_grad_enabled(recorded), self._pass(put, images, query):
            output = self._call(images, query)
        if len(runs) != 1:
            raise MethodError(
                f"layer '{self.layer}' runs {len(runs)} times in one pass, and nothing can stand in the place of its"
                " map; use the method 'gradcam', or a layer that runs once"
            )
        return output

    @contextlib.contextmanager
    def _pass(self, hook: Callable[..., Any], images: Tensor, query: Any) -> Iterator[None]:
        try:
            with hooked([self._module], hook):
                yield
        except _NotAFeatureMap as refused:
            candidates = layers(self.network, images[:1], query, self._call)
            raise not_a_feature_map(self.layer, refused.args[0], candidates) from None

    def _to_map(self, output: Any, images: Tensor) -> Tensor:
        tensor = first_tensor(output)
        if tensor is not None and self.grid is not None:
            return self.grid.to_map(tensor, images)
        if tensor is None or not is_map_of(self.network, self.layer, tensor, images):
            raise _NotAFeatureMap(tensor)
        return tensor

    def _with_map(self, output: Any, features: Tensor) -> Any:
        if self.grid is not None:
            features = self.grid.to_tokens(features, cast(Tensor, first_tensor(output)))
        return _with_first_tensor(output, features)

    def _last(self, found: list[Tensor]) -> Tensor:
        if not found:
            raise did_not_run(self.layer, self.network)
        return found[-1]


def _with_first_tensor(output: Any, replacement: Tensor) -> Any:
    if isinstance(output, Tensor):
        return replacement
    if isinstance(output, dict):
        name = next(name for name, part in output.items() if isinstance(part, Tensor))
        fields = {**output, name: replacement}
        return type(output)(**fields) if hasattr(output, "to_tuple") else fields  # a ModelOutput, or a dict
    parts = list(output)
    parts[next(i for i, part in enumerate(parts) if isinstance(part, Tensor))] = replacement
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def as_explainable(
    model: nn.Module | Explainable,
    images: Tensor,
    layer: str | None = None,
    query: Any = None,
    grid: TokenGrid | None = None,
) -> Explainable:
    """The model split at `layer`, or at its default layer; what is split already is returned as it is."""
    if isinstance(model, Explainable):
        if layer not in (None, model.layer):
            raise UserError(f"the model is split at '{model.layer}' already; split its network at '{layer}' instead")
        return model
    layer = default_layer(model, checked_images(images).clone(), query) if layer is None else layer
    return HookedModel(model, layer, grid)


def checked_images(images: Tensor) -> Tensor:
    """The images, or a `UserError` for what is no floating-point batch (B, 3, H, W)."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point() or not len(images):
        given = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"images are {given}; give a floating-point tensor (B, 3, H, W), normalised for the model")
    return images
