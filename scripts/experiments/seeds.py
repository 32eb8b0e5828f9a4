"""Figure 4: weakly supervised segmentation: seeds from maps, and a network that is trained on them (SEC).

On VOC, for all 20 classes: a classifier fine-tuned on the training photographs' labels gives the seeds, and
`scripts.experiments.sec` trains a segmentation network on them, which is measured on val with masks that
neither has seen. The whole of VOC's train split takes hours on a CPU: give `--device cuda` or `--limit N`.
Without VOC the same runs on Flickr8k: labels are nouns of the captions, and what is measured against are boxes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from classification.classifier import Classifier
from classification.segmentation import crf_package
from common.errors import UserError
from common.images import open_image
from common.metrics.grounding import box_mask
from common.metrics.segmentation import UNDECIDED, confusion, mean_overlap, seeds
from data.readers import voc
from data.readers.files import Reading
from data.records import LocalisedImage
from scripts.experiments.annotated import voc_training
from scripts.experiments.lab import Lab, summarised
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.multilabel import Labelled, fine_tuned, has_cam
from scripts.experiments.nouns import group_scores
from scripts.experiments.report import Row, Section, Table, row_of
from scripts.experiments.scenes import NAME, grouped, scenes
from scripts.experiments.sec import train_segmenter
from scripts.experiments.sec_boxes import sec_boxes_tables, sec_picture, shared_over_union

METHODS = ("gradcam", "cam", "cmwp", "occlusion")
PUBLISHED = {"gradcam": "49.6", "cam": "44.6"}
SIZE = (224, 224)
SAME = "the same seeds: this network ends in average pooling and one linear layer"
NOTE = (
    "The paper's 49.6 (Grad-CAM) and 44.6 (CAM) are the mean IoU, in per cent, of a VGG-16 segmentation network"
    " trained by SEC on 10,582 photographs, on VOC 2012 val. Seeds are what exceeds 20 % of the map's maximum;"
    " the background's seeds are the tenth of the photograph where the gradients of its classes are smallest."
)


def figure4(lab: Lab) -> Section:
    """Figure 4, weakly supervised segmentation."""
    title = "Figure 4: seeds for segmentation, and a network trained on them"
    given = "voc" in lab.data
    lab = lab.on("voc" if given else "flickr8k")
    tables = [voc_seeds_table(lab) if given else boxes_table(lab)]
    notes = [NOTE, "Boxes hold background too: even a perfect mask would not reach 1."][: 1 if given else 2]
    try:
        crf_package()
    except UserError as missing:
        return Section(title, tables, notes=[*notes, f"Left out: SEC training ({missing})"])
    if given:
        return Section(title, [*tables, voc_sec_table(lab)], notes=notes)
    return Section(title, [*tables, *sec_boxes_tables(lab)], [sec_picture(lab)], notes)


# On VOC: masks.


def voc_classifier(lab: Lab, pooled: bool = False) -> tuple[Classifier, list[Labelled]]:
    """The classifier of VOC's 20 classes, and the photographs of the training split."""
    images = voc_training(voc.find_root(lab.need("voc")), "train", lab.count(6000, 30))
    return fine_tuned(lab, "voc-pooled" if pooled else "voc", voc.CLASSES, images, pooled), images


def voc_val(lab: Lab) -> tuple[Reading[LocalisedImage], str]:
    """The photographs of the segmentation's val split, and its name."""
    root = voc.find_root(lab.need("voc"))
    year = root.name.removeprefix("VOC") if root.name.startswith("VOC") else ""
    return voc.read(root, "val", "Segmentation", lab.count(1449, 10)), " ".join(f"VOC {year} val".split())


def voc_seeds_table(lab: Lab) -> Table:
    """Mean IoU of the seeds alone, of photographs whose classes are known."""
    rows = []
    for method in METHODS[:3]:
        cell = lab.attempt(f"voc-seeds-{method}", partial(seeds_against_masks, lab, method), **_counts(lab))
        rows.append(row_of(LABELS[method], cell and cell["iou"], "", lab.model))
    note = (
        "Seeds of the classes that are in the photograph, background elsewhere; the error is the bootstrap's."
    )
    return Table("Figure 4, seeds alone", voc_val(lab)[1], "mean IoU (%)", rows, False, 1, note)


def _counts(lab: Lab) -> dict[str, int]:
    return {"count": lab.count(1449, 10), "train": lab.count(6000, 30)}


def seeds_against_masks(lab: Lab, method: str) -> dict[str, Any]:
    """Mean IoU of seeds over classes and background, from counts over all photographs."""
    classifier, _ = voc_classifier(lab)

    def label(image: Any, truth: Tensor) -> dict[str, Tensor]:
        present = sorted(set(truth.unique().tolist()) - {0, UNDECIDED})
        if not present:
            return {"iou": torch.zeros_like(truth)}
        maps = method_maps(classifier, classifier.images(image), [c - 1 for c in present], method)[:, 0]
        return {"iou": seeds(dict(zip(present, maps, strict=True)), (truth.shape[0], truth.shape[1]))}

    return against_masks(lab, label)


