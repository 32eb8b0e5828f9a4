"""The grid pointing game on mosaics of photographs: where is the evidence for each of them?

The grid game, a machine's proxy for section 5.1's study with people: a method that discriminates classes puts its map
on the right photograph. Böhle et al. (CVPR 2021).
"""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.metrics.comparison import direction
from common.metrics.localisation import cell_hit, cell_share, mosaic
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.report import Row, Table, against, row_of
from scripts.experiments.samples import NAME, Sample, pixels, right_samples

TABLE1 = ("gradcam", "cam", "cmwp", "gradient", "guided", "occlusion")
GRID = (*TABLE1, "gradcam_centred", "gradcam_contrast")  # with what explains c-MWP's lead


def mosaics(lab: Lab, side: int, count: int, seed: int = 0) -> list[list[Sample]]:
    """`count` mosaics of side**2 rightly classified samples of different classes, the same for every method."""
    known = right_samples(lab)
    rng = random.Random(seed)
    return [rng.sample(known, side * side) for _ in range(count)] if len(known) >= side * side else []


def grid_cell(lab: Lab, method: str, side: int, count: int) -> dict[str, Any]:
    """Shares and hits of one method on `count` mosaics; the errors are those of mosaics, not of single maps."""

    def cells(number: int, parts: list[Sample]) -> dict[str, Tensor]:
        where = (mosaic_maps(lab, parts, method, side), range(len(parts)), side, (side * 56, side * 56))
        return {"share": cell_share(*where), "hit": cell_hit(*where)}

    return measured(mosaics(lab, side, count), cells, ("share", "hit"))


def mosaic_maps(lab: Lab, parts: list[Sample], method: str, side: int) -> Tensor:
    """Maps (side**2, h, w) of one mosaic, one for the class of each photograph in it."""
    image = mosaic(pixels(lab, parts))[None]
    targets = [sample.label for sample in parts]
    if method == "random":  # noise that is the same in every run, at the resolution of occlusion's maps
        return torch.rand(len(parts), 14, 14, generator=torch.Generator().manual_seed(sum(targets)))
    return method_maps(lab.classifier, image, targets, method, stride=32)[:, 0]


def grid_tables(
    lab: Lab, title: str, methods: tuple[str, ...], side: int, elsewhere: str = "", hits: bool = True
) -> list[Table]:
    """The share of each method's map in the right cell, and how often its peak is there; paired by mosaic."""
    count = lab.count(*((35, 3) if side == 2 else (12, 1)))
    found: dict[str, Any] = {}
    for method in (*methods, "random"):
        less = max(1, count // 4) if method == "occlusion" else count  # hundreds of passes a mosaic
        measure = partial(grid_cell, lab, method, side, less)
        found[method] = lab.attempt(f"grid{side}-{method}", measure, count=less, side=side)
    note = (
        f"{count} mosaics of {side} x {side} rightly classified photographs at full size (occlusion: a quarter of"
        " them). The share of the positive map that lies on the photograph of the explained class; n counts maps,"
        " the errors are over mosaics. CAM's negative part is cut off after it is upsampled, Grad-CAM's before: hence"
        " their small difference."
    )
    data = f"grid game {side} x {side}, {NAME}"
    made = partial(Table, data=data, substitute=True, reference=LABELS[methods[0]])
    shares = made(title, measure="share in the cell", rows=_rows(lab, found, "share", side), note=note)
    shares = replace(shares, note=note + _why_cmwp(found), elsewhere=elsewhere)
    peaks = made(f"{title}, peaks", measure="peak in the cell", rows=_rows(lab, found, "hit", side))
    return [shares, peaks] if hits else [shares]


def _rows(lab: Lab, found: dict[str, Any], key: str, side: int) -> list[Row]:
    """Chance, and each method with its difference from the first."""
    first = next(iter(found.values()))
    rows = [Row("chance", 1 / side**2)]
    for n, (method, cell) in enumerate(found.items()):
        row = row_of(LABELS.get(method, "a random map"), cell and cell[key], "", lab.model)
        rows.append(against(row, paired(cell[key], first[key])) if n and cell and first else row)
    return rows


def _why_cmwp(found: dict[str, Any]) -> str:
    """Why c-MWP's share exceeds Grad-CAM's, with the measurements that say so; nothing where it does not."""
    if any(not found.get(name) for name in ("gradcam", "cmwp", "cam", "gradcam_centred", "gradcam_contrast")):
        return ""
    lead = paired(found["cmwp"]["share"], found["gradcam"]["share"])
    if lead is None or direction(lead) < 1:
        return ""
    share = {name: cell["share"]["mean"] for name, cell in found.items() if cell}
    return (
        f" c-MWP keeps {share['cmwp']:.3f} in the cell, Grad-CAM {share['gradcam']:.3f}, against the paper's order."
        " What differs is the zero: behind average pooling and one linear layer c-MWP is ReLU(P / sum P - N / sum N),"
        " with P and N the CAMs of the class's positive and negative weights, which before its ReLU sums to zero."
        f" Grad-CAM less its mean, which does so too, keeps {share['gradcam_centred']:.3f}, and Grad-CAM of the logit"
        f" less the mean of the five likeliest others {share['gradcam_contrast']:.3f}. The paper's VGG-16 has three"
        " fully connected layers there."
    )
