"""Photographs of Flickr8k with the boxes that people drew for the nouns of their captions (Flickr30k Entities)."""

from __future__ import annotations

from data.readers import entities, flickr8k
from data.readers.files import read_each
from data.records import Box, Scene
from scripts.experiments.lab import Absent, Lab
from scripts.experiments.nouns import group_of

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
    """The boxes of a photograph by group of ImageNet classes (see `nouns.GROUPS`); other nouns are left out."""
    found: dict[str, list[Box]] = {}
    for noun, boxes in scene.boxes.items():
        group = group_of(noun)
        if group is not None:
            found.setdefault(group, []).extend(boxes)
    return found
