"""Figure 4: weakly supervised segmentation: seeds from maps, and a network that is trained on them (SEC).

    python -m scripts.experiments.figure4 --voc VOCdevkit --device cuda

On VOC, for all 20 classes: a classifier fine-tuned on the training photographs' labels gives the seeds, and
`classification.segmenter` trains a segmentation network on them, which is measured on val with masks that
neither has seen. The whole of VOC's train split takes hours on a CPU: give `--device cuda` or `--limit N`.
Without VOC the same runs on Flickr8k: labels are nouns of the captions, and what is measured against are boxes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from classification.classifier import Classifier
from classification.finetuning import Labelled, Tuning, fine_tuned, has_cam
from classification.segmentation import crf_package, localisation_cues
from classification.segmenter import Segmentation, Training, train_segmenter
from common.draw import Tile, panel
from common.errors import UserError
from common.images import open_image
from common.metrics.grounding import box_mask
from common.metrics.segmentation import UNDECIDED, confusion, mean_overlap, seeds
from data.readers import voc
from data.readers.files import Reading, read_each
from data.records import LocalisedImage
from data.words.imagenet_nouns import NOUNS
from scripts.experiments.annotated import voc_training
from scripts.experiments.lab import Lab, measured, paired, spread
from scripts.experiments.maps import LABELS, group_scores, method_maps
from scripts.experiments.report import Picture, Row, Section, Table, against, row_of
from scripts.experiments.run import alone
from scripts.experiments.scenes import NAME, Boxed, Scene, boxed_scenes, grouped, scenes

METHODS = ("gradcam", "cam", "cmwp", "occlusion")
PUBLISHED = {"gradcam": "49.6", "cam": "44.6"}
SIZE = (224, 224)
TITLE = "Figure 4: seeds for segmentation, and a network trained on them"
SAME = "the same seeds: this network ends in average pooling and one linear layer"
NOTE = (
    "The paper's 49.6 (Grad-CAM) and 44.6 (CAM) are the mean IoU, in per cent, of a VGG-16 segmentation network"
    " trained by SEC on 10,582 photographs, on VOC 2012 val. Seeds are what exceeds 20 % of the map's maximum;"
    " the background's seeds are the tenth of the photograph where the gradients of its classes are smallest."
)


def section(lab: Lab) -> Section:
    """Figure 4, weakly supervised segmentation."""
    given = "voc" in lab.data
    lab = lab.on("voc" if given else "flickr8k")
    tables = [voc_seeds_table(lab) if given else boxes_table(lab)]
    notes = [NOTE, "Boxes hold background too: even a perfect mask would not reach 1."][: 1 if given else 2]
    try:
        crf_package()
    except UserError as missing:
        return Section(TITLE, tables, notes=[*notes, f"Left out: SEC training ({missing})"])
    if given:
        return Section(TITLE, [*tables, voc_sec_table(lab)], notes=notes)
    return Section(TITLE, [*tables, *sec_boxes_tables(lab)], [sec_picture(lab)], notes)


# On VOC: masks.


def voc_classifier(lab: Lab, pooled: bool = False) -> tuple[Classifier, list[Labelled]]:
    """The classifier of VOC's 20 classes, and the photographs of the training split."""
    images = voc_training(voc.find_root(lab.need("voc")), "train", lab.count(6000, 30))
    run = lab.out / "runs" / ("voc-pooled" if pooled else "voc")
    return fine_tuned(lab.plain_classifier, voc.CLASSES, images, run, pooled), images


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
    note = "Seeds of the classes that are in the photograph, background elsewhere; the error is the bootstrap's."
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

    def counts(item: LocalisedImage) -> dict[str, Tensor]:
        truth = torch.from_numpy(voc.read_mask(item.mask or item.path).astype("int64"))
        found = label(open_image(item.path), truth)
        return {name: confusion(labels, truth, len(voc.CLASSES)) for name, labels in found.items()}

    counted = read_each(reading.items, counts)
    problems = [*reading.problems, *counted.problems]
    result: dict[str, Any] = {"problems": problems[:20]}
    for name in counted.items[0]:
        known = vars(mean_overlap(torch.stack([each[name] for each in counted.items])))
        percent = {key: 100 * known[key] for key in ("mean", "error")}
        result[name] = {**known, **percent, "left_out": len(problems)}
    return result