def against_masks(lab: Lab, label: Any) -> dict[str, Any]:
    """Mean IoU in per cent, with VOC's masks, of each labelling (H, W) that `label(image, truth)` gives by
    name; what is broken is counted and left out.
    """
    reading, _ = voc_val(lab)
    counts: dict[str, list[Tensor]] = {}
    problems = list(reading.problems)
    for item in reading.items:
        try:
            truth = torch.from_numpy(voc.read_mask(item.mask or item.path).astype("int64"))
            found = label(open_image(item.path), truth)
            added = {name: confusion(labels, truth, len(voc.CLASSES)) for name, labels in found.items()}
        except UserError as problem:
            problems.append(str(problem))
            continue
        for name, each in added.items():
            counts.setdefault(name, []).append(each)
    if not counts:
        raise UserError(problems[0])
    result: dict[str, Any] = {"problems": problems[:20]}
    for name, these in counts.items():
        known = vars(mean_overlap(torch.stack(these)))
        percent = {key: 100 * known[key] for key in ("mean", "error")}
        result[name] = {**known, **percent, "left_out": len(problems)}
    return result


def voc_sec_table(lab: Lab) -> Table:
    """Mean IoU of networks trained by SEC, with and without the CRF at test time."""
    rows: list[Row] = []
    cell: dict[str, Any] = {}
    for method in ("gradcam", "cam"):
        same = method == "cam" and cell["has_cam"]
        if not same:
            cell = lab.cell(f"voc-sec-{method}", partial(sec_against_masks, lab, method), **_counts(lab))
        what = f"SEC, {LABELS[method]} seeds"
        rows.append(row_of(what, cell["iou"], PUBLISHED[method], lab.model, SAME if same else ""))
        rows.append(row_of(f"{what}, no CRF at test", cell["plain"], "", lab.model, SAME if same else ""))
    note = (
        "Trained on image labels alone; classes of the photographs are not given at test time."
        f" {cell['trained']} training photographs; the error is the bootstrap's."
    )
    return Table(
        "Figure 4, weakly supervised segmentation", voc_val(lab)[1], "mean IoU (%)", rows, False, 1, note
    )


def sec_against_masks(lab: Lab, method: str) -> dict[str, Any]:
    """Train on one method's seeds and measure on val."""
    own, images = voc_classifier(lab)
    pooled = method == "cam" and not has_cam(own)
    classifier = voc_classifier(lab, pooled=True)[0] if pooled else own
    segmentation = train_segmenter(lab, f"voc-sec-{method}", classifier, len(voc.CLASSES), images, method)

    def label(image: Any, truth: Tensor) -> dict[str, Tensor]:
        plain, refined = segmentation(image)
        return {"plain": plain.argmax(0), "iou": refined.argmax(0)}

    return {**against_masks(lab, label), "has_cam": has_cam(own), "trained": len(images)}


# Without VOC: boxes.


def boxes_table(lab: Lab) -> Table:
    """IoU of seeds of ImageNet's classifier with boxes."""
    count = lab.count(200, 15)
    rows = []
    for method in METHODS:
        less = max(1, count // 5) if method == "occlusion" else count
        cell = lab.attempt(f"seeds-{method}", partial(against_boxes, lab, method, less), count=less)
        rows.append(row_of(LABELS[method], cell and cell["seeds"], "", lab.model))
    whole = lab.cell("seeds-gradcam", lambda: against_boxes(lab, "gradcam", count), count=count)["whole"]
    rows.append(row_of("the whole photograph", whole))
    return Table("Figure 4, seeds against boxes people drew", NAME, "IoU", rows, True)


def against_boxes(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """IoU of the seeds with the boxes of each noun that covers ImageNet classes."""
    known, broken = scenes(lab, "dev")
    chosen = [scene for scene in known if grouped(scene)][:count]
    values, whole, groups = [], [], []
    for number, scene in enumerate(chosen):
        try:
            image = lab.classifier.images(scene.path)
        except UserError:
            broken += 1
            continue
        names, _, indices = group_scores(lab.classifier.logits(image)[0])
        for group, boxes in grouped(scene).items():
            maps = method_maps(lab.classifier, image, int(indices[names.index(group)]), method)[0, 0]
            mask, truth = seeds({1: maps}, SIZE) == 1, box_mask(boxes, SIZE)
            values.append(shared_over_union(mask, truth))
            whole.append(float(truth.double().mean()))
            groups.append(number)
    found = {"seeds": summarised(values, groups), "whole": summarised(whole, groups)}
    found["seeds"]["left_out"] += broken
    return found
