"""Variants of Grad-CAM that the paper tried and left (appendix B), each one change away from it.

T targets, B images, K channels, h,w feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import MethodError
from common.explainable import Explainable, HookedModel
from common.formulas import gradients
from common.gradcam import Targets, as_explainable
from common.layers import Layer, layers
from common.relu import guided_relus
from common.state import ordinary, untouched
from common.targets import as_targets, score_table

# From A (B, K, h, w) and its gradients (T, B, K, h, w) to the map (T, B, h, w).
Combine = Callable[[Tensor, Tensor], Tensor]


def _weighted(A: Tensor, alpha: Tensor) -> Tensor:
    return torch.einsum("tbk,bkhw->tbhw", alpha, A)


COMBINE: dict[str, Combine] = {
    "gradcam": lambda A, g: _weighted(A, g.mean((-2, -1))).relu(),
    "no_relu": lambda A, g: _weighted(A, g.mean((-2, -1))),
    "absolute": lambda A, g: _weighted(A, g.abs().mean((-2, -1))).relu(),
    "max_pooled": lambda A, g: _weighted(A, g.amax((-2, -1))).relu(),
    "sum": lambda A, g: _weighted(A, g.sum((-2, -1))).relu(),
    "elementwise": lambda A, g: (g * A).sum(2).relu(),  # no pooling at all
}
# Rules of the ReLUs behind the explained layer, through which the gradient comes (appendix B.2).
RELU_RULES: dict[str, str] = {"guided_relu": "guided", "deconv_relu": "deconv"}
VARIANTS: tuple[str, ...] = (*COMBINE, *RELU_RULES)


def variants(
    model: nn.Module | Explainable,
    images: Tensor,
    targets: Targets,
    names: Sequence[str] = VARIANTS,
    layer: str | None = None,
    query: Any = None,
) -> dict[str, Tensor]:
    """Maps (T, B, h, w) by variant: those of `COMBINE` share one backward pass, those of `RELU_RULES` have
    their own.

    Where no ReLU stands behind the layer (pooling and one linear layer), the last two are Grad-CAM itself.
    Raises `MethodError` for a variant that is not known.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise MethodError(f"no variant '{unknown[0]}' of Grad-CAM; known: {', '.join(VARIANTS)}")
    explainable = as_explainable(model, ordinary(images), layer, query)
    found: dict[str, Tensor] = {}
    with untouched(explainable.network):
        plain = [name for name in names if name in COMBINE]
        if plain:
            A, gradient = _gradients(explainable, ordinary(images), targets, query, None)
            found.update({name: COMBINE[name](A, gradient) for name in plain})
        for name in names:
            if name in RELU_RULES:
                A, gradient = _gradients(explainable, ordinary(images), targets, query, RELU_RULES[name])
                found[name] = COMBINE["gradcam"](A, gradient)
    return {name: found[name].detach() for name in names}


def _gradients(
    explainable: Explainable, images: Tensor, targets: Targets, query: Any, rule: str | None
) -> tuple[Tensor, Tensor]:
    """A (B, K, h, w) and d scores / d A (T, B, K, h, w), with the ReLUs behind A ruled."""
    with guided_relus(rule):
        A, output = explainable.split(images, query)
    with torch.enable_grad():
        scores = score_table(as_targets(targets), output, len(images))
    if rule is None:
        return A.detach(), gradients(scores, A).detach()
    rows = [torch.autograd.grad(row.sum(), A, retain_graph=True)[0] for row in scores]
    return A.detach(), torch.stack(rows)


def sweep_layers(network: nn.Module, images: Tensor, count: int = 8) -> list[Layer]:
    """At most `count` layers with a feature map, evenly spaced from the first to the last.

    A block counts as one layer, whatever it is made of; a `Sequential` is looked into.
    """
    known = [layer for layer in layers(network, images[:1]) if layer.shape[1] * layer.shape[2] > 1]
    solid = [layer for layer in known if layer.kind != "Sequential"]
    units = [layer for layer in solid if not any(layer.name.startswith(f"{other.name}.") for other in solid)]
    places = torch.linspace(0, len(units) - 1, min(count, len(units))).round().int().tolist()
    return [units[place] for place in dict.fromkeys(places)]


def by_layer(network: nn.Module, images: Tensor, targets: Targets, names: Sequence[str]) -> dict[str, Tensor]:
    """Grad-CAM (T, B, h, w) at each of the named layers (paper, figure A4)."""
    return {
        name: variants(HookedModel(network, name), images, targets, ("gradcam",))["gradcam"] for name in names
    }
