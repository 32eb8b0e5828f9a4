"""The grid pointing game on mosaics of photographs: where is the evidence for each of them?

The stand-in for Table 1 where ILSVRC's boxes are not at hand, and a machine's proxy for section 5.1's study
with people: a method that discriminates classes puts its map on the right photograph. Böhle et al. (CVPR
2021).
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.metrics.localisation import cell_hit, cell_share, mosaic
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.samples import NAME, Sample, pixels, right_samples
from scripts.lab import Lab, summarised
from scripts.report import Row, Section, Table, row_of

TABLE1 = ("gradcam", "cam", "cmwp", "gradient", "guided", "occlusion")
CLASSES = ("guided_gradcam", "deconv_gradcam", "guided", "deconv", "gradcam")
PEOPLE = {"guided_gradcam": "61.23 %", "guided": "44.44 %", "deconv_gradcam": "60.37 %", "deconv": "53.33 %"}


def mosaics(lab: Lab, side: int, count: int, seed: int = 0) -> list[list[Sample]]:
    """`count` mosaics of side**2 rightly classified samples of different classes, the same for every
    method.
    """
    known = right_samples(lab)
    rng = random.Random(seed)
    return [rng.sample(known, side * side) for _ in range(count)] if len(known) >= side * side else []


def grid_cell(lab: Lab, method: str, side: int, count: int, **options: Any) -> dict[str, Any]:
    """Shares and hits of one method on `count` mosaics; the errors are those of mosaics, not of single
    maps.
    """
    chosen = mosaics(lab, side, count)
    shares, hits, groups = [], [], []
    for number, parts in enumerate(chosen):
        found = mosaic_maps(lab, parts, method, side)
        size = (side * 56, side * 56)
        shares.append(cell_share(found, range(len(parts)), side, size))
        hits.append(cell_hit(found, range(len(parts)), side, size))
        groups += [number] * len(parts)
    if not chosen:
        return {"share": summarised([]), "hit": summarised([])}
    return {"share": summarised(torch.cat(shares), groups), "hit": summarised(torch.cat(hits), groups)}


def mosaic_maps(lab: Lab, parts: list[Sample], method: str, side: int) -> Tensor:
    """Maps (side**2, h, w) of one mosaic, one for the class of each photograph in it."""
    image = mosaic(pixels(lab, parts))[None]
    targets = [sample.label for sample in parts]
    return method_maps(lab.classifier, image, targets, method, stride=32)[:, 0]


def grid_table(lab: Lab, title: str, methods: tuple[str, ...], published: dict[str, str], side: int) -> Table:
    """A row for each method: the share of its map in the right cell, with the peak's accuracy as a note."""
    count = lab.count(*((35, 3) if side == 2 else (12, 1)))
    rows = [Row("chance", 1 / side**2, None, 0, "", "")]
    for method in methods:
        less = max(1, count // 4) if method == "occlusion" else count  # hundreds of passes a mosaic
        cell = lab.attempt(
            f"grid{side}-{method}", partial(grid_cell, lab, method, side, less), count=less, side=side
        )
        peak = cell["hit"]["mean"] if cell else None
        note = "" if peak is None else f"peak in the cell {peak:.0%}"
        rows.append(
            row_of(LABELS[method], cell and cell["share"], published.get(method, ""), lab.model, note)
        )
    note = (
        f"{count} mosaics of {side} x {side} rightly classified photographs at full size (occlusion: a"
        " quarter of"
        " them). The share of the positive map that lies on the photograph of the explained class; n"
        " counts maps,"
        " the errors are over mosaics."
    )
    return Table(
        title, f"grid pointing game {side} x {side}, {NAME}", "share in the cell", rows, True, 3, note
    )


def discrimination(lab: Lab) -> Section:
    """5.1, class discrimination: the grid pointing game as a machine's proxy."""
    lab = lab.on("samples")
    table = grid_table(lab, "5.1, class discrimination", CLASSES, PEOPLE, 2)
    note = (
        "Published: the share of answers in which people named the explained one of two categories. The proxy"
        " asks how much of a map lies on the right photograph; the study with people is not repeated here."
    )
    return Section("5.1: can classes be told apart by their maps?", [table], notes=[note])