def voc_sec_table(lab: Lab) -> Table:
    """Mean IoU of networks trained by SEC, with and without the CRF at test time."""
    rows: list[Row] = []
    cell: dict[str, Any] = {}
    for method in ("gradcam", "cam"):
        same = SAME if method == "cam" and cell["has_cam"] else ""
        if not same:
            cell = lab.cell(f"voc-sec-{method}", partial(sec_against_masks, lab, method), **_counts(lab))
        what = f"SEC, {LABELS[method]} seeds"
        rows.append(row_of(what, cell["iou"], PUBLISHED[method], lab.model, same))
        rows.append(row_of(f"{what}, no CRF at test", cell["plain"], "", lab.model, same))
    note = (
        "Trained on image labels alone; classes of the photographs are not given at test time."
        f" {cell['trained']} training photographs; the error is the bootstrap's."
    )
    return Table("Figure 4, weakly supervised segmentation", voc_val(lab)[1], "mean IoU (%)", rows, False, 1, note)


def sec_against_masks(lab: Lab, method: str) -> dict[str, Any]:
    """Train on one method's seeds and measure on val."""
    own, images = voc_classifier(lab)
    pooled = method == "cam" and not has_cam(own)
    classifier = voc_classifier(lab, pooled=True)[0] if pooled else own
    cues, run = partial(classifier_cues, classifier, method), lab.out / "runs" / f"voc-sec-{method}"
    segmentation = train_segmenter(classifier, images, cues, run)

    def label(image: Any, truth: Tensor) -> dict[str, Tensor]:
        plain, refined = segmentation(image)
        return {"plain": plain.argmax(0), "iou": refined.argmax(0)}

    return {**against_masks(lab, label), "has_cam": has_cam(own), "trained": len(images)}


# Without VOC: boxes.


