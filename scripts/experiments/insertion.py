"""Insertion and deletion: how a class's probability falls and rises with the pixels that a map ranks first (RISE)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.metrics.faithfulness import BASELINES, area, deletion, insertion
from common.state import untouched
from common.targets import logits
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.report import Row, Section, Table, against, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, Sample, pixels, right_samples

METHODS = ("gradcam", "guided_gradcam", "cmwp", "guided", "occlusion")


def section(lab: Lab) -> Section:
    """Insertion and deletion: areas under the probability's curve, with blur and grey baselines."""
    lab = lab.on("samples")
    count = lab.count(20, 2)
    tables = []
    for kind, better in (("deletion", "low"), ("insertion", "high")):
        for baseline in BASELINES:
            rows: list[Row] = []
            first: dict[str, Any] = {}
            for method in (*METHODS, "random"):
                measure = partial(areas, lab, right_samples(lab, count), method, baseline, kind)
                cell = lab.cell(f"{kind}-{baseline}-{method}", measure, count=count)
                row = row_of(LABELS.get(method, "random order"), cell, "", lab.model)
                rows.append(against(row, paired(cell, first)) if first else row)
                first = first or cell
            title, measured_by = f"{kind.capitalize()}, {baseline} baseline", f"area ({better} is better)"
            tables.append(Table(title, NAME, measured_by, rows, True, reference=LABELS[METHODS[0]], better=better))
    notes = [
        "The class's probability while pixels are removed (deletion) or brought in (insertion) in the order of the map,"
        " in 28 steps (Petsiuk et al. 2018). Not in the paper. A check: in a random order both areas are the same but"
        " for chance, with either baseline. Scattered grey pixels are a noise that the network never saw, which deletes"
        " well without having found the object: compare with the blurred baseline and with insertion."
    ]
    return Section("Insertion and deletion", tables, notes=notes)


def areas(lab: Lab, chosen: list[Sample], method: str, baseline: str, kind: str) -> dict[str, Any]:
    """The area under one curve of each sample, summarised."""
    curve = deletion if kind == "deletion" else insertion

    def one(number: int, sample: Sample) -> dict[str, Tensor]:
        image = pixels(lab, [sample])
        maps = _map(lab, image, sample, method, number)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            return logits(lab.classifier.network.logits(images)).softmax(1)[:, sample.label]

        with untouched(lab.classifier.network.module), torch.no_grad():
            return {"area": area(curve(score, image, maps, BASELINES[baseline](image)))}

    return measured(chosen, one, ("area",))["area"]


def _map(lab: Lab, image: Tensor, sample: Sample, method: str, seed: int) -> Tensor:
    if method == "random":
        return torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(seed))
    return method_maps(lab.classifier, image, sample.label, method)[:, 0]


if __name__ == "__main__":
    alone("insertion", __doc__)
