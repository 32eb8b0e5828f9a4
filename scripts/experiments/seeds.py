"""Figure 4: seeds for weakly supervised segmentation, and how well they cover what they should."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from common.metrics.grounding import box_mask
from common.metrics.segmentation import confusion, overlaps, seeds
from data import voc
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.nouns import GROUPS, group_scores
from scripts.experiments.scenes import NAME, grouped, scenes
from scripts.lab import Lab, summarised
from scripts.report import Row, Section, Table, row_of

METHODS = ("gradcam", "cam", "cmwp", "occlusion")
SIZE = (224, 224)
NOTE = (
    "The paper's 49.6 (Grad-CAM) against 44.6 (CAM) are of a segmentation network trained on such seeds (SEC,"
    " VGG-16, VOC 2012 val); here the seeds themselves are measured: what exceeds 20 % of the map's maximum."
)


def figure4(lab: Lab) -> Section:
    """Figure 4, weakly supervised segmentation."""
    title = "Figure 4: seeds for segmentation"
    if "voc" in lab.data:
        return Section(title, [voc_table(lab.on("voc"))], notes=[NOTE])
    lab = lab.on("flickr8k")
    count = lab.count(200, 15)
    rows = []
    for method in METHODS:
        less = max(1, count // 5) if method == "occlusion" else count
        cell = lab.attempt(f"seeds-{method}", partial(against_boxes, lab, method, less), count=less)
        rows.append(row_of(LABELS[method], cell and cell["seeds"], "", lab.model))
    whole = lab.cell("seeds-gradcam", lambda: against_boxes(lab, "gradcam", count), count=count)["whole"]
    rows.append(row_of("the whole photograph", whole))
    table = Table("Figure 4, seeds against boxes people drew", NAME, "IoU", rows, True)
    return Section(
        title, [table], notes=[NOTE, "Boxes hold background too: even a perfect mask would not reach 1."]
    )


def against_boxes(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """IoU of the seeds with the boxes of each noun that covers ImageNet classes."""
    known, broken = scenes(lab, "dev")
    chosen = [scene for scene in known if grouped(scene)][:count]
    values, whole, groups = [], [], []
    for number, scene in enumerate(chosen):
        image = lab.classifier.images(scene.path)
        names, _, indices = group_scores(lab.classifier.logits(image)[0])
        for group, boxes in grouped(scene).items():
            maps = method_maps(lab.classifier, image, int(indices[names.index(group)]), method)[0, 0]
            mask, truth = seeds({1: maps}, SIZE) == 1, box_mask(boxes, SIZE)
            values.append(float((mask & truth).sum()) / max(1.0, float((mask | truth).sum())))
            whole.append(float(truth.double().mean()))
            groups.append(number)
    found = {"seeds": summarised(values, groups), "whole": summarised(whole, groups)}
    found["seeds"]["left_out"] += broken
    return found


def voc_table(lab: Lab) -> Table:
    """Mean IoU of the seeds with VOC's masks, over the classes that cover ImageNet classes."""
    count = lab.count(500, 10)
    rows = []
    for method in METHODS[:3]:
        cell = lab.attempt(
            f"voc-seeds-{method}",
            partial(against_masks, lab, method, count),
            count=count,
        )
        if cell is None:
            rows.append(row_of(LABELS[method], None, "", lab.model))
            continue
        note = f"{cell['classes']} classes"
        rows.append(Row(LABELS[method], cell["mean"], None, cell["n"], "", lab.model, cell["left_out"], note))
    title = "Figure 4, seeds against masks"
    return Table(title, "VOC val (classes that cover ImageNet classes, and background)", "mean IoU", rows)


def against_masks(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """Mean over classes and background of the IoU of seeds, from counts over all photographs."""
    reading = voc.read(lab.need("voc"), "val", "Segmentation", count)
    total = torch.zeros(len(voc.CLASSES) + 1, len(voc.CLASSES) + 2, dtype=torch.int64)
    for item in reading.items:
        truth = torch.from_numpy(voc.read_mask(item.mask or item.path).astype("int64"))
        image = lab.classifier.images(item.path)
        names, _, indices = group_scores(lab.classifier.logits(image)[0])
        classes = [name for name in item.classes if name in GROUPS]
        maps = {
            voc.CLASSES.index(name) + 1: method_maps(
                lab.classifier, image, int(indices[names.index(name)]), method
            )[0, 0]
            for name in classes
        }
        total += confusion(seeds(maps, (truth.shape[0], truth.shape[1])), truth, len(voc.CLASSES))
    kept = [0, *[n for n, name in enumerate(voc.CLASSES, 1) if name in GROUPS and int(total[n].sum())]]
    shares = overlaps(total)[kept]
    mean = float(shares.nanmean())
    return {"mean": mean, "classes": len(kept), "n": len(reading.items), "left_out": len(reading.problems)}
