"""COCO's JSON files: captions and instances (boxes and classes), in the published layout.

`annotations/captions_<set>.json`, `annotations/instances_<set>.json`, and a folder `<set>` of photographs.
Boxes are (left, top, right, bottom) as shares of the image's width and height, in [0, 1].
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers.entities import Box
from data.readers.flickr8k import CaptionedImage
from data.words.vocabulary import tokenize

YEARS = ("2014", "2017")


@dataclass(frozen=True)
class Instance:
    """One annotated object of an image: its class's name, its box, and whether it stands for a crowd."""

    name: str
    box: Box
    crowd: bool


def read_captions(
    path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None, check_images: bool = True
) -> list[CaptionedImage]:
    """Images with captions from a captions JSON, by image id; `images` is the folder of photographs.

    The default folder is `../<set>` for `captions_<set>.json`. Raises `UserError` naming the file and entry.
    """
    path = Path(path)
    record = read_json(path, ("images", "annotations"))
    folder = Path(images) if images else path.parent.parent / path.stem.removeprefix("captions_")
    names = _by_id(record, path)
    captions: dict[int, list[str]] = {}
    for number, note in enumerate(record["annotations"]):
        image, text = _fields(note, ("image_id", "caption"), path, f"annotations[{number}]")
        if image not in names:
            raise UserError(f"{path}: annotations[{number}] is of image {image}, which is not in 'images'")
        if not tokenize(str(text)):
            raise UserError(f"{path}: annotations[{number}] of image {image} has an empty caption")
        captions.setdefault(image, []).append(str(text).strip())
    found = []
    for key in sorted(captions):
        photograph = folder / str(names[key]["file_name"])
        if check_images and not photograph.is_file():
            raise UserError(f"{path}: image {key} ('{photograph.name}') is listed but is not in {folder}")
        found.append(CaptionedImage(photograph.name, photograph, tuple(captions[key])))
    return found


def read_instances(path: str | os.PathLike[str]) -> dict[str, list[Instance]]:
    """Objects of each image in an instances JSON, by file name; an empty list for none."""
    path = Path(path)
    record = read_json(path, ("images", "annotations", "categories"))
    names = _by_id(record, path)
    classes = {}
    for number, entry in enumerate(record["categories"]):
        key, name = _fields(entry, ("id", "name"), path, f"categories[{number}]")
        classes[key] = str(name)
    found: dict[str, list[Instance]] = {str(image["file_name"]): [] for image in names.values()}
    for number, note in enumerate(record["annotations"]):
        place = f"annotations[{number}]"
        image, category, box = _fields(note, ("image_id", "category_id", "bbox"), path, place)
        if image not in names or category not in classes:
            raise UserError(
                f"{path}: {place} names image {image} and class {category}; one of them is not in the file"
            )
        width, height = _fields(names[image], ("width", "height"), path, f"image {image}")
        if not isinstance(box, list) or len(box) != 4 or width <= 0 or height <= 0:
            raise UserError(
                f"{path}: {place} has the box {box} in an image of {width} x {height}; expected x,y,w,h"
            )
        x, y, w, h = (float(v) for v in box)
        scaled = (x / width, y / height, min(1.0, (x + w) / width), min(1.0, (y + h) / height))
        instance = Instance(classes[category], scaled, bool(note.get("iscrowd", 0)))
        found[str(names[image]["file_name"])].append(instance)
    return found


def find_instances(folder: str | os.PathLike[str], split: str) -> tuple[Path, Path]:
    """(instances JSON, folder of photographs) of 'train' or 'val', of 2014 or 2017, in a copy of COCO.

    Raises `UserError` listing the files that were looked for.
    """
    looked = []
    for year in YEARS:
        notes = Path(folder) / "annotations" / f"instances_{split}{year}.json"
        for photographs in (Path(folder) / f"{split}{year}", Path(folder) / "images" / f"{split}{year}"):
            if notes.is_file() and photographs.is_dir():
                return notes, photographs
            looked.append(f"{notes} with {photographs}{os.sep}")
    raise UserError(f"no instances of COCO in '{folder}'; looked for {', '.join(looked)}")


def read_json(path: str | os.PathLike[str], keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON object that has `keys`. Raises `UserError` naming file and line of what is broken."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; give the path of the published JSON file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); copy the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error
    for key in keys:
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise UserError(f"{path}: has no list '{key}'; expected the published layout ({', '.join(keys)})")
    return record


def _by_id(record: dict[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    names = {}
    for number, image in enumerate(record["images"]):
        key, _ = _fields(image, ("id", "file_name"), path, f"images[{number}]")
        names[key] = image
    return names


def _fields(entry: Any, keys: tuple[str, ...], path: Path, place: str) -> list[Any]:
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise UserError(f"{path}: {place} has no '{key}'; expected the published layout")
    return [entry[key] for key in keys]
