"""SEC training: a segmentation network out of image labels, by way of the seeds that maps give.

The network is the classifier's trunk with its late strides dilated, dropout, and one 1 x 1 convolution; it is
trained by the three losses of `classification.segmentation` (Kolesnikov and Lampert 2016; paper, section 4.2). Batch
normalisation keeps its statistics.
B images, C classes without the background, h,w grid of the network's output, H,W a photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from classification.classifier import Classifier
from classification.segmentation import (
    CRF_SCALE,
    boundary_loss,
    dense_crf,
    expansion_loss,
    localisation_cues,
    probabilities,
    seeding_loss,
)
from common.errors import UserError
from common.formulas import upsample
from common.images import Preprocessing, open_image
from common.networks.dilate import dilated
from common.networks.trunk import feature_map, fingerprint
from common.training.loop import Stage, parameter_groups, seed_of
from scripts import console as cli
from scripts.experiments.lab import Lab
from scripts.experiments.maps import method_maps
from scripts.experiments.multilabel import Labelled, run_stages


@dataclass(frozen=True)
class Training:
    """How a segmentation network is trained. With `trunk_rate` 0 the trunk stays as it is, and its maps are
    kept: all that is trained is the last convolution.
    """

    epochs: int = 8
    batch: int = 15
    stride: int = 8
    enlarge: float = 10 / 7  # of the classifier's input: 320 for 224, as the paper's 321
    trunk_rate: float = 1e-4
    head_rate: float = 2e-3
    dropout: float = 0.5
    seed: int = 0


class Segmenter(nn.Module):
    """Trunk, dropout and a 1 x 1 convolution: photographs (B, 3, H, W) -> logits (B, C + 1, h, w)."""

    def __init__(self, trunk: nn.Module, layer: str, channels: int, classes: int, dropout: float):
        super().__init__()
        self.trunk, self.layer = trunk, layer
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels, classes + 1, 1))

    def features(self, images: Tensor) -> Tensor:
        return feature_map(self.trunk, self.layer, images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@dataclass(frozen=True)
class Segmentation:
    """A trained network and what it takes."""

    network: Segmenter
    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Probabilities (C + 1, H, W) at the image's own size, without and with the CRF."""
        like = next(self.network.parameters())
        with torch.no_grad():
            grid = probabilities(self.network(self.preprocessing(image).to(like.device, like.dtype)))
        plain = upsample(grid.float().cpu(), (image.height, image.width))[0]
        return plain, dense_crf(plain, np.asarray(image.convert("RGB")))


def train_segmenter(
    lab: Lab,
    name: str,
    classifier: Classifier,
    classes: int,
    images: Sequence[Labelled],
    method: str,
    training: Training | None = None,
) -> Segmentation:
    """Train on photographs whose labels are known, with seeds from the classifier's maps by `method`.

    Kept in `runs/`: the same call again goes on, or is done. Photographs that cannot be read are left out.
    """
    training = training or Training()
    preprocessing = enlarged(classifier.preprocessing, training.enlarge)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        network = new_segmenter(classifier, classes, preprocessing, training)
    batches = SeededBatches(classifier, network, preprocessing, images, method, classes, training)
    stage = Stage(
        "sec",
        training.epochs,
        batches.steps,
        _groups(network, training),
        batches,
        lambda batch: losses(network, batch),
        warmup=batches.steps // 4,
        mode=lambda: _training_mode(network),
    )
    settings = {
        "classifier": fingerprint(classifier.network.module, classifier.layer),
        "method": method,
        "images": seed_of(*(f"{item.path.name}:{sorted(item.classes)}" for item in images)),
        **asdict(training),
    }
    run_stages([stage], network, lab.out / "runs", name, settings, training.seed)
    if batches.problems:
        cli.report(f"{name}: {len(batches.problems)} photographs could not be trained on")
    return Segmentation(network.eval().requires_grad_(False), preprocessing)


def enlarged(preprocessing: Preprocessing, factor: float) -> Preprocessing:
    """The same preprocessing of the whole image to about `factor` times the size, in multiples of 32."""
    height, width = (max(32, 32 * round(factor * side / 32)) for side in preprocessing.size)
    return replace(preprocessing, size=(height, width), crop=None)


def new_segmenter(
    classifier: Classifier, classes: int, preprocessing: Preprocessing, training: Training
) -> Segmenter:
    """The classifier's trunk, dilated, with a head that has learnt nothing."""
    blank = classifier.network.blank().new_zeros(1, 3, *preprocessing.size)
    trunk = dilated(classifier.network.module, classifier.layer, blank, training.stride)
    with torch.no_grad():
        channels = feature_map(trunk, classifier.layer, blank).shape[1]
    network = Segmenter(trunk, classifier.layer, channels, classes, training.dropout)
    nn.init.normal_(network.head[1].weight, std=0.01)  # type: ignore[arg-type]
    nn.init.zeros_(network.head[1].bias)  # type: ignore[arg-type]
    return network.to(blank.device)


