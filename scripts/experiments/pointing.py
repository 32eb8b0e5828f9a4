"""Section 4.3: the pointing game, with the option to reject what is not there."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.metrics.grounding import box_mask
from common.metrics.localisation import TOLERANCE, best_threshold, hits_with_reject, pointing_hits
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.nouns import group_of, group_scores
from scripts.experiments.scenes import NAME, Scene, grouped, scenes
from scripts.lab import Lab, summarised
from scripts.report import Section, Table, row_of

METHODS = ("gradcam", "cmwp", "gradient")
PUBLISHED = {"gradcam": "70.58 %", "cmwp": "60.30 %"}
SIZE = (224, 224)


def pointing_game(lab: Lab) -> Section:
    """4.3, the pointing game with a reject option."""
    lab = lab.on("flickr8k")
    count = lab.count(300, 20)
    plain, reject = [], []
    for method in METHODS:
        cell = lab.cell(f"pointing-{method}", partial(measure, lab, method, count), count=count)
        plain.append(row_of(LABELS[method], cell["plain"], "", lab.model))
        reject.append(row_of(LABELS[method], cell["reject"], PUBLISHED.get(method, ""), lab.model))
    note = (
        "Nouns of captions that cover ImageNet classes (dog: 118 breeds), each explained by its"
        " likeliest class."
        f" The peak has to lie within {TOLERANCE:.0f} pixels of a box, in photographs squashed to 224 x 224."
    )
    rule = (
        "The five likeliest nouns of each photograph; a map whose maximum is below a threshold rejects"
        " its noun,"
        " which is right for nouns that no caption names. The threshold is chosen on the other half of the"
        " photographs. Published: VGG-16 on COCO."
    )
    tables = [
        Table("4.3, pointing game", NAME, "accuracy", plain, True, 3, note),
        Table("4.3, pointing game with reject option", NAME, "accuracy", reject, True, 3, rule),
    ]
    return Section("4.3: the pointing game", tables)


def measure(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """Accuracy of one method on nouns that are there, and on the five likeliest with the reject option."""
    known, broken = scenes(lab, "dev")
    chosen = [scene for scene in known if grouped(scene)][:count]
    rows = [_guesses(lab, scene, method) for scene in chosen]
    plain = [hit for present, hit in (row["present"] for row in rows) for hit in hit[present].tolist()]
    groups = [n for n, row in enumerate(rows) for _ in range(int(row["present"][0].sum()))]
    found = {"plain": summarised(plain, groups), "reject": _with_reject([row["top"] for row in rows])}
    for summary in found.values():
        summary["left_out"] += broken
    return found


def _guesses(lab: Lab, scene: Scene, method: str) -> dict[str, Any]:
    """Of one photograph: (present, hits) of all nouns there, and (hits, strengths, present) of the
    likeliest.
    """
    image = lab.classifier.images(scene.path)
    names, scores, indices = group_scores(lab.classifier.logits(image)[0])
    boxes = grouped(scene)
    unboxed = {group_of(noun) for noun in scene.nouns} - set(boxes)
    top = [g for g in scores.argsort(descending=True)[:5].tolist() if names[g] not in unboxed]
    asked = list(dict.fromkeys([*top, *[names.index(name) for name in boxes]]))
    maps = method_maps(lab.classifier, image, [int(indices[g]) for g in asked], method)[:, 0]
    masks = torch.stack([box_mask(boxes.get(names[g], ()), SIZE) for g in asked])
    hits = pointing_hits(maps, masks)
    present = torch.tensor([names[g] in boxes for g in asked])
    strengths = maps.flatten(1).amax(1).double().cpu()
    kept = slice(len(top))
    return {"present": (present, hits), "top": (hits[kept], strengths[kept], present[kept])}


def _with_reject(rows: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
    """Each half is measured with the threshold that is best on the other half."""
    found: list[float] = []
    groups: list[int] = []
    for half in (0, 1):
        other = [row for n, row in enumerate(rows) if n % 2 != half]
        if not other:
            continue
        threshold = best_threshold(*(torch.cat(part) for part in zip(*other, strict=True)))
        for n, row in enumerate(rows):
            if n % 2 == half:
                values = hits_with_reject(*row, threshold).tolist()
                found += values
                groups += [n] * len(values)
    return summarised(found, groups)
