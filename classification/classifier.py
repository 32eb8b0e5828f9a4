"""A classifier that can say why: predictions and explanations of photographs.

B images, C classes, T targets, K channels, h,w feature map, H,W the network's input.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from classification.labels import Labels, imagenet
from classification.targets import ClassLogit, TopLogit, scored
from common.errors import UserError
from common.explainable import Explainable
from common.explanation import Explanation
from common.fast.fold import fold
from common.gradcam import Methods
from common.grid import TokenGrid
from common.images import ImageLike, Preprocessing
from common.layers import Layer
from common.methods.occlusion import OcclusionOptions
from common.networks import hub
from common.networks.loading import LoadedNetwork, load_network
from common.networks.weights import PathLike
from common.request import Batch, Encoded, Images, Request, contrasted, encode, explain_each, listed
from common.state import untouched
from common.targets import Target, logits, target_name

ClassTarget = str | int | Target
ClassTargets = ClassTarget | Iterable[ClassTarget]


@dataclass(frozen=True)
class Prediction:
    """A class that an image may show: name, place in the output, WordNet id, softmax probability."""

    label: str
    index: int
    wnid: str | None
    probability: float


@dataclass(frozen=True)
class Classifier:
    """A network, what its outputs are called, and the layer at which it is explained."""

    network: LoadedNetwork
    labels: Labels
    explainable: Explainable
    changes: str = ""  # what `fast` changed in the network

    @property
    def preprocessing(self) -> Preprocessing:
        return self.network.preprocessing

    @property
    def layer(self) -> str:
        return self.explainable.layer

    def layers(self) -> list[Layer]:
        """The layers that can be explained, with their maps' shapes (K, h, w), in the order they finish."""
        return self.network.layers()

    def encode(self, images: Images) -> Encoded:
        """Photographs or their paths, one or several, as the network reads them: pixels (B, 3, H, W) on its device.

        A tensor (B, 3, H, W) is taken to be normalised already.
        """
        return encode(self.network, images)

    def images(self, images: Images) -> Tensor:
        """The pixels of `encode`."""
        return self.encode(images).pixels

    def logits(self, images: Images) -> Tensor:
        """Scores before the softmax, (B, C), without a graph. Raises `UserError` when they are not finite."""
        batch = self.images(images)
        with untouched(self.network.module), torch.no_grad():
            scores = torch.cat([logits(self.network.logits(part)) for part in batch.split(16)])
        if not bool(torch.isfinite(scores).all()):
            raise UserError(
                f"{self.network.name} gives NaN or infinite scores; check its weights ({self.network.source})"
                " and the images"
            )
        return scores

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageLike, top: int = ...
    ) -> list[Prediction]: ...
    @overload
    def predict(self, images: Batch, top: int = ...) -> list[list[Prediction]]: ...
    @overload
    def predict(self, images: Encoded, top: int = ...) -> Any: ...

    def predict(self, images: Images, top: int = 5) -> list[Any]:
        """The `top` likeliest classes of an image, likeliest first: a list of `Prediction`.

        For several images, or a tensor, a list of such lists.
        """
        if top < 1:
            raise UserError(f"top is {top}; ask for at least 1 prediction")
        encoded = self.encode(images)
        shares, indices = self.logits(encoded).softmax(1).topk(min(top, len(self.labels)), dim=1)
        rows = [
            [
                Prediction(self.labels[index], index, self.labels.wnid(index), probability)
                for probability, index in zip(*row, strict=True)
            ]
            for row in zip(shares.tolist(), indices.tolist(), strict=True)
        ]
        return rows[0] if encoded.single else rows

    def target(self, target: ClassTarget) -> Target:
        """A class by synonym, WordNet id or index, as a target; a callable is one already."""
        if callable(target):
            return target
        index = self.labels.find(target)
        return ClassLogit(index, self.labels[index])

    def targets(self, targets: ClassTargets) -> list[Target]:
        """One or several classes as targets; see `target`."""
        several = listed(targets)
        if not several:
            raise UserError("no targets given; name at least one class, or leave the targets out")
        return [self.target(target) for target in several]

    @overload
    def explain(  # type: ignore[overload-overlap]
        self,
        images: ImageLike,
        targets: ClassTargets | None = ...,
        contrast: ClassTargets | None = ...,
        methods: Methods = ...,
        *,
        layer: str | None = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        images: Batch,
        targets: ClassTargets | None = ...,
        contrast: ClassTargets | None = ...,
        methods: Methods = ...,
        *,
        layer: str | None = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        images: Encoded,
        targets: ClassTargets | None = ...,
        contrast: ClassTargets | None = ...,
        methods: Methods = ...,
        *,
        layer: str | None = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Any: ...

    def explain(
        self,
        images: Images,
        targets: ClassTargets | None = None,
        contrast: ClassTargets | None = None,
        methods: Methods = "gradcam",
        *,
        layer: str | None = None,
        score: str = "logit",
        occlusion_options: OcclusionOptions | None = None,
    ) -> Any:
        """Why these classes? An `Explanation` of each image.

        Targets by synonym, WordNet id or index; by default each image's top prediction. `contrast` explains besides
        why each target rather than that class; one for all targets, or one for each. `layer` explains another layer
        than the classifier's own. `score` is what is explained of a class: its 'logit' or its 'log_probability', which
        depends on the other classes too. Raises `UserError` for classes, methods and layers that don't exist.

        >>> explanation = load().explain("photo.jpg", targets=["tiger cat", 242])  # doctest: +SKIP
        >>> explanation.heatmaps.shape  # doctest: +SKIP
        torch.Size([2, 1, 7, 7])
        """
        encoded = self.encode(images)
        explainable = self.explainable if layer is None else self.network.explainable(layer)
        top = _Top()
        wanted = self.targets(targets) if targets is not None else [top]
        others = self.targets(contrast) if contrast is not None else []
        asked = [*wanted, *(contrasted(wanted, others) if others else [])]
        names = [[target_name(target) for target in asked]] * len(encoded)
        request, about = Request(None, scored(asked, score), names), {**self.provenance(), "score": score}
        found = explain_each(explainable, encoded, request, methods, about, occlusion_options)
        named = [top.named(e, i, self.labels) for i, e in enumerate(found)] if targets is None else found
        return named[0] if encoded.single else named

    def provenance(self) -> dict[str, Any]:
        """What an explanation says of its model: name, where the weights came from, preprocessing."""
        return {
            "task": "classify",
            "model": self.network.name,
            "weights": self.network.source,
            "preprocessing": self.preprocessing.to_dict(),
            **({"changes": self.changes} if self.changes else {}),
        }


class _Top(TopLogit):
    """The class that each image gets first, remembered when an explanation has decided it."""

    def decided(self, output: Any) -> ClassLogit:
        self.found = super().decided(output)
        return self.found

    def named(self, explanation: Explanation, image: int, labels: Labels) -> Explanation:
        """The explanation of one image, with the class's name for 'top prediction'."""
        index = self.found.index
        label = labels[int(index[image]) if isinstance(index, Tensor) else index]
        return replace(explanation, names=tuple(name.replace(self.name, label) for name in explanation.names))


def load(
    model: str | nn.Module = "efficientnet_lite0",
    *,
    labels: Any = None,
    layer: str | None = None,
    weights: PathLike | None = None,
    random_weights: bool = False,
    fast: bool = False,
    preprocessing: Preprocessing | None = None,
    device: str | torch.device | None = None,
    grid: TokenGrid | None = None,
) -> Classifier:
    """A classifier by name (see `common.networks.loading.load_network`), or a module of your own.

    `labels`: a list of names, a file with one on each line, JSON, or a dict; left out, they are what the
    weights bring, ImageNet's for 1000 classes, else `class 0`, `class 1`, ... `layer` is explained instead
    of the last convolutional feature map. `fast` folds batch normalisation into the convolutions and orders
    memory by channels, in a copy: same maps within 1e-5, about twice the speed on a CPU; `changes` of the
    classifier says what was done. `grid` says how a transformer's tokens lie on the image, where that can't be
    found. A network without a layer to explain can still predict, and be occluded.
    Raises `UserError` for what cannot be loaded or does not fit.
    """
    network = load_network(
        model, weights=weights, random_weights=random_weights, preprocessing=preprocessing, grid=grid
    )
    if device is not None:
        network = replace(network, module=_moved(network.module, device))
    count = _class_count(network)
    network, changes = network.located(), ""
    if fast:
        network, changes = _folded(network, layer)
    known = _labels(network, count) if labels is None else Labels.of(labels)
    if len(known) != count:
        raise UserError(f"{len(known)} labels do not fit {network.name}, which has {count} classes")
    return Classifier(network, known, network.explainable(layer), changes)


def _folded(network: LoadedNetwork, layer: str | None) -> tuple[LoadedNetwork, str]:
    """The network with BatchNorm folded and memory ordered by channels, and a line that says so."""
    call = None if network.forward is None else lambda module, images: module(pixel_values=images)
    keep = (layer or network.layer or "",)
    twin, pairs = fold(network.module, network.blank(), keep, call)
    changes = f"{len(pairs)} BatchNorm layers folded into the convolution before them; channels_last"
    return replace(network, module=twin, forward=hub.forward_of(twin)), changes


def _class_count(network: LoadedNetwork) -> int:
    try:
        with untouched(network.module), torch.no_grad():
            return logits(network.logits(network.blank())).shape[1]
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        shape = "x".join(map(str, network.blank().shape))
        raise UserError(
            f"{network.name} cannot be run on a {shape} input ({' '.join(str(error).split())[:120]});"
            " give preprocessing=Preprocessing(size=(H, W), ...) that fits it"
        ) from error


def _labels(network: LoadedNetwork, count: int) -> Labels:
    if network.labels is not None:
        return Labels.from_names(network.labels)
    return imagenet() if count == len(imagenet()) else Labels.numbered(count)


def _moved(module: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        line = " ".join(str(error).split())[:120]
        raise UserError(f"device '{device}' cannot be used ({line}); try cpu") from error
