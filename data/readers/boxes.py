"""Boxes by photograph and class, from any of the layouts: what maps are scored against.

`voc:PATH`, `imagenet:PATH`, `coco:instances.json`, or a JSON file of one's own,
`{"cat.jpg": {"cat": [[left, top, right, bottom], ...]}}`, edges as shares of width and height.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers import coco, ilsvrc, voc
from data.readers.files import AnyPath, Reading, read_json
from data.records import Box, LocalisedImage, boxes_of_shares

Boxes = dict[str, dict[str, list[Box]]]  # photograph's stem -> class -> boxes


def read_boxes(data: str, split: str = "val") -> tuple[Boxes, list[str]]:
    """The boxes, and a line for each entry that could not be read and was left out; `split` is of VOC's lists."""
    kind, colon, place = data.partition(":")
    if colon and kind in _READERS:
        return _READERS[kind](place, split)
    return _from_json(data), []


def _from_json(path: AnyPath) -> Boxes:
    record = read_json(path)
    found: Boxes = {}
    for image, classes in record.items() if isinstance(record, dict) else ():
        if not isinstance(classes, dict) or not all(isinstance(boxes, list) for boxes in classes.values()):
            raise UserError(f"{path}: '{image}' is not {{class: [[left, top, right, bottom], ...]}}")
        where = f"{path}: '{image}'"
        found[Path(image).stem] = {name: list(boxes_of_shares(boxes, where)) for name, boxes in classes.items()}
    if not found:
        raise UserError(f'{path}: expected {{"cat.jpg": {{"cat": [[left, top, right, bottom]]}}}}')
    return found


def _of(reading: Reading[LocalisedImage]) -> tuple[Boxes, list[str]]:
    items = {item.name: {name: item.boxes(name) for name in item.classes} for item in reading.items}
    return items, reading.problems


def _coco(path: str, split: str) -> tuple[Boxes, list[str]]:
    found: Boxes = {}
    known, problems = coco.sound_instances(path)
    for image, instances in known.items():
        classes = found.setdefault(Path(image).stem, {})
        for instance in instances:
            if not instance.crowd:
                classes.setdefault(instance.name, []).append(instance.box)
    return found, list(problems.values())


_READERS: dict[str, Callable[[Any, str], tuple[Boxes, list[str]]]] = {
    "voc": lambda folder, split: _of(voc.read(folder, split)),
    "imagenet": lambda folder, split: _of(ilsvrc.read_validation(folder)),
    "coco": _coco,
}
