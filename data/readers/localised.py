"""Photographs with things in them that people drew boxes around, and how many entries could not be read.

Boxes are (left, top, right, bottom) as shares of the image's width and height, in [0, 1].
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from common.errors import UserError
from data.readers.entities import Box

Item = TypeVar("Item")


@dataclass(frozen=True)
class Thing:
    """One annotated object: its class's name, its box, and whether the annotators call it difficult."""

    name: str
    box: Box
    difficult: bool = False


@dataclass(frozen=True)
class Localised:
    """A photograph and the things in it; `mask` is the file of its segmentation, where there is one."""

    name: str
    path: Path
    things: tuple[Thing, ...]
    mask: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the photograph, each once, in the order of the annotation."""
        return tuple(dict.fromkeys(thing.name for thing in self.things))

    def boxes(self, name: str) -> list[Box]:
        """The boxes of one class."""
        return [thing.box for thing in self.things if thing.name == name]


@dataclass
class Reading:
    """What could be read, and a line for each entry that could not and was left out."""

    items: list[Localised] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_each(names: Iterable[str], read: Callable[[str], Localised], limit: int | None = None) -> Reading:
    """Read entries by name, `limit` good ones at most; what cannot be read is noted and left out.

    Raises `UserError` with the first problem when nothing could be read.
    """
    found = Reading()
    for name in names:
        if limit is not None and len(found.items) >= limit:
            break
        try:
            found.items.append(read(name))
        except UserError as problem:
            found.problems.append(str(problem))
    if not found.items:
        raise UserError(found.problems[0] if found.problems else "the list of images is empty")
    return found


def find_folder(root: str | os.PathLike[str], places: Sequence[str], what: str) -> Path:
    """The first of `places` that is a folder in `root`. Raises `UserError` that lists what was looked for."""
    for place in places:
        if (Path(root) / place).is_dir():
            return Path(root) / place
    looked = ", ".join(str(Path(root) / place) for place in places)
    raise UserError(f"no {what} in '{root}'; looked for {looked}")


def check_image(path: Path) -> None:
    """Raise `UserError` when a photograph is not there or not an image; only its header is read."""
    try:
        with Image.open(path) as image:
            if 0 in image.size:
                raise UserError(f"{path}: an image without pixels")
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing, though an annotation is there") from None
    except UserError:
        raise
    except Exception as error:  # decoders raise a dozen types
        raise UserError(f"{path}: not an image that can be read ({error})") from error


def read_things(path: str | os.PathLike[str], first_pixel: int) -> tuple[Thing, ...]:
    """The objects of an annotation in PASCAL's XML, boxes divided by the file's own `<size>`.

    `first_pixel` is the number of the first pixel: 1 in VOC, where a box includes its last pixel, 0 in
    ILSVRC.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; give a whole copy of the annotations") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}:{error.position[0]}: broken XML ({error}); copy the file again") from error
    width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
    if width <= 0 or height <= 0:
        raise UserError(f"{path}: <size> is {width:g} x {height:g}; boxes need the photograph's size")
    return tuple(_thing(item, path, width, height, first_pixel) for item in root.findall("object"))


def _thing(
    item: ElementTree.Element, path: str | os.PathLike[str], width: float, height: float, first_pixel: int
) -> Thing:
    name, box = item.findtext("name"), item.find("bndbox")
    if not name or box is None:
        raise UserError(f"{path}: an <object> has no <name> or no <bndbox>; copy the file again")
    x0, y0, x1, y1 = (_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax"))
    if x1 < x0 or y1 < y0:
        raise UserError(f"{path}: a box ends before it starts: {x0:g},{y0:g} to {x1:g},{y1:g}")
    shares = ((x0 - first_pixel) / width, (y0 - first_pixel) / height, x1 / width, y1 / height)
    left, top, right, bottom = (min(1.0, max(0.0, share)) for share in shares)
    return Thing(name.strip(), (left, top, right, bottom), item.findtext("difficult", "0").strip() == "1")


def _number(root: ElementTree.Element, name: str, path: str | os.PathLike[str]) -> float:
    text = root.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise UserError(f"{path}: <{name}> is '{text}'; expected a number") from None
