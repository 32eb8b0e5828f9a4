"""Grad-CAM and its relatives, for any model that can be split at a feature map.

The last feature map A of a network still knows where things are, and what lies behind it says which of its channels
speak for a score y, be it of a class, a word or an answer:

    alpha_k = mean_ij(dy / dA_kij)          eq. 1: how much channel k matters for y
    map_ij = ReLU(sum_k alpha_k A_kij)      eq. 2: where the channels that speak for it are active

So images go through the trunk once, without a graph; A becomes a leaf; and the gradients of any number of scores come
from one batched backward pass of the head alone.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> images, targets = torch.rand(2, 3, 16, 16), [0, lambda output: output[:, 1] - output[:, 2]]
    >>> explanation = explain(network, images, targets, methods="gradcam,gradient")
    >>> explanation.scores.shape, explanation.heatmaps.shape, explanation.gradient.shape
    (torch.Size([2, 2]), torch.Size([2, 2, 14, 14]), torch.Size([2, 2, 3, 16, 16]))

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (IJCV 2019).
B images, T targets, K channels, h,w feature map, H,W image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import MethodError
from common.explainable import Explainable, TokenGrid, as_explainable, checked_images
from common.explanation import Explanation, versions
from common.formulas import (
    activation_energy,
    gradient_of,
    gradient_parts,
    guided_localisation,
    importance,
    localisation,
    wide,
)
from common.methods.cam import class_activation
from common.methods.head import HEAD_METHODS
from common.methods.occlusion import OcclusionOptions, occlusion
from common.methods.variants import VARIANTS, Variant
from common.relu import guided_relus
from common.state import ordinary, untouched
from common.targets import Target, Targets, as_targets, decided, score_table, target_name

Methods = str | Variant | Sequence[str | Variant]


class Known(NamedTuple):
    """What a caller has of some targets already: their scores (T, B), alpha (T, B, K), eq. 1 of them, the map A, and
    perhaps their whole gradients (T, B, K, h, w).
    """

    scores: Tensor
    alpha: Tensor
    features: Tensor
    gradients: Tensor | None = None


def known_of(
    model: Explainable, images: Tensor, targets: Sequence[Target], query: Any = None, features: Tensor | None = None
) -> tuple[Known, Any]:
    """What `explain` takes as `known`, and the output it was read off: for callers that read more than targets off it.

    To be called inside `untouched`, with what `explain` is called with.
    """
    A, output = model.split(images, query, features)
    with torch.enable_grad():
        scores = score_table(targets, output, len(images), differentiable=True)
    return Known(scores.detach(), model.importance(scores, A, output).detach(), A.detach()), output


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
    known: Known | None = None,
) -> Explanation:
    """Explain targets by one or several methods: `"gradcam,guided"`, or a list of names and functions.

    `METHODS` lists the names. A function (A, gradient) -> map of your own is a method as well, known by its name;
    see `common.methods.variants`. Maps at the feature map's resolution are (T, B, h, w), those at the image's
    (T, B, 3, H, W). The method 'importance' gives alpha (T, B, K), what each channel adds to the score (eq. 1;
    section 7), and no picture. `features` is A as `model.features(images, query)` gave it, when the caller has it
    already, and `known` what was read off it. A forward pass that changes the network's buffers changes them here
    as it does when it is called.
    Raises `MethodError` for an unknown method or one that the model cannot be explained with.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> found = explain(network, torch.rand(2, 3, 16, 16), [0, 4], methods="gradcam,guided-gradcam")
    >>> found.heatmaps.shape, found.guided_gradcam.shape
    (torch.Size([2, 2, 14, 14]), torch.Size([2, 2, 3, 16, 16]))
    """
    ways, wanted = _ways(methods), as_targets(targets)
    images = ordinary(checked_images(images))
    run = _Run(
        as_explainable(model, images, query=query),
        images,
        query,
        wanted,
        None if features is None else ordinary(features),
        occlusion_options or OcclusionOptions(),
        differentiable=not GRADIENT_FREE.issuperset(ways),
        known=known,
        several=len(ways) > 1,
    )
    with untouched(run.explainable.network):
        maps = {name: run.on_image(name, way(run).detach()) for name, way in ways.items()}
        scores = run.scores.detach()
    provenance = {"layer": run.explainable.layer, "methods": list(ways), "versions": versions()}
    return Explanation(tuple(map(target_name, wanted)), scores, maps, provenance)


def method_names(methods: Methods) -> tuple[str, ...]:
    """The methods asked for, each once, as `METHODS` spells them; hyphens stand for underscores.

    >>> method_names("gradcam, guided-gradcam, gradcam++")
    ('gradcam', 'guided_gradcam', 'gradcam_plus_plus')

    Raises `MethodError` for one that is not known, and for none at all.
    """
    return tuple(_ways(methods))


@dataclass
class _Run:
    """One call of `explain`: its arguments, and what its methods share, each computed once and when needed.

    Every pass is given a copy of the images, for networks that work in place on their input.
    """

    explainable: Explainable
    images: Tensor
    query: Any
    targets: tuple[Target, ...]
    features: Tensor | None
    occlusion_options: OcclusionOptions
    differentiable: bool  # whether some method needs the targets' gradients
    known: Known | None = None
    several: bool = False  # whether more than one method is asked for

    def __post_init__(self) -> None:
        self._maps: dict[str, Tensor] = {}
        self._scores: Tensor | None = None if self.known is None else self.known.scores
        known = None if self.known is None else self.known.gradients
        self._gradients: list[Tensor] | None = None if known is None else [known]

    def map(self, method: str) -> Tensor:
        if method not in self._maps:
            self._maps[method] = _known()[method](self)
        return self._maps[method]

    @property
    def scores(self) -> Tensor:
        """(T, B), from the pass that ran first; a plain one where no method needed the map."""
        if self._scores is None and not self.explainable.layer:
            return self.scores_of(self.explainable.forward(self.images.clone(), self.query))
        return self.split[2] if self._scores is None else self._scores

    @cached_property
    def split(self) -> tuple[Tensor, Any, Tensor]:
        """A (B, K, h, w), a leaf, the output whose graph starts at it, and the scores (T, B) read off it."""
        A, output = self.explainable.split(self.images.clone(), self.query, self.features)
        return A, output, self.scores_of(output)

    @property
    def A(self) -> Tensor:
        """The explained map, without a graph."""
        return self.split[0].detach() if self.known is None else self.known.features

    def scores_of(self, output: Any) -> Tensor:
        if self._scores is None:
            self.targets = tuple(decided(target, output) for target in self.targets)
        with torch.enable_grad():
            scores = score_table(self.targets, output, len(self.images), self.differentiable)
        self._scores = scores if self._scores is None else self._scores
        return scores

    @cached_property
    def alpha(self) -> Tensor:
        if self.known is not None:
            return self.known.alpha
        A, output, scores = self.split
        if self.several and type(self.explainable).importance is Explainable.importance:
            return torch.cat([part.mean((-2, -1)) for part in self.gradient_parts()])  # the variants take these, too
        return self.explainable.importance(scores, A, output)

    def on_image(self, method: str, found: Tensor) -> Tensor:
        """What a method gave, as a map of the image."""
        return found if method in _OF_IMAGES else self.explainable.on_image(found)

    def gradcam(self, alpha: Tensor) -> Tensor:
        return localisation(self.A, alpha)

    def variant(self, combine: Variant) -> Tensor:
        """The map of a function (A, gradient) -> map; all of them share one batched backward pass."""
        A = wide(self.A)
        maps = torch.cat([combine(A, gradient) for gradient in self.gradient_parts()])
        if maps.shape[:2] != self.scores.shape or maps.dim() != 4:
            raise MethodError(
                f"the method '{_name(combine)}' gave a map of shape {tuple(maps.shape)}; it is given A (B, K, h, w) and"
                f" the gradient (T, B, K, h, w), and gives (T, B, h, w), here T, B = {tuple(self.scores.shape)}"
            )
        return maps

    def gradient_parts(self) -> Iterable[Tensor]:
        """d scores / d A, in parts (t, B, K, h, w); kept for the next variant where it is one part."""
        if self._gradients is not None:
            return self._gradients
        A, _, scores = self.split
        parts = gradient_parts(scores, A)
        first = next(parts)
        if len(first) == len(scores):
            self._gradients = [first]
        return chain([first], parts)

    def ruled(self, rule: str) -> Tensor:
        """Grad-CAM with the backward rule of the ReLUs behind the layer replaced (paper, appendix B.2)."""
        with guided_relus(rule) as checked:
            A, output = checked(self.explainable.split(self.images.clone(), self.query, self.features))
        return localisation(A.detach(), importance(self.scores_of(output), A))

    def rescored(self, A: Tensor) -> Tensor:
        """The head as a function: scores (T, B) of a map (B, K, h, w) in the place of the image's own."""
        output = self.explainable.forward_from(A, self.images.clone(), self.query)
        return torch.stack([target(output) for target in self.targets])

    def image_gradients(self, relu_rule: str | None) -> Tensor:
        """d scores / d images (T, B, 3, H, W), with the vision part's ReLUs ruled (see `guided_relus`)."""
        with torch.enable_grad():
            images = self.images.detach().requires_grad_()
            output = self.explainable.forward(images.clone(), self.query, relu_rule)
        scores = self.scores_of(output)
        last = len(scores) - 1  # the graph may go with the last target's pass
        return torch.stack([gradient_of(row, images, retain=i < last) for i, row in enumerate(scores)])

    def occlusion(self) -> Tensor:
        _ = self.scores  # which decide what the targets are about
        return occlusion(self.explainable, self.images, self.targets, self.query, self.occlusion_options)


