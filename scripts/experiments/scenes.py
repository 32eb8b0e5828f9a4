"""Photographs of Flickr8k with the boxes that people drew for the nouns of their captions (Flickr30k
Entities).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.readers import entities, flickr8k
from data.readers.entities import Box
from data.words.english import singular
from scripts.experiments.lab import Absent, Lab
from scripts.experiments.nouns import group_of

NAME = "Flickr8k with Flickr30k Entities"


@dataclass(frozen=True)
class Scene:
    """A photograph, the boxes of each noun (singular), and every noun of its captions, boxed or not."""

    path: Path
    boxes: dict[str, tuple[Box, ...]]
    nouns: frozenset[str]


def scenes(lab: Lab, split: str, count: int | None = None) -> tuple[list[Scene], int]:
    """Up to `count` photographs of a split, in its order, and how many entries could not be read."""
    folder = lab.need("flickr8k")
    notes = folder / "flickr30k_entities"
    if not notes.is_dir():
        raise Absent(f"no folder flickr30k_entities in '{folder}'; put the boxes beside the photographs")
    found: list[Scene] = []
    broken = 0
    for image in flickr8k.read(folder, split):
        if count is not None and len(found) >= count:
            break
        try:
            found.append(_scene(image.path, entities.read(notes, image.name)))
        except UserError:
            broken += 1
    if not found:
        raise UserError(f"no photograph of '{folder}' has a file in '{notes}'")
    return found, broken


def grouped(scene: Scene) -> dict[str, list[Box]]:
    """The boxes of a photograph by group of ImageNet classes (see `nouns.GROUPS`); other nouns are left
    out.
    """
    found: dict[str, list[Box]] = {}
    for noun, boxes in scene.boxes.items():
        group = group_of(noun)
        if group is not None:
            found.setdefault(group, []).extend(boxes)
    return found


def _scene(path: Path, captions: list[entities.GroundedCaption]) -> Scene:
    boxes: dict[str, list[Box]] = {}
    nouns = set()
    for caption in captions:
        for phrase in caption.phrases:
            noun = singular(phrase.words[phrase.head - phrase.start])
            nouns.add(noun)
            if phrase.boxes:
                boxes.setdefault(noun, []).extend(phrase.boxes)
    return Scene(path, {noun: tuple(dict.fromkeys(these)) for noun, these in boxes.items()}, frozenset(nouns))
