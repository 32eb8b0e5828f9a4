"""Table 1's own metric on boxes that people drew, the class given: is the box of a map's largest segment right?

On VOC and COCO where they are at hand, else on Flickr8k's nouns; beside boxes that need no explanation.
"""

import contextlib
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from common.errors import MethodError
from common.metrics.localisation import OVERLAP, SHARE, box_overlap, centred_box, segment_boxes
from data.records import Box
from scripts.experiments.annotated import Annotated
from scripts.experiments.asker import ANNOTATIONS, TRAIN, Asker, asker_of
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.report import Row, Table, against, row_of

METHODS = ("gradcam", "cam", "cmwp", "gradient", "guided", "occlusion", "activation")
SIDES = tuple(side / 20 for side in range(6, 21))  # of the centred box, as shares of the image's
NAMES = {
    **LABELS,
    "activation": "activation energy, whatever the class",
    "centred": "a fixed centred box",
    "whole": "the whole photograph",
    "random": "a random box",
}


def boxes_table(lab: Lab, kind: str) -> Table:
    """A row for each method and each baseline: how often the box is wrong, in per cent."""
    count, train = lab.count(300 if kind == "flickr8k" else 5000, 15, 200), lab.trained_on(*TRAIN)
    measure = partial(boxes_cell, lab, kind, count, train)
    found = lab.cell(f"boxes-{kind}", measure, count=count, train=train, methods=METHODS)
    first, rows = found["gradcam"], list[Row]()
    for name in (*METHODS, "centred", "whole", "random"):
        row = row_of(NAMES[name], found.get(name), "", lab.model if name in METHODS else "")
        rows.append(row if name == "gradcam" or name not in found else against(row, paired(found[name], first)))
    note = (
        f"The box of the largest segment above {SHARE:.0%} of the map's maximum is right at an IoU of {OVERLAP} with a"
        " box of the class; a map without a positive value is wrong. Every class that is in the photograph, given; n"
        " counts classes, errors are over photographs. Occlusion: every fourth photograph. The centred box's sides are"
        f" the share of the image's that is best on the other half of the photographs. {found['classifier']}"
    )
    elsewhere = (
        "Published, of other data with classes predicted (top-1 error of VGG-16 on ILSVRC-15 val): Grad-CAM 56.51, CAM"
        " 57.20."
    )
    return Table(
        "Table 1, box localisation, class given", found["data"], "error (%)", rows, True, 1, note, LABELS["gradcam"],
        "low", elsewhere,
    )  # fmt: skip


def boxes_cell(lab: Lab, kind: str, count: int, train: int) -> dict[str, Any]:
    """Errors of every method and baseline, photograph by photograph."""
    data = ANNOTATIONS[kind](lab, count)
    asker = asker_of(lab, kind, data, train)
    items = [item for item in data.items if known_boxes(asker, item)]
    sides = best_sides([list(known_boxes(asker, item).values()) for item in items])

    def errors(number: int, item: Annotated) -> dict[str, list[float]]:
        methods = [name for name in METHODS if name != "occlusion" or number % 4 == 0]
        return {**of_maps(asker, item, methods), **of_baselines(item, known_boxes(asker, item), sides[number % 2])}

    found = measured(items, errors, broken=data.left_out)
    return {**found, "data": data.title, "classifier": asker.about, "sides": sides}


def known_boxes(asker: Asker, item: Annotated) -> dict[str, Sequence[Box]]:
    """The boxes of each class in a photograph that the classifier can be asked about."""
    return {name: boxes for name, boxes in item.boxes.items() if boxes and name in asker.names}


def of_maps(asker: Asker, item: Annotated, methods: Sequence[str]) -> dict[str, list[float]]:
    """By method, 100 for each class whose box is wrong, else 0."""
    truth, image = known_boxes(asker, item), asker.classifier.images(item.path)
    targets, found = targets_of(asker, image, list(truth)), {}
    for method in methods:
        with contextlib.suppress(MethodError):  # CAM, where the head is of another kind
            maps = method_maps(asker.classifier, image, targets, method, stride=32)
            found[method] = wrong_boxes(maps, list(truth.values()))
    return found


def targets_of(asker: Asker, image: Tensor, names: Sequence[str]) -> list[int]:
    """The output that speaks for each class in an image (1, 3, H, W)."""
    indices = asker.ask(asker.classifier.logits(image)[0].cpu())[1]
    return [int(indices[asker.names.index(name)]) for name in names]


def wrong_boxes(maps: Tensor, truths: Sequence[Sequence[Box]]) -> list[float]:
    """For each map of one image (T, 1, h, w): 100 where the box of its largest segment is wrong, else 0."""
    boxes = segment_boxes(maps[:, 0].cpu()).tolist()
    return [wrong(box, truth) for box, truth in zip(boxes, truths, strict=True)]


def of_baselines(item: Annotated, truth: Mapping[str, Sequence[Box]], side: float) -> dict[str, list[float]]:
    """The same of boxes that do not look at the photograph."""
    rng = random.Random(item.path.name)
    edges = [sorted((rng.random(), rng.random())) for _ in range(2)]
    drawn = [edges[0][0], edges[1][0], edges[0][1], edges[1][1]]
    boxes = {"centred": centred_box(side), "whole": centred_box(1.0), "random": drawn}
    return {name: [wrong(box, those) for those in truth.values()] for name, box in boxes.items()}


def wrong(box: Sequence[float], truth: Sequence[Box]) -> float:
    """100 where a box overlaps none of the true ones by `OVERLAP`, else 0."""
    return 100.0 * (float(box_overlap([box], truth).nan_to_num(0).max()) < OVERLAP)


def best_sides(truths: Sequence[Sequence[Sequence[Box]]]) -> list[float]:
    """The centred box's side for the photographs of even and of odd number: that with fewest errors on the others."""

    def errors(half: int, side: float) -> float:
        return sum(wrong(centred_box(side), boxes) for classes in truths[half::2] for boxes in classes)

    return [min(SIDES, key=partial(errors, 1 - half)) for half in (0, 1)]
