"""SEC training where VOC is absent: on Flickr8k, with the nouns of captions as labels, against people's boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from classification.classifier import Classifier
from common.draw import Tile, panel
from common.errors import UserError
from common.images import open_image
from common.metrics.grounding import box_mask
from common.metrics.segmentation import UNDECIDED, seeds
from scripts.experiments.annotated import spread
from scripts.experiments.lab import Lab, summarised
from scripts.experiments.maps import method_maps
from scripts.experiments.multilabel import Labelled, Tuning, fine_tuned
from scripts.experiments.report import Picture, Table, row_of
from scripts.experiments.scenes import NAME, Scene, scenes
from scripts.experiments.sec import Segmentation, Training, train_segmenter

SIZE = (224, 224)
# Classes of the substitute, and the nouns that captions have for them.
NOUNS: dict[str, tuple[str, ...]] = {
    "person": (
        "person", "man", "woman", "boy", "girl", "child", "kid", "guy", "lady", "people", "baby", "toddler",
        "player", "rider", "skier", "snowboarder", "surfer", "climber", "biker", "cyclist", "skateboarder",
        "swimmer", "adult", "couple", "group", "crowd", "runner", "hiker", "men", "women", "children",
    ),
    "dog": ("dog", "puppy", "greyhound", "poodle", "terrier"),
    "ball": ("ball", "basketball", "football", "soccerball"),
    "bicycle": ("bicycle", "bike"),
    "horse": ("horse", "pony"),
}  # fmt: skip


def shared_over_union(mask: Tensor, truth: Tensor) -> float:
    """Intersection over union of two boolean masks; NaN when both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else math.nan


def share_inside(mask: Tensor, truth: Tensor) -> float:
    """The share of a boolean mask that lies in another; NaN when it is empty."""
    return float(truth[mask].double().mean()) if bool(mask.any()) else math.nan


@dataclass(frozen=True)
class Boxed:
    """A photograph of the substitute: its labels, and the region of each that has boxes."""

    scene: Scene
    labels: frozenset[int]

    def regions(self) -> dict[int, Tensor]:
        found: dict[int, list[Any]] = {}
        for noun, boxes in self.scene.boxes.items():
            for number, nouns in enumerate(NOUNS.values()):
                if noun in nouns:
                    found.setdefault(number, []).extend(boxes)
        return {number: box_mask(boxes, SIZE) for number, boxes in found.items()}


def boxed_scenes(lab: Lab, split: str, most: int) -> tuple[list[Boxed], int]:
    """Photographs whose captions name a class, of the rarest class first and of each about equally many."""
    known, broken = scenes(lab, split)
    labelled = [Boxed(scene, _labels_of(scene)) for scene in known]
    chosen: dict[int, Boxed] = {}
    counts = [sum(c in item.labels for item in labelled) for c in range(len(NOUNS))]
    for done, c in enumerate(sorted(range(len(NOUNS)), key=lambda c: counts[c])):
        quota = math.ceil((most - len(chosen)) / (len(NOUNS) - done))
        places = [n for n, item in enumerate(labelled) if c in item.labels and n not in chosen]
        chosen.update({n: labelled[n] for n in spread(places, quota)})
    return [chosen[n] for n in sorted(chosen)], broken


def _labels_of(scene: Scene) -> frozenset[int]:
    return frozenset(c for c, nouns in enumerate(NOUNS.values()) if scene.nouns & set(nouns))


def sec_boxes_tables(lab: Lab) -> list[Table]:
    """IoU with boxes of a network trained by SEC on captions' nouns, and of the seeds it was trained on."""
    train, count = lab.count(450, 25), lab.count(150, 10)
    cell = lab.cell("sec-boxes", partial(sec_against_boxes, lab, train, count), train=train, count=count)
    rows = [
        row_of("SEC, Grad-CAM seeds", cell["sec"], "", lab.model),
        row_of("the same, classes known", cell["given"], "", lab.model),
        row_of("its seeds, classes known", cell["seeds"], "", lab.model),
        row_of("the whole photograph, classes known", cell["whole"]),
    ]
    note = (
        f"Classes {', '.join(NOUNS)}, labels from the nouns of captions; {cell['trained']} training photographs,"
        " trunk not trained. IoU of each class with its boxes, mean over photographs and classes; a class that is"
        " given where no caption names it has an IoU of 0. CAM's seeds are the same"
        " (average pooling and one linear layer)."
    )
    inside = [
        row_of("SEC, classes known", cell["given_inside"], "", lab.model),
        row_of("its seeds, classes known", cell["seeds_inside"], "", lab.model),
        row_of("the whole photograph, classes known", cell["whole"]),
    ]
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
    classifier = fine_tuned(lab, "boxes", tuple(NOUNS), images, tuning=Tuning(epochs=3))
    training = Training(stride=16, trunk_rate=0.0, epochs=10)
    return (
        classifier,
        train_segmenter(lab, "boxes-sec", classifier, len(NOUNS), images, "gradcam", training),
        len(images),
    )


def sec_against_boxes(lab: Lab, train: int, count: int) -> dict[str, Any]:
    """Train, and measure on photographs of the dev split."""
    classifier, segmentation, trained = trained_on_boxes(lab, train)
    test, broken = boxed_scenes(lab, "dev", count)
    names = ("sec", "given", "seeds", "whole", "given_inside", "seeds_inside")
    values: dict[str, list[float]] = {name: [] for name in names}
    groups: dict[str, list[int]] = {key: [] for key in values}
    for number, item in enumerate(test):
        try:
            found = _boxed_overlaps(classifier, segmentation, item)
        except UserError:
            broken += 1
            continue
        for key, these in found.items():
            values[key] += these
            groups[key] += [number] * len(these)
    result: dict[str, Any] = {key: summarised(values[key], groups[key]) for key in values}
    for summary in result.values():
        summary["left_out"] += broken
    return {**result, "trained": trained}


def _boxed_overlaps(
    classifier: Classifier, segmentation: Segmentation, item: Boxed
) -> dict[str, list[float]]:
    image = open_image(item.scene.path).resize(SIZE[::-1])
    _, refined = segmentation(image)
    regions = item.regions()
    present = sorted(item.labels)
    free, given = refined.argmax(0), among(refined, present)
    maps = method_maps(classifier, classifier.images(image), present, "gradcam")[:, 0]
    cues = seeds({c + 1: values for c, values in zip(present, maps, strict=True)}, SIZE)
    there = [c for c in present if c in regions]
    wrong = [c for c in range(len(NOUNS)) if c not in item.labels and bool((free == c + 1).any())]
    return {
        "sec": [shared_over_union(free == c + 1, regions[c]) for c in there] + [0.0] * len(wrong),
        "given": [shared_over_union(given == c + 1, regions[c]) for c in there],
        "seeds": [shared_over_union(cues == c + 1, regions[c]) for c in there],
        "whole": [float(regions[c].double().mean()) for c in there],
        "given_inside": [share_inside(given == c + 1, regions[c]) for c in there],
        "seeds_inside": [share_inside(cues == c + 1, regions[c]) for c in there],
    }


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
            image = open_image(item.scene.path).resize(SIZE[::-1])
            present = sorted(item.labels)
            maps = method_maps(classifier, classifier.images(image), present, "gradcam")[:, 0]
            cues = seeds({c + 1: values for c, values in zip(present, maps, strict=True)}, SIZE)
            names = ", ".join(list(NOUNS)[c] for c in present)
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
