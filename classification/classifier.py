"""A classifier that can say why: predictions and explanations of photographs.

B images, C classes, T targets, K channels, h,w feature map, H,W the network's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from classification.labels import Labels, imagenet
from classification.targets import ClassLogit, TopLogit
from common import layers as network_layers
from common.errors import LayerError, UserError
from common.explainable import HookedModel
from common.explanation import Explanation
from common.fast.fold import fold
from common.gradcam import explain, method_names
from common.images import ImageLike, Preprocessing
from common.layers import Layer
from common.networks import hub
from common.networks.loading import LoadedNetwork, load_network
from common.networks.tokens import token_layers
from common.networks.weights import PathLike
from common.state import untouched
from common.targets import Contrast, Target, logits

Images = ImageLike | Sequence[ImageLike] | Tensor
ClassTarget = str | int | Target


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
    explainable: HookedModel
    changes: str = ""  # what `fast` changed in the network

    @property
    def preprocessing(self) -> Preprocessing:
        return self.network.preprocessing

    @property
    def layer(self) -> str:
        return self.explainable.layer

    def layers(self) -> list[Layer]:
        """The layers that can be explained, with their maps' shapes (K, h, w), in the order they finish."""
        network = self.network
        if network.grid is not None:
            return token_layers(network.module, network.blank(), network.grid, network.forward)
        return network_layers.layers(network.module, network.blank(), forward=network.forward)

    def images(self, images: Images) -> Tensor:
        """Photographs or their paths, one or several -> (B, 3, H, W) for the network, on its device.

        A tensor (B, 3, H, W) is taken to be normalised already.
        """
        like = self.network.blank()
        tensor = images if isinstance(images, Tensor) else self.preprocessing(images)
        return tensor.to(like.device, like.dtype)

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

    def predict(self, images: Images, top: int = 5) -> list[Any]:
        """The `top` likeliest classes of an image, likeliest first: a list of `Prediction`.

        For a list of images, or a tensor, a list of such lists.
        """
        if top < 1:
            raise UserError(f"top is {top}; ask for at least 1 prediction")
        probabilities, indices = self.logits(images).softmax(1).topk(min(top, len(self.labels)), dim=1)
        rows = [
            [
                Prediction(self.labels[index], index, self.labels.wnid(index), probability)
                for probability, index in zip(*row, strict=True)
            ]
            for row in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ]
        return rows if isinstance(images, (Tensor, list, tuple)) else rows[0]

    def target(self, target: ClassTarget) -> Target:
        """A class by synonym, WordNet id or index, as a target; a callable is one already."""
        if callable(target):
            return target
        index = self.labels.find(target)
        return ClassLogit(index, self.labels[index])

    def targets(self, targets: ClassTarget | Sequence[ClassTarget]) -> list[Target]:
        """One or several classes as targets; see `target`."""
        several = targets if isinstance(targets, (list, tuple)) else [targets]
        if not several:
            raise UserError("no targets given; name at least one class, or leave the targets out")
        return [self.target(target) for target in several]  # type: ignore[arg-type]

    def explain(
        self,
        images: Images,
        targets: ClassTarget | Sequence[ClassTarget] | None = None,
        methods: Sequence[str] | str = ("gradcam",),
        contrast: ClassTarget | None = None,
        layer: str | None = None,
        **options: Any,
    ) -> Explanation:
        """Why these classes? Targets by synonym, WordNet id or index; by default each image's top prediction.

        `contrast` asks why each target rather than that class. `layer` explains another layer than the
        classifier's own. `options` go to `common.gradcam.explain`.
        Raises `UserError` for classes, methods and layers that don't exist.

        >>> explanation = load().explain("photo.jpg", targets=["tiger cat", 242])  # doctest: +SKIP
        >>> explanation.heatmaps.shape  # doctest: +SKIP
        torch.Size([2, 1, 7, 7])
        """
        batch = self.images(images)
        wanted = self._prediction(batch, methods) if targets is None else self.targets(targets)
        if contrast is not None:
            other = self.target(contrast)
            wanted = [Contrast(target, other) for target in wanted]
        explainable = self.explainable if layer is None else self._split_at(layer)
        found = explain(explainable, batch, wanted, methods=methods, **options)
        return replace(found, provenance={**found.provenance, **self.provenance()})

    def provenance(self) -> dict[str, Any]:
        """What an explanation says of its model: name, where the weights came from, preprocessing."""
        return {
            "model": self.network.name,
            "weights": self.network.source,
            "preprocessing": self.preprocessing.to_dict(),
            **({"changes": self.changes} if self.changes else {}),
        }

    def _prediction(self, batch: Tensor, methods: Sequence[str] | str) -> list[Target]:
        if "occlusion" not in method_names(methods):
            return [TopLogit(self.labels.__getitem__)]
        best = self.logits(batch).argmax(1)  # covered images must not decide what they are asked about
        if len(best) == 1:
            return [self.target(int(best))]
        return [ClassLogit(best, "top prediction")]

    def _split_at(self, layer: str) -> HookedModel:
        return checked_split(self.network, layer)


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
) -> Classifier:
    """A classifier by name (see `common.networks.loading.load_network`), or a module of your own.

    `labels`: a list of names, a file with one on each line, JSON, or a dict; left out, they are what the
    weights bring, ImageNet's for 1000 classes, else `class 0`, `class 1`, ... `layer` is explained instead
    of the last convolutional feature map. `fast` folds batch normalisation into the convolutions and orders
    memory by channels, in a copy: same maps within 1e-5, about twice the speed on a CPU; `changes` of the
    classifier says what was done.
    Raises `UserError` for what cannot be loaded or does not fit.
    """
    network = load_network(model, weights=weights, random_weights=random_weights, preprocessing=preprocessing)
    if device is not None:
        network = replace(network, module=_moved(network.module, device))
    changes = ""
    if fast:
        network, changes = _folded(network, layer)
    count = _class_count(network)
    known = _labels(network, count) if labels is None else Labels.of(labels)
    if len(known) != count:
        raise UserError(f"{len(known)} labels do not fit {network.name}, which has {count} classes")
    split = checked_split(network, layer) if layer else network.explainable()
    return Classifier(network, known, split, changes)


def checked_split(network: LoadedNetwork, layer: str) -> HookedModel:
    """The network split at a layer that a user named; `LayerError` lists candidates when it has no map."""
    try:
        split = network.explainable(layer)
        with untouched(network.module):
            split.features(network.blank())
        return split
    except LayerError as error:
        if network.grid is None:  # the message lists the candidates already
            raise
        known = token_layers(network.module, network.blank(), network.grid, network.forward)
        names = ", ".join(map(str, known[-12:]))
        raise LayerError(f"{error}; with tokens, the last of {len(known)}: {names}") from error


def _folded(network: LoadedNetwork, layer: str | None) -> tuple[LoadedNetwork, str]:
    """The network with BatchNorm folded and memory ordered by channels, and a line that says so."""
    call = None if network.forward is None else lambda module, images: module(pixel_values=images)
    keep = (layer or network.default_layer(),)
    twin, report = fold(network.module, network.blank(), keep=keep, forward=call)
    return replace(network, module=twin, forward=hub.forward_of(twin)), str(report)


def _class_count(network: LoadedNetwork) -> int:
    try:
        with untouched(network.module), torch.no_grad():
            return logits(network.logits(network.blank())).shape[1]
    except UserError:
        raise
    except RuntimeError as error:
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
