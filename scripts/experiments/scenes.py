"""Photographs of Flickr8k with the boxes that people drew for the nouns of their captions (Flickr30k Entities)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from classification.finetuning import Labelled
from common.errors import UserError
from common.metrics.grounding import box_mask
from data.readers import entities, flickr8k
from data.readers.files import read_each
from data.records import Box, Scene
from data.words.imagenet_nouns import GROUPS, NOUNS, group_of
from scripts.experiments.annotated import Annotated, Annotations, boxed_regions
from scripts.experiments.lab import Absent, Lab, spread

NAME = "Flickr8k with Flickr30k Entities"
DEV = "Flickr8k dev with Flickr30k Entities"


def scenes(lab: Lab, split: str, count: int | None = None) -> tuple[list[Scene], int]:
    """Up to `count` photographs of a split, in its order, and how many entries could not be read."""
    folder = lab.need("flickr8k")
    notes = folder / "flickr30k_entities"
    if not notes.is_dir():
        raise Absent(f"no folder flickr30k_entities in '{folder}'; put the boxes beside the photographs")
    reading = read_each(
        flickr8k.read(folder, split), lambda image: Scene.of(entities.read_image(notes, image.path)), count
    )
    return reading.items, len(reading.problems)


def grouped(scene: Scene) -> dict[str, list[Box]]:
    """The boxes of a photograph by group of ImageNet classes (`imagenet_nouns.GROUPS`); others are left out."""
    found: dict[str, list[Box]] = {}
    for noun, boxes in scene.boxes.items():
        group = group_of(noun)
        if group is not None:
            found.setdefault(group, []).extend(boxes)
    return found


def scene_regions(scene: Scene) -> Annotated:
    """The groups of nouns in a photograph, and where those with boxes are."""
    boxes = grouped(scene)
    named = {group for noun in scene.nouns if (group := group_of(noun)) is not None}
    return Annotated(scene.path, partial(boxed_regions, boxes), boxes, frozenset(named - set(boxes)))


def scene_annotations(lab: Lab, count: int) -> Annotations:
    """Flickr8k's dev split: groups of nouns that cover ImageNet classes. There are no labels to train on."""

    def training(most: int) -> list[Labelled]:
        raise UserError("captions name some of what is in a photograph, not all")

    known, broken = scenes(lab, "dev")
    items = [scene_regions(scene) for scene in known if grouped(scene)][:count]
    return Annotations(NAME, list(GROUPS), items, broken, training)


@dataclass(frozen=True)
class Boxed:
    """A photograph, the numbers of the classes (`NOUNS`) that its captions name, and where those with boxes are."""

    scene: Scene
    labels: frozenset[int]

    def regions(self) -> dict[int, Tensor]:
        found: dict[int, list[Any]] = {}
        for noun, boxes in self.scene.boxes.items():
            for number, nouns in enumerate(NOUNS.values()):
                if noun in nouns:
                    found.setdefault(number, []).extend(boxes)
        return {number: box_mask(boxes) for number, boxes in found.items()}


def boxed_scenes(lab: Lab, split: str, most: int) -> tuple[list[Boxed], int]:
    """Photographs whose captions name a class, of the rarest class first and of each about equally many."""
    known, broken = scenes(lab, split)
    classes = [set(nouns) for nouns in NOUNS.values()]
    labelled = [Boxed(scene, frozenset(c for c, nouns in enumerate(classes) if scene.nouns & nouns)) for scene in known]
    chosen: dict[int, Boxed] = {}
    counts = [sum(c in item.labels for item in labelled) for c in range(len(NOUNS))]
    for done, c in enumerate(sorted(range(len(NOUNS)), key=lambda c: counts[c])):
        quota = math.ceil((most - len(chosen)) / (len(NOUNS) - done))
        places = [n for n, item in enumerate(labelled) if c in item.labels and n not in chosen]
        chosen.update({n: labelled[n] for n in spread(places, quota)})
    return [chosen[n] for n in sorted(chosen)], broken
