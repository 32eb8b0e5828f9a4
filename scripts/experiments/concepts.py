"""Photographs with the concepts in them and where these are: what units are named by (figure 9).

Of Flickr8k the nouns of captions and people's boxes, of VOC its classes and masks, of COCO its classes and boxes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.metrics.grounding import box_mask
from common.metrics.segmentation import UNDECIDED
from data.readers import coco, voc
from data.records import Box, LocalisedImage, Scene
from data.words.english import VAGUE, color_of
from scripts.experiments.lab import Lab, spread
from scripts.experiments.scenes import scenes

MASK = (56, 56)
KINDS = {"flickr8k": "nouns and boxes of Flickr8k", "voc": "masks of VOC", "coco": "boxes of COCO"}
Masks = dict[str, Tensor]
Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True)
class Seen:
    """A photograph, and by concept where it is: masks (H, W) of size `MASK`, read when called."""

    path: Path
    masks: Callable[[], Masks]


def seen_photographs(lab: Lab, kind: str, count: int) -> tuple[list[Seen], int]:
    """Up to `count` photographs of the training split of one of `KINDS`, and how many could not be read."""
    if kind == "voc":
        reading = voc.read(voc.find_root(lab.need("voc")), "train", "Segmentation", count)
        return [Seen(item.path, partial(_outlined, item)) for item in reading.items], len(reading.problems)
    if kind == "coco":
        notes, folder, chosen = coco.find_split(lab.need("coco"), "train")
        known, problems = coco.sound_instances(notes)
        files = spread([f for f in sorted(known) if known[f] and chosen(f) and (folder / f).is_file()], count)
        boxes = {f: {each.name: [o.box for o in known[f] if o.name == each.name] for each in known[f]} for f in files}
        return [Seen(folder / f, partial(_boxed, boxes[f])) for f in files], len(problems)
    found, broken = scenes(lab, "train", count)
    return [Seen(scene.path, partial(_boxed, _nouns(scene))) for scene in found], broken


def _nouns(scene: Scene) -> Boxes:
    return {noun: boxes for noun, boxes in scene.boxes.items() if noun not in VAGUE and not color_of([noun])}


def _boxed(boxes: Boxes) -> Masks:
    return {name: box_mask(these, MASK) for name, these in boxes.items()}


def _outlined(item: LocalisedImage) -> Masks:
    labels = np.asarray(
        Image.fromarray(voc.read_mask(item.mask or item.path)).resize(MASK[::-1], Image.Resampling.NEAREST)
    )
    present = sorted(set(np.unique(labels).tolist()) - {0, UNDECIDED})
    return {voc.CLASSES[label - 1]: torch.from_numpy(labels == label) for label in present}