_Way = Callable[[_Run], Tensor]


def _of_table(name: str) -> _Way:
    return lambda run: run.variant(VARIANTS[name])


def _of_head(name: str) -> _Way:
    return lambda run: HEAD_METHODS[name](run.A, run.rescored)


METHODS: dict[str, _Way] = {
    "gradcam": lambda run: run.gradcam(run.alpha),
    "counterfactual": lambda run: run.gradcam(-run.alpha),  # paper, section 3.4
    "cam": lambda run: class_activation(run.split[2], run.split[0]),
    "activation": lambda run: activation_energy(wide(run.A)).expand(len(run.scores), -1, -1, -1),
    "guided": lambda run: run.image_gradients("guided"),
    "deconv": lambda run: run.image_gradients("deconv"),
    "gradient": lambda run: run.image_gradients(None),
    "guided_gradcam": lambda run: guided_localisation(run.map("gradcam"), run.map("guided")),
    "deconv_gradcam": lambda run: guided_localisation(run.map("gradcam"), run.map("deconv")),
    "occlusion": lambda run: run.occlusion(),
    **{name: _of_table(name) for name in VARIANTS if name != "gradcam"},
    **{name: _of_head(name) for name in HEAD_METHODS},
    "guided_relu": lambda run: run.ruled("guided"),
    "deconv_relu": lambda run: run.ruled("deconv"),
}
# What is asked for like a map but is none: it cannot be drawn.
_NO_MAPS: dict[str, _Way] = {"importance": lambda run: run.alpha}
# What is not at the positions of the feature map, but at those of the image, or nowhere.
_OF_IMAGES = {"occlusion", "guided", "deconv", "gradient", "guided_gradcam", "deconv_gradcam", "importance"}
# Methods that look at scores only, for targets and networks without gradients as well.
GRADIENT_FREE = frozenset({"occlusion", "ablation_cam", "token_occlusion", "activation"})


