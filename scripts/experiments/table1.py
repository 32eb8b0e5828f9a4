"""Table 1: weakly supervised localisation on ILSVRC's validation set; without it, the grid pointing game.

    python -m scripts.experiments.table1 --imagenet PATH --limit 50000 --ten-crop --model vgg16 --device cuda

The five classes that are localised come from the whole photograph, or with `--ten-crop` from the mean of the
softmax probabilities of ten crops, as ILSVRC's entries have it (Krizhevsky et al. 2012, section 4.1): the
photograph with its shorter side at 8/7 of the network's input (256 for 224), its four corners and its centre,
and the mirror images of these. The maps are of the whole photograph either way.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import ten_crop as ten_crop_of

from common.errors import UserError
from common.images import open_image
from common.metrics.localisation import localisation_errors, segment_boxes
from data.readers import ilsvrc
from data.records import LocalisedImage
from scripts.experiments.grid import GRID, TABLE1, grid_table
from scripts.experiments.lab import Lab, measured
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.paper import COUNT
from scripts.experiments.report import Section, Table, row_of
from scripts.experiments.run import alone

TITLE = "Table 1: weakly supervised localisation"
# VGG-16, top-1 / top-5 error in per cent.
PUBLISHED = {"gradcam": "56.51 / 46.41"}
NOTE = (
    "Published: top-1 / top-5 localisation error (%) of VGG-16 on ILSVRC-15 val, low is better; an independent"
    " reproduction found 55.82 / 44.82 for Grad-CAM."
)


def section(lab: Lab) -> Section:
    """Table 1, weakly supervised localisation."""
    if "imagenet" in lab.data:
        return Section(TITLE, ilsvrc_tables(lab.on("imagenet")), notes=[NOTE])
    lab = lab.on("samples")
    tables = [grid_table(lab, "Table 1, localisation", GRID, PUBLISHED, side) for side in (2, 3)]
    why = (
        "CAM and Grad-CAM agree in the substitute: this network ends in average pooling and one linear layer, where"
        " they are the same map but for a factor and the sign."
    )
    return Section(TITLE, tables, notes=[NOTE, why])


def ilsvrc_tables(lab: Lab) -> list[Table]:
    """Errors at one and at five guesses, in per cent, for each method, and those of the classes alone."""
    count, guessed = guessed_classes(lab)
    crops = "ten crops" if lab.ten_crop else "the whole photograph"
    suffix, settings = _way(lab)
    rows: dict[int, list[Any]] = {k: [row_of("Class alone", guessed[f"top{k}"], "", lab.model)] for k in (1, 5)}
    for method in TABLE1:
        less = max(1, count // 10) if method == "occlusion" else count
        measure = partial(ilsvrc_cell, lab, method, less, guessed["guesses"])
        cell = lab.attempt(f"ilsvrc-{method}{suffix}", measure, count=less, **settings)
        for guesses, place in ((1, 0), (5, 1)):
            published = PUBLISHED.get(method, "").split(" / ")
            shown = published[place] if len(published) > place else ""
            rows[guesses].append(row_of(LABELS[method], cell and cell[f"top{guesses}"], shown, lab.model))
    note = (
        "The box of the largest segment above 15 % of the maximum is right at an IoU of 0.5 with a true box."
        f" Classes from {crops}; the first row is the error of the classes, whatever their boxes."
    )
    return [
        Table(f"Table 1, top-{g} localisation error", "ILSVRC val", "error (%)", rows[g], False, 2, note) for g in rows
    ]


def _way(lab: Lab) -> tuple[str, dict[str, bool]]:
    """The ending of cells' names and the settings that say how classes are guessed."""
    return "-ten-crop" if lab.ten_crop else "", {"ten_crop": lab.ten_crop}