def boxes_table(lab: Lab) -> Table:
    """IoU of seeds of ImageNet's classifier with boxes."""
    count, cells = lab.count(200, 15), {}
    for method in METHODS:
        less = max(1, count // 5) if method == "occlusion" else count
        cells[method] = lab.attempt(f"seeds-{method}", partial(against_boxes, lab, method, less), count=less)
    first = cells["gradcam"] or {}
    rows = [row_of(LABELS["gradcam"], first.get("seeds"), "", lab.model)]
    others = {LABELS[method]: cell and cell["seeds"] for method, cell in cells.items() if method != "gradcam"}
    for label, found in {**others, "the whole photograph": first.get("whole")}.items():
        rows.append(against(row_of(label, found, "", lab.model), paired(found or {}, first.get("seeds", {}))))
    title = "Figure 4, seeds against boxes people drew"
    return Table(title, NAME, "IoU", rows, True, reference=LABELS["gradcam"])


def against_boxes(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """IoU of the seeds with the boxes of each noun that covers ImageNet classes."""
    known, broken = scenes(lab, "dev")

    def overlaps(number: int, scene: Scene) -> dict[str, list[float]]:
        image = lab.classifier.images(scene.path)
        names, _, indices = group_scores(lab.classifier.logits(image)[0])
        found: dict[str, list[float]] = {"seeds": [], "whole": []}
        for group, boxes in grouped(scene).items():
            maps = method_maps(lab.classifier, image, int(indices[names.index(group)]), method)[0, 0]
            truth = box_mask(boxes, SIZE)
            found["seeds"].append(shared_over_union(seeds({1: maps}, SIZE) == 1, truth))
            found["whole"].append(float(truth.double().mean()))
        return found

    chosen = [scene for scene in known if grouped(scene)][:count]
    return measured(chosen, overlaps, ("seeds", "whole"), broken)


def shared_over_union(mask: Tensor, truth: Tensor) -> float:
    """Intersection over union of two boolean masks; NaN when both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else math.nan


def share_inside(mask: Tensor, truth: Tensor) -> float:
    """The share of a boolean mask that lies in another; NaN when it is empty."""
    return float(truth[mask].double().mean()) if bool(mask.any()) else math.nan


def sec_boxes_tables(lab: Lab) -> list[Table]:
    """IoU with boxes of a network trained by SEC on captions' nouns, and of the seeds it was trained on."""
    train, count = lab.count(450, 25), lab.count(150, 10)
    cell = lab.cell("sec-boxes", partial(sec_against_boxes, lab, train, count), train=train, count=count)
    whole = row_of("the whole photograph, classes known", cell["whole"])
    named = {"sec": "SEC, Grad-CAM seeds", "given": "the same, classes known", "seeds": "its seeds, classes known"}
    rows = [*[row_of(what, cell[key], "", lab.model) for key, what in named.items()], whole]
    note = (
        f"Classes {', '.join(NOUNS)}, labels from the nouns of captions; {cell['trained']} training photographs, trunk"
        " not trained. IoU of each class with its boxes, mean over photographs and classes; a class that is given"
        " where no caption names it has an IoU of 0. CAM's seeds are the same (average pooling and one linear layer)."
    )
    named = {"given_inside": "SEC, classes known", "seeds_inside": "its seeds, classes known"}
    inside = [*[row_of(what, cell[key], "", lab.model) for key, what in named.items()], whole]
    why = (
        "The share of the class's pixels that lies in its boxes: what SEC adds are borders, which IoU with boxes"
        " does not reward, since a figure fills its box only in part while seeds that spill over fill it. Left out"
        " are classes that got no pixel at all; their IoU is 0 in the table above."
    )
    return [
        Table("Figure 4, SEC training against boxes people drew", NAME, "IoU", rows, True, 3, note),
        Table("Figure 4, SEC training, pixels inside the boxes", NAME, "share", inside, True, 3, why),
    ]


def trained_on_boxes(lab: Lab, train: int) -> tuple[Classifier, Segmentation, int]:
    """The substitute's classifier and segmentation network, trained or as they were kept."""
    chosen, _ = boxed_scenes(lab, "train", train)
    images = [Labelled(item.scene.path, item.labels) for item in chosen]
    runs = lab.out / "runs"
    tuning, training = Tuning(epochs=3), Training(stride=16, trunk_rate=0.0, epochs=10)
    classifier = fine_tuned(lab.plain_classifier, tuple(NOUNS), images, runs / "boxes", tuning=tuning)
    cues = partial(classifier_cues, classifier, "gradcam")
    return classifier, train_segmenter(classifier, images, cues, runs / "boxes-sec", training), len(images)


def classifier_cues(
    classifier: Classifier, method: str, image: Image.Image, classes: Sequence[int], size: tuple[int, int]
) -> Tensor:
    """Seeds (h, w) of a photograph with these classes (0 the first; label 1): see `localisation_cues`.

    Saliency is the largest gradient magnitude of any of the classes.
    """
    batch = classifier.images(image)
    maps = method_maps(classifier, batch, list(classes), method)[:, 0]
    saliency = method_maps(classifier, batch, list(classes), "gradient")[:, 0].amax(0)
    return localisation_cues({c + 1: values for c, values in zip(classes, maps, strict=True)}, saliency, size)


def sec_against_boxes(lab: Lab, train: int, count: int) -> dict[str, Any]:
    """Train, and measure on photographs of the dev split."""
    classifier, segmentation, trained = trained_on_boxes(lab, train)
    test, broken = boxed_scenes(lab, "dev", count)

    def overlaps(number: int, item: Boxed) -> dict[str, list[float]]:
        image, cues = photograph_and_seeds(classifier, item)
        refined, present = segmentation(image)[1], sorted(item.labels)
        free, given = refined.argmax(0), among(refined, present)
        regions = {c: region for c, region in item.regions().items() if c in present}
        wrong = [c for c in range(len(NOUNS)) if c not in present and bool((free == c + 1).any())]

        def each(measure: Callable[[Tensor, Tensor], float], labels: Tensor) -> list[float]:
            return [measure(labels == c + 1, regions[c]) for c in sorted(regions)]

        return {
            "sec": each(shared_over_union, free) + [0.0] * len(wrong),
            "given": each(shared_over_union, given),
            "seeds": each(shared_over_union, cues),
            "whole": each(lambda _, region: float(region.double().mean()), free),
            "given_inside": each(share_inside, given),
            "seeds_inside": each(share_inside, cues),
        }

    return {**measured(test, overlaps, broken=broken), "trained": trained}


def photograph_and_seeds(classifier: Classifier, item: Boxed) -> tuple[Image.Image, Tensor]:
    """A photograph at `SIZE`, and the seeds (H, W) of Grad-CAM of its classes."""
    image, present = open_image(item.scene.path).resize(SIZE[::-1]), sorted(item.labels)
    maps = method_maps(classifier, classifier.images(image), present, "gradcam")[:, 0]
    return image, seeds({c + 1: values for c, values in zip(present, maps, strict=True)}, SIZE)


def among(f: Tensor, present: Sequence[int]) -> Tensor:
    """Labels (H, W) of probabilities (C + 1, H, W), of the background and the classes present alone."""
    kept = [0, *[c + 1 for c in present]]
    return torch.tensor(kept)[f[kept].argmax(0)]


def sec_picture(lab: Lab) -> Picture:
    """Photographs of the dev split, the seeds' maps and what the network makes of them."""
    train = lab.count(450, 25)

    def draw() -> Image.Image:
        classifier, segmentation, _ = trained_on_boxes(lab, train)
        tiles: list[Tile] = []
        for item in spread(boxed_scenes(lab, "dev", 60)[0], 4):
            image, cues = photograph_and_seeds(classifier, item)
            names = ", ".join(list(NOUNS)[c] for c in sorted(item.labels))
            tiles += [Tile(image, names), Tile(coloured(image, cues), "Grad-CAM seeds")]
            tiles += [Tile(coloured(image, segmentation(image)[1].argmax(0)), "SEC")]
        return panel("Seeds, and a network trained on such seeds", tiles, columns=3, width=220)

    key = ", ".join(f"{name} {colour}" for name, (colour, _) in zip(NOUNS, COLOURS, strict=True))
    caption = f"Photograph with its classes, Grad-CAM seeds, and SEC's segmentation ({key})"
    return lab.picture("sec-boxes", caption, draw, train=train)


COLOURS = (
    ("red", (214, 39, 40)), ("blue", (31, 119, 180)), ("green", (44, 160, 44)), ("orange", (255, 127, 14)),
    ("purple", (148, 103, 189)),
)  # fmt: skip


def coloured(image: Image.Image, labels: Tensor) -> Image.Image:
    """The photograph, greyed, with each class's pixels in its colour."""
    palette = torch.tensor([(0, 0, 0), *[rgb for _, rgb in COLOURS]], dtype=torch.uint8)
    known = labels.masked_fill(labels == UNDECIDED, 0)
    paint = Image.fromarray(palette[known].numpy())
    opacity = Image.fromarray(((known > 0).to(torch.uint8) * 150).numpy())
    return Image.composite(paint, image.convert("L").convert("RGB"), opacity)


if __name__ == "__main__":
    alone("fig4", __doc__)
