"""SEC training: a segmentation network out of image labels, by way of the seeds that maps give.

The network is the classifier's trunk with its late strides dilated, dropout, and one 1 x 1 convolution; it is
trained by the three losses of `classification.segmentation` (Kolesnikov and Lampert 2016; paper, section 4.2). Batch
normalisation keeps its statistics.
B images, C classes without the background, h,w grid of the network's output, H,W a photograph.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from classification.classifier import Classifier
from classification.finetuning import Labelled, ReadableBatches, class_marks, photographs_mark, train_once
from classification.segmentation import CRF_SCALE, boundary_loss, dense_crf, expansion_loss, probabilities, seeding_loss
from common.formulas import upsample
from common.images import Preprocessing, open_image
from common.networks.dilate import dilated
from common.networks.trunk import feature_map, fingerprint
from common.training.loop import Stage, parameter_groups

# Seeds (h, w) of a photograph with these classes on a grid of this size: see `segmentation.localisation_cues`.
Cues = Callable[[Image.Image, Sequence[int], tuple[int, int]], Tensor]


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

    @property
    def classifier(self) -> nn.Conv2d:
        """The convolution that tells the classes and the background apart."""
        return cast(nn.Conv2d, self.head[1])

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
    classifier: Classifier,
    images: Sequence[Labelled],
    cues: Cues,
    run: str | os.PathLike[str],
    training: Training | None = None,
) -> Segmentation:
    """Train on photographs whose labels are known, with the seeds that `cues` gives for each.

    Kept in a folder `<run>-...`: the same call again goes on, or is done. Photographs without a class or that cannot
    be read are left out.
    """
    training = training or Training()
    preprocessing = enlarged(classifier.preprocessing, training.enlarge)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        network = new_segmenter(classifier, preprocessing, training)
    labelled = [item for item in images if item.classes]
    reader = _Reader(network, preprocessing, labelled, cues, keep=not training.trunk_rate)
    batches = ReadableBatches(labelled, training.batch, reader.read, reader.join)
    steps, groups = batches.steps, _groups(network, training)
    stage = Stage("sec", training.epochs, steps, groups, batches, lambda b: losses(network, b), warmup=steps // 4)
    stage.mode = lambda: _training_mode(network)
    about = {"classifier": fingerprint(classifier.network.module, classifier.layer), **asdict(training)}
    train_once(stage, network, run, {**about, "images": photographs_mark(images)}, training.seed)
    batches.tell(run)
    return Segmentation(network.eval().requires_grad_(False), preprocessing)


def enlarged(preprocessing: Preprocessing, factor: float) -> Preprocessing:
    """The same preprocessing of the whole image to about `factor` times the size, in multiples of 32."""
    height, width = (max(32, 32 * round(factor * side / 32)) for side in preprocessing.size)
    return replace(preprocessing, size=(height, width), crop=None)


def new_segmenter(classifier: Classifier, preprocessing: Preprocessing, training: Training) -> Segmenter:
    """The classifier's trunk, dilated, with a head for its classes that has learnt nothing."""
    blank = classifier.network.blank().new_zeros(1, 3, *preprocessing.size)
    trunk = dilated(classifier.network.module, classifier.layer, blank, training.stride)
    with torch.no_grad():
        channels = feature_map(trunk, classifier.layer, blank).shape[1]
    network = Segmenter(trunk, classifier.layer, channels, len(classifier.labels), training.dropout)
    nn.init.normal_(network.classifier.weight, std=0.01)
    nn.init.zeros_(cast(Tensor, network.classifier.bias))
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
    refined = [dense_crf(each, image, CRF_SCALE) for each, image in zip(f.detach(), batch.pixels, strict=True)]
    parts = {
        "seed": seeding_loss(f, batch.cues),
        "expand": expansion_loss(f, batch.present),
        "constrain": boundary_loss(f, torch.stack(refined)),
    }
    return torch.stack(list(parts.values())).sum(), {key: float(part.detach()) for key, part in parts.items()}


class _Reader:
    """Photographs as batches need them; what a photograph's seeds are is found when it is first seen."""

    def __init__(
        self, network: Segmenter, preprocessing: Preprocessing, images: Sequence[Labelled], cues: Cues, keep: bool
    ):
        self.network, self.preprocessing, self.images = network, preprocessing, images
        self.cues, self.keep = cues, keep
        self.device = next(network.parameters()).device
        self.known: dict[int, tuple[Tensor, np.ndarray]] = {}  # seeds and pixels on the grid
        self.maps: dict[int, Tensor] = {}

    def read(self, number: int) -> Tensor:
        """A photograph, or its map where maps are kept (1, ...), on the CPU."""
        if number in self.maps:
            return self.maps[number]
        image = open_image(self.images[number].path)
        inputs = self.preprocessing(image)
        if number not in self.known:
            self._see(number, image, inputs)
        return self.maps.get(number, inputs)

    def _see(self, number: int, image: Image.Image, inputs: Tensor) -> None:
        with torch.no_grad():
            features = self.network.features(inputs.to(self.device))
        size = (features.shape[-2], features.shape[-1])
        pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
        self.known[number] = self.cues(image, sorted(self.images[number].classes), size), pixels
        if self.keep:
            self.maps[number] = features.half().cpu()

    def join(self, numbers: Sequence[int], items: Sequence[Tensor]) -> Batch:
        present = class_marks(self.images, numbers, self.network.classifier.out_channels - 1)
        cues, pixels = zip(*(self.known[number] for number in numbers), strict=True)
        return Batch(
            torch.cat([values.float() for values in items]).to(self.device),
            self.keep,
            torch.stack(cues).to(self.device),
            present.to(self.device),
            np.stack(pixels),
        )
