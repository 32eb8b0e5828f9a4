"""Table 1: weakly supervised localisation on ILSVRC's validation set; its metric on other boxes, and the grid game.

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
from scripts.experiments.asker import kinds_of
from scripts.experiments.boxes import boxes_table
from scripts.experiments.grid import GRID, TABLE1, grid_tables
from scripts.experiments.lab import Absent, Lab, measured, paired
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.paper import COUNT
from scripts.experiments.report import Section, Table, against, row_of
from scripts.experiments.run import alone

TITLE = "Table 1: weakly supervised localisation"
# VGG-16, top-1 error in per cent; the top-5 errors could not be checked against the paper's text.
PUBLISHED = {1: {"gradcam": "56.51", "cam": "57.20 (VGG-GAP)"}, 5: {}}
WHY = (
    "The grid game is not in the paper. CAM and Grad-CAM agree where a network ends in average pooling and one linear"
    " layer: there they are the same map but for a factor and the sign."
)


def section(lab: Lab) -> Section:
    """Table 1, weakly supervised localisation."""
    tables, left = [], list[str]()
    if "imagenet" in lab.data:
        tables += ilsvrc_tables(lab.on("imagenet"))
    boxes = [] if tables and kinds_of(lab) == ["flickr8k"] else kinds_of(lab)
    for kind, make in [*((kind, box_tables) for kind in boxes), ("samples", mosaic_tables)]:
        try:
            tables += make(lab.on(kind), kind)
        except Absent as absent:
            left.append(f"Left out: {absent}")
    return Section(TITLE, tables, notes=[*left, WHY])


def box_tables(lab: Lab, kind: str) -> list[Table]:
    """Table 1's metric on other boxes."""
    return [boxes_table(lab, kind)]


def mosaic_tables(lab: Lab, kind: str) -> list[Table]:
    """The grid game on mosaics of two sizes."""
    return [table for side in (2, 3) for table in grid_tables(lab, "Grid game", GRID, side)]


def ilsvrc_tables(lab: Lab) -> list[Table]:
    """Errors at one and at five guesses, in per cent, for each method, and those of the classes alone."""
    count, guessed = guessed_classes(lab)
    crops = "ten crops" if lab.ten_crop else "the whole photograph"
    suffix, settings = _way(lab)
    rows: dict[int, list[Any]] = {k: [row_of("Class alone", guessed[f"top{k}"], "", lab.model)] for k in (1, 5)}
    first: dict[str, Any] | None = None
    for method in TABLE1:
        less = max(1, count // 10) if method == "occlusion" else count
        measure = partial(ilsvrc_cell, lab, method, less, guessed["guesses"])
        cell = lab.attempt(f"ilsvrc-{method}{suffix}", measure, count=less, **settings)
        for guesses in rows:
            row = row_of(LABELS[method], cell and cell[f"top{guesses}"], PUBLISHED[guesses].get(method, ""), lab.model)
            found = paired(cell[f"top{guesses}"], first[f"top{guesses}"]) if cell and first else None
            rows[guesses].append(against(row, found))
        first = first or cell
    note = (
        "The box of the largest segment above 15 % of the maximum is right at an IoU of 0.5 with a true box."
        f" Classes from {crops}; the first row is the error of the classes, whatever their boxes."
    )
    made = partial(
        Table, data="ILSVRC val", measure="error (%)", digits=2, note=note, reference="Grad-CAM", better="low"
    )
    return [made(f"Table 1, top-{g} localisation error", rows=rows[g]) for g in rows]


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
