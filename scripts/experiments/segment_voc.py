"""Figure 4 on VOC: seeds from the maps of a classifier, a segmentation network trained on them, measured on masks.

C classes without the background, H,W a photograph.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from classification.classifier import Classifier
from classification.finetuning import Labelled, has_cam
from classification.segmenter import Segmentation, Training, train_segmenter
from common.draw import Tile, panel
from common.errors import MethodError
from common.images import open_image
from common.metrics.grounding import Summary, box_mask
from common.metrics.localisation import centred_box
from common.metrics.segmentation import BACKGROUND, UNDECIDED, confusion, mean_overlap, overlap_difference, seeds
from data.readers import voc
from data.readers.files import Reading, read_each
from data.records import LocalisedImage
from scripts.experiments.annotated import voc_training
from scripts.experiments.asker import TRAIN, tuned_to
from scripts.experiments.lab import Lab, spread
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.paper import SEGMENTED
from scripts.experiments.report import Picture, Row, Table, against, row_of
from scripts.experiments.seeding import COLOURS, METHODS, classifier_cues, coloured

PUBLISHED = {"gradcam": "49.6", "cam": "44.6"}
SAME = "the same seeds: this network ends in average pooling and one linear layer"
BOX = 0.7  # side of the centred box, as a share of the photograph's: half of its area
# On a CPU: the trunk stays as it is, so that its maps are kept (1 MB a photograph of 224 pixels).
ON_CPU = Training(epochs=10, stride=16, trunk_rate=0.0)
# Labellings (H, W) by name, of a photograph and its true mask.
Labelling = Callable[[Image.Image, Tensor], dict[str, Tensor]]


def voc_classifier(lab: Lab, pooled: bool = False) -> tuple[Classifier, list[Labelled]]:
    """The classifier of VOC's 20 classes, and the photographs of the training split."""
    images = voc_training(voc.find_root(lab.need("voc")), "train", lab.trained_on(*TRAIN))
    return tuned_to(lab, voc.CLASSES, images, "voc-pooled" if pooled else "voc", pooled), images


def voc_val(lab: Lab) -> tuple[Reading[LocalisedImage], str]:
    """The photographs of the segmentation's val split, and its name."""
    root = voc.find_root(lab.need("voc"))
    year = root.name.removeprefix("VOC") if root.name.startswith("VOC") else ""
    return voc.read(root, "val", "Segmentation", lab.count(*SEGMENTED)), " ".join(f"VOC {year} val".split())


def seeds_table(lab: Lab) -> Table:
    """Mean IoU of the seeds alone, of photographs whose classes are known."""
    cell = lab.cell("voc-seeds", partial(seeds_against_masks, lab), **_counts(lab))
    names = {**{method: LABELS[method] for method in METHODS[:3]}, "box": "a centred box of the first class"}
    note = (
        "Seeds of the classes that are in the photograph, background elsewhere. The errors, also of the differences,"
        " are the bootstrap's over photographs."
    )
    rows = [_row(lab, what, cell, name) for name, what in {**names, "ground": GROUND}.items()]
    data = voc_val(lab)[1]
    return Table("Figure 4, seeds alone", data, "mean IoU (%)", rows, False, 1, note, LABELS["gradcam"])


def _counts(lab: Lab) -> dict[str, Any]:
    return {"count": lab.count(*SEGMENTED), "train": lab.trained_on(*TRAIN)}


def _row(lab: Lab, what: str, cell: dict[str, Any], name: str, published: str = "", note: str = "") -> Row:
    row = row_of(what, cell.get(name), published, "" if name in ("box", "ground") else lab.model, note)
    less = cell[name]["less"] if name in cell else None
    return against(row, Summary(**less)) if less else row


def seeds_against_masks(lab: Lab) -> dict[str, Any]:
    """Mean IoU of seeds over classes and background, from counts over all photographs, by method."""
    classifier, _ = voc_classifier(lab)

    def label(image: Image.Image, truth: Tensor) -> dict[str, Tensor]:
        size = (truth.shape[0], truth.shape[1])
        present = sorted(set(truth.unique().tolist()) - {BACKGROUND, UNDECIDED})
        found = {"ground": torch.zeros_like(truth)}
        found["box"] = box_mask([centred_box(BOX)], size).long() * next(iter(present), 0)
        for method in METHODS[:3] if present else ():
            with contextlib.suppress(MethodError):  # CAM, where the head is of another kind
                maps = method_maps(classifier, classifier.images(image), [c - 1 for c in present], method)[:, 0]
                found[method] = seeds(dict(zip(present, maps, strict=True)), size)
        return found

    return against_masks(lab, label, "gradcam")


def against_masks(lab: Lab, label: Labelling, first: str) -> dict[str, Any]:
    """Mean IoU in per cent, with VOC's masks, of each labelling by name, and `less`: its difference from the `first`.

    Photographs without a class are left as background by every labelling; what is broken is counted and left out.
    """
    reading, _ = voc_val(lab)

    def counts(item: LocalisedImage) -> dict[str, Tensor]:
        truth = torch.from_numpy(voc.read_mask(item.mask or item.path).astype("int64"))
        found = label(open_image(item.path), truth)
        return {name: confusion(labels, truth, len(voc.CLASSES)) for name, labels in found.items()}

    counted = read_each(reading.items, counts)
    problems = [*reading.problems, *counted.problems]
    names = dict.fromkeys(name for each in counted.items for name in each)
    by_name = {n: torch.stack([each.get(n, each["ground"]) for each in counted.items]) for n in names}
    result: dict[str, Any] = {"problems": problems[:20]}
    for name, these in by_name.items():
        less = None if name == first else _percent(overlap_difference(these, by_name[first]))
        result[name] = {**_percent(mean_overlap(these)), "left_out": len(problems), "less": less}
    return result


