"""Boxes by photograph and class, from any of the layouts: what maps are scored against.

`boxes.json` is {"cat.jpg": {"cat": [[left, top, right, bottom], ...]}, ...}, in shares of width and height.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers import coco, ilsvrc, voc
from data.readers.files import Reading, read_json

Boxes = dict[str, dict[str, list[Any]]]  # photograph's stem -> class -> boxes


def read_boxes(data: str, split: str = "val") -> tuple[Boxes, list[str]]:
    """The boxes of `voc:PATH`, `imagenet:PATH`, `coco:instances.json` or a `boxes.json`, and a line for each
    photograph that could not be read; `split` is VOC's list.
    """
    kind, colon, place = data.partition(":")
    if colon and kind in _READERS:
        return _READERS[kind](place, split)
    return _from_json(data), []


def _from_json(path: str) -> Boxes:
    record = read_json(path)
    found: Boxes = {}
    for image, classes in record.items() if isinstance(record, dict) else ():
        if not isinstance(classes, dict) or not all(isinstance(boxes, list) for boxes in classes.values()):
            raise UserError(f"{path}: '{image}' is not {{class: [[left, top, right, bottom], ...]}}")
        found[Path(image).stem] = classes
    if not found:
        raise UserError(f'{path}: expected {{"cat.jpg": {{"cat": [[left, top, right, bottom]]}}}}')
    return found


def _from_items(reading: Reading) -> tuple[Boxes, list[str]]:
    found: Boxes = {i.name: {name: list(i.boxes(name)) for name in i.classes} for i in reading.items}
    return found, list(reading.problems)


def _from_instances(path: str) -> tuple[Boxes, list[str]]:
    found: Boxes = {}
    for image, instances in coco.read_instances(path).items():
        classes = found.setdefault(Path(image).stem, {})
        for instance in instances:
            if not instance.crowd:
                classes.setdefault(instance.name, []).append(instance.box)
    return found, []


_READERS: dict[str, Callable[[str, str], tuple[Boxes, list[str]]]] = {
    "voc": lambda place, split: _from_items(voc.read(place, split)),
    "imagenet": lambda place, split: _from_items(ilsvrc.read_validation(place)),
    "coco": lambda place, split: _from_instances(place),
}