def _known() -> dict[str, _Way]:
    return {**METHODS, **{name: _of_table(name) for name in VARIANTS if name not in METHODS}, **_NO_MAPS}


def _ways(methods: Methods) -> dict[str, _Way]:
    """The methods asked for, by name: of `METHODS`, of `VARIANTS` as it is now, or the caller's own functions."""
    asked = methods.split(",") if isinstance(methods, str) else [methods] if callable(methods) else methods
    ways: dict[str, _Way] = {}
    unknown = []
    for method in asked:
        name = _name(method)
        if name in ways and callable(method):
            raise MethodError(f"two methods are called '{name}'; give one of the functions another name")
        if callable(method):
            ways[name] = partial(_Run.variant, combine=method)
        elif name in _known():
            ways[name] = partial(_Run.map, method=name)
        else:
            unknown.append(name)
    if unknown or not ways:
        given = ", ".join(map(repr, unknown)) or "list ()"
        raise MethodError(f"unknown method {given}; known: {', '.join(_known())}")
    return ways


def _name(method: str | Variant) -> str:
    """A method's name as `METHODS` spells it, or what a function is called in code."""
    if callable(method):
        return str(getattr(method, "__name__", type(method).__name__))
    name = str(method).strip().replace("-", "_").replace("++", "_plus_plus")
    return name if name in VARIANTS else name.lower()