def guessed_classes(lab: Lab) -> tuple[int, dict[str, Any]]:
    """How many photographs are measured on, of the 50,000 there are, and `classification_cell` of them."""
    count, (suffix, settings) = lab.count(*COUNT), _way(lab)
    return count, lab.cell(f"ilsvrc-classes{suffix}", lambda: classification_cell(lab, count), count=count, **settings)


def classification_cell(lab: Lab, count: int) -> dict[str, Any]:
    """The five likeliest classes of `count` photographs by name, and how often the true one is not among
    the first 1 and 5 of them; what cannot be read is counted and left out.
    """
    reading = ilsvrc.read_validation(lab.need("imagenet"), count)
    numbers = ilsvrc.class_indices(lab.need("imagenet"))
    guesses = {}

    def errors(number: int, item: LocalisedImage) -> dict[str, float]:
        label = _label(lab, numbers, item.classes[0])
        best = class_scores(lab.classifier, item.path, lab.ten_crop).topk(5).indices.tolist()
        guesses[item.name] = {"label": label, "best": best}
        return {f"top{k}": 100.0 * (label not in best[:k]) for k in (1, 5)}

    return {**measured(reading.items, errors, broken=len(reading.problems)), "guesses": guesses}


def _label(lab: Lab, numbers: dict[str, int] | None, wnid: str) -> int:
    if numbers is None:
        return lab.classifier.labels.find(wnid)
    if wnid not in numbers:
        raise UserError(f"the class {wnid} is not in the data's own list of classes")
    return numbers[wnid]


def class_scores(classifier: Any, path: Path, ten_crop: bool = False) -> Tensor:
    """Probabilities (C,) of one photograph: as the classifier sees it, or the mean over ten crops."""
    images = ten_crops(open_image(path), classifier.preprocessing.size) if ten_crop else [path]
    return classifier.logits(images).softmax(1).mean(0)


def ten_crops(image: Image.Image, size: tuple[int, int], share: float = 7 / 8) -> list[Image.Image]:
    """The corners and the centre of an image, each of `size` (H, W), then those of its mirror image.

    The image is scaled so that a crop is `share` of its shorter side (224 of 256).
    """
    H, W = size
    scale = max(H / image.height, W / image.width) / share
    sides = (max(W, round(image.width * scale)), max(H, round(image.height * scale)))
    return list(ten_crop_of(image.resize(sides, Image.Resampling.BICUBIC), [H, W]))


def ilsvrc_cell(lab: Lab, method: str, count: int, guesses: dict[str, Any]) -> dict[str, Any]:
    """Errors of one method on `count` photographs, each with its five guesses."""

    def errors(number: int, item: LocalisedImage) -> dict[str, Tensor]:
        known, image = guesses[item.name], lab.classifier.images(item.path)
        found = box_errors(item, known, method_maps(lab.classifier, image, known["best"], method)[:, 0])
        return {f"top{k}": found[k - 1] for k in (1, 5)}

    return guessed_photographs(lab, count, guesses, errors, ("top1", "top5"))


def guessed_photographs(
    lab: Lab, count: int, guesses: dict[str, Any], errors: Callable[[int, LocalisedImage], Any], names: Sequence[str]
) -> dict[str, Any]:
    """Summaries of the errors of `count` photographs whose classes are guessed."""
    reading = ilsvrc.read_validation(lab.need("imagenet"), count)
    chosen = [item for item in reading.items if item.name in guesses]  # what was not read then is not read now
    broken = len(reading.problems) + len(reading.items) - len(chosen)
    return measured(chosen, errors, names, broken)


def box_errors(item: LocalisedImage, known: dict[str, Any], maps: Tensor) -> Tensor:
    """Errors in per cent at 1, 2, ... k guesses, (k,), by the boxes of the first k guesses' maps (k, h, w)."""
    best, truth = known["best"][: len(maps)], item.boxes(item.classes[0])
    return 100 * localisation_errors(torch.tensor([best]), segment_boxes(maps)[None], [known["label"]], [truth])[0]


if __name__ == "__main__":
    alone("table1", __doc__)
