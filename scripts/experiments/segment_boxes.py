"""Figure 4 without VOC: seeds and a segmentation network on Flickr8k, measured on boxes that people drew.

H,W a photograph at `SIZE`, C classes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from classification.classifier import Classifier
from classification.finetuning import Labelled
from classification.segmenter import Segmentation, Training, train_segmenter
from common.draw import Tile, panel
from common.images import open_image
from common.metrics.grounding import box_mask
from common.metrics.segmentation import seeds
from data.words.imagenet_nouns import NOUNS
from scripts.experiments.asker import tuned_to
from scripts.experiments.compared import compared
from scripts.experiments.lab import Lab, measured, paired, spread
from scripts.experiments.maps import LABELS, group_scores, method_maps
from scripts.experiments.report import Picture, Table, against, row_of
from scripts.experiments.scenes import NAME, Boxed, Scene, boxed_scenes, grouped, scenes
from scripts.experiments.seeding import COLOURS, METHODS, classifier_cues, coloured

SIZE = (224, 224)


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
    known = {"given": "SEC, classes known", "seeds": "its seeds, classes known", "whole": "the whole photograph"}
    free = row_of("SEC, classes not given", cell["sec"], "", lab.model)
    rows = [free, *compared(known, cell, "given", lab.model)]
    note = (
        f"Classes {', '.join(NOUNS)}, labels from the nouns of captions; {cell['trained']} training photographs, trunk"
        " not trained. IoU of each class with its boxes, mean over photographs and classes; a class that is given"
        " where no caption names it has an IoU of 0. CAM's seeds are the same (average pooling and one linear layer)."
    )
    named = {"given_inside": known["given"], "seeds_inside": known["seeds"], "whole": known["whole"]}
    inside = compared(named, cell, "given_inside", lab.model)
    why = (
        "The share of the class's pixels that lies in its boxes: what SEC adds are borders, which IoU with boxes"
        " does not reward, since a figure fills its box only in part while seeds that spill over fill it. Left out"
        " are classes that got no pixel at all; their IoU is 0 in the table above."
    )
    return [
        Table("Figure 4, SEC training against boxes people drew", NAME, "IoU", rows, True, 3, note, known["given"]),
        Table("Figure 4, SEC training, pixels inside the boxes", NAME, "share", inside, True, 3, why, known["given"]),
    ]


def trained_on_boxes(lab: Lab, train: int) -> tuple[Classifier, Segmentation, int]:
    """The substitute's classifier and segmentation network, trained or as they were kept."""
    chosen, _ = boxed_scenes(lab, "train", train)
    images = [Labelled(item.scene.path, item.labels) for item in chosen]
    runs, training = lab.out / "runs", Training(stride=16, trunk_rate=0.0, epochs=10)
    classifier = tuned_to(lab, tuple(NOUNS), images, "boxes")
    cues = partial(classifier_cues, classifier, "gradcam")
    return classifier, train_segmenter(classifier, images, cues, runs / "boxes-sec", training), len(images)


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
        colours = {c + 1: rgb for c, (_, rgb) in enumerate(COLOURS)}
        for item in spread(boxed_scenes(lab, "dev", 60)[0], 4):
            image, cues = photograph_and_seeds(classifier, item)
            names = ", ".join(list(NOUNS)[c] for c in sorted(item.labels))
            tiles += [Tile(image, names), Tile(coloured(image, cues, colours), "Grad-CAM seeds")]
            tiles += [Tile(coloured(image, segmentation(image)[1].argmax(0), colours), "SEC")]
        return panel("Seeds, and a network trained on such seeds", tiles, columns=3, width=220)

    key = ", ".join(f"{name} {colour}" for name, (colour, _) in zip(NOUNS, COLOURS, strict=True))
    caption = f"Photograph with its classes, Grad-CAM seeds, and SEC's segmentation ({key})"
    return lab.picture("sec-boxes", caption, draw, train=train)