def _groups(network: Segmenter, training: Training) -> Any:
    trunk = list(network.trunk.parameters()) if training.trunk_rate else []
    head = list(network.head.parameters())
    return parameter_groups(network, (trunk, training.trunk_rate), (head, training.head_rate))


def _training_mode(network: Segmenter) -> None:
    network.eval()
    network.head.train()


@dataclass(frozen=True)
class Batch:
    """Photographs (B, 3, H, W) or, of a trunk that is not trained, their maps (B, K, h, w); seeds (B, h, w);
    labels (B, C); and the photographs as the CRF sees them (B, h, w, 3).
    """

    inputs: Tensor
    mapped: bool
    cues: Tensor
    present: Tensor
    pixels: np.ndarray


def losses(network: Segmenter, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The sum of the three losses, and each of them."""
    f = probabilities(network.head(batch.inputs) if batch.mapped else network(batch.inputs))
    refined = [
        dense_crf(each, image, CRF_SCALE) for each, image in zip(f.detach(), batch.pixels, strict=True)
    ]
    parts = {
        "seed": seeding_loss(f, batch.cues),
        "expand": expansion_loss(f, batch.present),
        "constrain": boundary_loss(f, torch.stack(refined)),
    }
    return torch.stack(list(parts.values())).sum(), {key: float(part.detach()) for key, part in parts.items()}


class SeededBatches:
    """Shuffled batches; what a photograph's seeds are is found when it is first seen."""

    def __init__(
        self,
        classifier: Classifier,
        network: Segmenter,
        preprocessing: Preprocessing,
        images: Sequence[Labelled],
        method: str,
        classes: int,
        training: Training,
    ):
        self.classifier, self.network, self.preprocessing = classifier, network, preprocessing
        self.images = [item for item in images if item.classes]
        self.method, self.classes, self.training = method, classes, training
        self.known: dict[int, tuple[Tensor, np.ndarray, Tensor | None]] = {}
        self.problems: dict[int, str] = {}
        if not self.images:
            raise UserError("no photograph with a class to train on")

    @property
    def steps(self) -> int:
        return -(-len(self.images) // self.training.batch)

    def __call__(self, seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed)).tolist()
        for start in range(0, len(order), self.training.batch):
            found = [self._read(place) for place in order[start : start + self.training.batch]]
            items = [item for item in found if item is not None]
            if items:
                yield self._batch(items)
        if len(self.problems) == len(self.images):
            raise UserError(next(iter(self.problems.values())))

    def _batch(self, items: list[tuple[int, Tensor]]) -> Batch:
        device = next(self.network.parameters()).device
        present = torch.zeros(len(items), self.classes, dtype=torch.bool)
        for row, (place, _) in enumerate(items):
            present[row, sorted(self.images[place].classes)] = True
        return Batch(
            torch.cat([values.float() for _, values in items]).to(device),
            not self.training.trunk_rate,
            torch.stack([self.known[place][0] for place, _ in items]).to(device),
            present.to(device),
            np.stack([self.known[place][1] for place, _ in items]),
        )

    def _read(self, place: int) -> tuple[int, Tensor] | None:
        """A photograph or its map (1, ...), on the CPU; its seeds are in `known` from then on."""
        if place in self.problems:
            return None
        try:
            if place in self.known and self.known[place][2] is not None:
                return place, self.known[place][2]  # type: ignore[return-value]
            image = open_image(self.images[place].path)
        except UserError as problem:
            self.problems[place] = str(problem)
            return None
        inputs = self.preprocessing(image)
        if place not in self.known:
            self.known[place] = self._seeds(self.images[place], image, inputs)
        kept = self.known[place][2]
        return place, inputs if kept is None else kept

    def _seeds(
        self, item: Labelled, image: Image.Image, inputs: Tensor
    ) -> tuple[Tensor, np.ndarray, Tensor | None]:
        with torch.no_grad():
            features = self.network.features(inputs.to(next(self.network.parameters()).device))
        size = (features.shape[-2], features.shape[-1])
        cues = classifier_cues(self.classifier, image, sorted(item.classes), self.method, size)
        pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
        return cues, pixels, None if self.training.trunk_rate else features.half().cpu()


def classifier_cues(
    classifier: Classifier, image: Image.Image, classes: Sequence[int], method: str, size: tuple[int, int]
) -> Tensor:
    """Seeds (h, w) of a photograph with these classes (0 the first; label 1): see `localisation_cues`.

    Saliency is the largest gradient magnitude of any of the classes.
    """
    batch = classifier.images(image)
    maps = method_maps(classifier, batch, list(classes), method)[:, 0]
    saliency = method_maps(classifier, batch, list(classes), "gradient")[:, 0].amax(0)
    return localisation_cues({c + 1: values for c, values in zip(classes, maps, strict=True)}, saliency, size)