def _percent(found: Any) -> dict[str, Any]:
    return {**vars(found), "mean": 100 * found.mean, "error": 100 * found.error}


def sec_table(lab: Lab) -> Table:
    """Mean IoU of networks trained by SEC, with and without the CRF at test time."""
    training = training_of(lab)
    about = {**_counts(lab), "training": vars(training)} if training else _counts(lab)
    cell = lab.cell("voc-sec", partial(sec_against_masks, lab), **about)
    rows: list[Row] = []
    for method in ("gradcam", "cam"):
        same = SAME if method == "cam" and cell["has_cam"] else ""
        key, what = "gradcam" if same else method, f"SEC, {LABELS[method]} seeds"
        rows.append(_row(lab, what, cell, key, PUBLISHED[method], same))
        if not same:
            rows.append(_row(lab, f"{what}, no CRF at test", cell, f"{key}-plain"))
    note = (
        f"Trained on image labels alone; classes are not given at test time. {cell['trained']} training photographs."
        f"{FROZEN if training else ''} The errors, also of the differences, are the bootstrap's over photographs."
    )
    rows.append(_row(lab, GROUND, cell, "ground"))
    title, first = "Figure 4, weakly supervised segmentation", rows[0].what
    return Table(title, voc_val(lab)[1], "mean IoU (%)", rows, False, 1, note, first)


GROUND = "background everywhere"
FROZEN = (
    " On a CPU the classifier's last layer alone is trained, and of the segmentation network too; its map is a"
    " sixteenth of the photograph's side, not an eighth."
)


def training_of(lab: Lab) -> Training | None:
    """How the segmentation network is trained; None for the published way."""
    return ON_CPU if lab.device == "cpu" else None


def sec_against_masks(lab: Lab) -> dict[str, Any]:
    """Train on Grad-CAM's seeds, and where they are others on CAM's, and measure on val."""
    own, images = voc_classifier(lab)
    trained = {method: segmenter_of(lab, method) for method in (("gradcam",) if has_cam(own) else ("gradcam", "cam"))}

    def label(image: Image.Image, truth: Tensor) -> dict[str, Tensor]:
        found = {"ground": torch.zeros_like(truth)}
        for method, segmentation in trained.items():
            plain, refined = segmentation(image)
            found |= {method: refined.argmax(0), f"{method}-plain": plain.argmax(0)}
        return found

    return {**against_masks(lab, label, "gradcam"), "has_cam": has_cam(own), "trained": len(images)}


def segmenter_of(lab: Lab, method: str) -> Segmentation:
    """The network trained on one method's seeds, or as it was kept."""
    own, images = voc_classifier(lab)
    pooled = method == "cam" and not has_cam(own)
    classifier = voc_classifier(lab, pooled=True)[0] if pooled else own
    cues, run = partial(classifier_cues, classifier, method), lab.out / "runs" / f"voc-sec-{method}"
    return train_segmenter(classifier, images, cues, run, training_of(lab))


def voc_picture(lab: Lab) -> Picture:
    """Photographs of val, their masks, the seeds and what the network makes of them."""

    def draw() -> Image.Image:
        (classifier, _), segmentation = voc_classifier(lab), segmenter_of(lab, "gradcam")
        rows = read_each(spread(voc_val(lab)[0].items, 12), partial(_tiles, classifier, segmentation), 4).items
        tiles = [tile for row in rows for tile in row]
        return panel("Seeds, and a network trained on such seeds", tiles, columns=4, width=220)

    caption = (
        "Photographs of val with what is in them, people's masks, Grad-CAM seeds of these classes, and what SEC's"
        " network finds without being told them; of each photograph its classes in red, blue, green, others grey"
    )
    return lab.picture("voc-sec", caption, draw, **_counts(lab))


def _tiles(classifier: Classifier, segmentation: Segmentation, item: LocalisedImage) -> list[Tile]:
    image, truth = open_image(item.path), torch.from_numpy(voc.read_mask(item.mask or item.path).astype("int64"))
    present = sorted(set(truth.unique().tolist()) - {BACKGROUND, UNDECIDED})
    maps = method_maps(classifier, classifier.images(image), [c - 1 for c in present], "gradcam")[:, 0]
    found = seeds(dict(zip(present, maps, strict=True)), (image.height, image.width))
    segmented = segmentation(image)[1].argmax(0)
    grey = {label: (127, 127, 127) for label in range(1, len(voc.CLASSES) + 1)}
    colours = {**grey, **{label: rgb for label, (_, rgb) in zip(present, COLOURS, strict=False)}}
    named = {"masks": truth, "Grad-CAM seeds": found, "SEC": segmented}
    names = ", ".join(voc.CLASSES[label - 1] for label in present)
    return [Tile(image, names), *[Tile(coloured(image, these, colours), name) for name, these in named.items()]]
