"""Table 1: weakly supervised localisation on ILSVRC's validation set; without it, the grid pointing game."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from common.metrics.localisation import localisation_errors, segment_boxes
from data import ilsvrc
from scripts.experiments.grid import TABLE1, grid_table
from scripts.experiments.maps import LABELS, method_maps
from scripts.lab import Lab, summarised
from scripts.report import Section, Table, row_of

# VGG-16, top-1 / top-5 error in per cent.
PUBLISHED = {"gradcam": "56.51 / 46.41", "cam": "57.20 / 45.14"}
NOTE = (
    "Published: top-1 / top-5 localisation error (%) of VGG-16 on ILSVRC-15 val, low is better; an"
    " independent"
    " reproduction found 55.82 / 44.82 for Grad-CAM."
)


def table1(lab: Lab) -> Section:
    """Table 1, weakly supervised localisation."""
    if "imagenet" in lab.data:
        return Section(
            "Table 1: weakly supervised localisation", ilsvrc_tables(lab.on("imagenet")), notes=[NOTE]
        )
    lab = lab.on("samples")
    tables = [grid_table(lab, "Table 1, localisation", TABLE1, PUBLISHED, side) for side in (2, 3)]
    why = (
        "CAM and Grad-CAM agree in the substitute: this network ends in average pooling and one linear"
        " layer, where"
        " they are the same map but for a factor and the sign."
    )
    return Section("Table 1: weakly supervised localisation", tables, notes=[NOTE, why])


def ilsvrc_tables(lab: Lab) -> list[Table]:
    """Errors at one and at five guesses, in per cent, for each method."""
    count = lab.count(5000, 50)
    rows: dict[int, list[Any]] = {1: [], 5: []}
    for method in TABLE1:
        less = max(1, count // 10) if method == "occlusion" else count
        cell = lab.attempt(
            f"ilsvrc-{method}",
            partial(ilsvrc_cell, lab, method, less),
            count=less,
        )
        for guesses, place in ((1, 0), (5, 1)):
            published = PUBLISHED.get(method, "").split(" / ")
            shown = published[place] if len(published) > place else ""
            rows[guesses].append(row_of(LABELS[method], cell and cell[f"top{guesses}"], shown, lab.model))
    note = (
        "The box of the largest segment above 15 % of the maximum is right at an IoU of 0.5 with a true box."
    )
    return [
        Table(f"Table 1, top-{g} localisation error", "ILSVRC val", "error (%)", rows[g], False, 2, note)
        for g in rows
    ]


def ilsvrc_cell(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """Errors of one method on `count` photographs, each with five guesses."""
    reading = ilsvrc.read_validation(lab.need("imagenet"), count)
    numbers = ilsvrc.class_indices(lab.need("imagenet"))
    errors = []
    for item in reading.items:
        wnid = item.classes[0]
        label = numbers[wnid] if numbers else lab.classifier.labels.find(wnid)
        image = lab.classifier.images(item.path)
        best = lab.classifier.logits(image).topk(5).indices
        maps = method_maps(lab.classifier, image, best[0].tolist(), method)[:, 0]
        boxes = segment_boxes(maps)[None]
        errors.append(localisation_errors(best, boxes, [label], [item.boxes(wnid)])[0])
    table = 100 * torch.stack(errors)
    found = {f"top{k}": summarised(table[:, k - 1]) for k in (1, 5)}
    for summary in found.values():
        summary["left_out"] += len(reading.problems)
    return {**found, "problems": reading.problems[:20]}
