"""Grad-CAM and its relatives, for any model that can be split at a feature map.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (IJCV 2019).
B images, T targets, K channels, h,w feature map, H,W image.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import MethodError, UserError
from common.explainable import Explainable, HookedModel, TokenGrid
from common.explanation import Explanation, versions
from common.formulas import gradient_of, guided_localisation, localisation
from common.layers import default_layer
from common.methods.cam import class_activation
from common.methods.occlusion import OcclusionOptions, occlusion
from common.state import ordinary, untouched
from common.targets import Target, as_targets, score_table, target_name

Methods = str | Sequence[str]
Targets = int | Tensor | Target | Sequence[int | Tensor | Target]


def gradcam(
    model: nn.Module | Explainable,
    images: Tensor,
    targets: Targets,
    layer: str | None = None,
    query: Any = None,
    grid: TokenGrid | None = None,
) -> Tensor:
    """Grad-CAM heatmaps (T, B, h, w) of any model: raw, not negative, on the model's device (paper, eq. 1 and 2).

    `images` (B, 3, H, W) are normalised as the model expects; `targets` are class indices, one index for each
    image (B,), or callables output -> (B,) scores. `layer` defaults to the last convolutional feature map
    after its activation. One pass of the trunk without a graph and one batched backward pass of the head,
    for any number of targets. The model is left as it was.
    Raises `LayerError` for a layer without a feature map and `UserError` for targets that do not fit.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> gradcam(network, torch.rand(2, 3, 16, 16), [0, 4, 1]).shape
    torch.Size([3, 2, 14, 14])
    """
    explainable = as_explainable(model, images, layer, query, grid)
    return explain(explainable, images, targets, query=query).heatmaps


def explain(
    model: nn.Module | Explainable,
    images: Tensor,
    targets: Targets,
    *,
    query: Any = None,
    methods: Methods = "gradcam",
    features: Tensor | None = None,
    occlusion_options: OcclusionOptions | None = None,
) -> Explanation:
    """Explain targets by the named methods, `["gradcam", "guided"]` or `"gradcam,guided"`; see `METHODS`.

    Maps at the feature map's resolution are (T, B, h, w), those at the image's (T, B, 3, H, W). The method
    'importance' gives alpha (T, B, K), what each channel adds to the score (eq. 1; section 7), and no picture.
    `features` is A as `model.features(images, query)` gave it, when the caller has it already. Raises `MethodError` for
    an unknown method or one that the model cannot be explained with.
    """
    names = method_names(methods)
    images = ordinary(_checked(images))
    explainable = as_explainable(model, images, query=query)
    kept = None if features is None else ordinary(features)
    run = _Run(explainable, images, query, as_targets(targets), kept, occlusion_options or OcclusionOptions())
    with untouched(explainable.network):
        maps = {method: run.map(method).detach() for method in names}
        scores = run.scores.detach()
    provenance = {"layer": explainable.layer, "methods": list(names), "versions": versions()}
    return Explanation(tuple(map(target_name, run.targets)), scores, maps, provenance)


def method_names(methods: Methods) -> tuple[str, ...]:
    """The methods asked for, each once, as `METHODS` spells them; hyphens stand for underscores.

    >>> method_names("gradcam, guided-gradcam")
    ('gradcam', 'guided_gradcam')

    Raises `MethodError` for one that is not known, and for none at all.
    """
    asked = methods.split(",") if isinstance(methods, str) else methods
    names = tuple(dict.fromkeys(str(name).strip().replace("-", "_") for name in asked))
    unknown = [name for name in names if name not in _KNOWN]
    if unknown or not names:
        given = ", ".join(map(repr, unknown)) or "list ()"
        raise MethodError(f"unknown method {given}; known: {', '.join(_KNOWN)}")
    return names


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
            raise UserError(
                f"the model is split at '{model.layer}' already; split its network at '{layer}' instead"
            )
        return model
    layer = default_layer(model, _checked(images), query) if layer is None else layer
    return HookedModel(model, layer, grid)


class _Run:
    """One call of `explain`: its arguments, and what its methods share, each computed once and when needed."""

    def __init__(
        self,
        explainable: Explainable,
        images: Tensor,
        query: Any,
        targets: tuple[Target, ...],
        features: Tensor | None,
        occlusion_options: OcclusionOptions,
    ) -> None:
        self.explainable, self.images, self.query, self.targets = explainable, images, query, targets
        self.features, self.occlusion_options = features, occlusion_options
        self._maps: dict[str, Tensor] = {}
        self._scores: Tensor | None = None

    def map(self, method: str) -> Tensor:
        if method not in self._maps:
            self._maps[method] = _KNOWN[method](self)
        return self._maps[method]

    @property
    def scores(self) -> Tensor:
        """(T, B), from the pass that ran first."""
        return self.split[2] if self._scores is None else self._scores

    @cached_property
    def split(self) -> tuple[Tensor, Any, Tensor]:
        """A (B, K, h, w), a leaf, the output whose graph starts at it, and the scores (T, B) read off it."""
        A, output = self.explainable.split(self.images, self.query, self.features)
        with torch.enable_grad():
            self._scores = score_table(self.targets, output, len(self.images))
        return A, output, self._scores

    @cached_property
    def alpha(self) -> Tensor:
        A, output, scores = self.split
        return self.explainable.importance(scores, A, output)

    def image_gradients(self, relu_rule: str | None) -> Tensor:
        """d scores / d images (T, B, 3, H, W), with the vision part's ReLUs ruled (see `guided_relus`)."""
        with torch.enable_grad():
            images = self.images.detach().requires_grad_()
            output = self.explainable.forward(images, self.query, relu_rule)
            scores = score_table(self.targets, output, len(images))
        self._scores = scores if self._scores is None else self._scores
        last = len(scores) - 1  # the graph may go with the last target's pass
        return torch.stack([gradient_of(row, images, retain=i < last) for i, row in enumerate(scores)])

    def occlusion(self) -> Tensor:
        return occlusion(self.explainable, self.images, self.targets, self.query, self.occlusion_options)


METHODS: dict[str, Callable[[_Run], Tensor]] = {
    "gradcam": lambda run: localisation(run.split[0], run.alpha),
    "counterfactual": lambda run: localisation(run.split[0], -run.alpha),  # paper, section 3.4
    "cam": lambda run: class_activation(run.split[2], run.split[0]),
    "guided": lambda run: run.image_gradients("guided"),
    "deconv": lambda run: run.image_gradients("deconv"),
    "gradient": lambda run: run.image_gradients(None),
    "guided_gradcam": lambda run: guided_localisation(run.map("gradcam"), run.map("guided")),
    "deconv_gradcam": lambda run: guided_localisation(run.map("gradcam"), run.map("deconv")),
    "occlusion": lambda run: run.occlusion(),
}
# What is asked for like a map but is none: it cannot be drawn.
_KNOWN = {**METHODS, "importance": lambda run: run.alpha}


def _checked(images: Tensor) -> Tensor:
    if (
        not isinstance(images, Tensor)
        or images.dim() != 4
        or not images.is_floating_point()
        or not len(images)
    ):
        given = (
            f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise UserError(
            f"images are {given}; give a floating-point tensor (B, 3, H, W), normalised for the model"
        )
    return images
