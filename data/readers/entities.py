"""Flickr30k Entities (Plummer et al. 2015): the phrases of captions and the boxes people drew for them.

`Sentences/<image>.txt` holds a caption a line with phrases marked `[/EN#<id>/<type> words]`;
`Annotations/<image>.xml` the boxes of each id, in pixels of the original photograph.
Boxes here are (left, top, right, bottom) as shares of the image's width and height, in [0, 1].
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.words.vocabulary import tokenize

Box = tuple[float, float, float, float]
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[a-z]+)+) ([^\[\]]+)\]")
NOT_VISUAL = "notvisual"


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption: tokens `start` to `stop` of it, its entity and types, and the entity's boxes.

    `kinds` are of people, animals, clothing, vehicles, instruments, bodyparts, scene, other, notvisual;
    `boxes` is empty for a scene that is the whole image and for what cannot be seen.
    """

    words: tuple[str, ...]
    start: int
    stop: int
    entity: str
    kinds: tuple[str, ...]
    boxes: tuple[Box, ...]

    @property
    def kind(self) -> str:
        return self.kinds[0]

    @property
    def head(self) -> int:
        """Place in the caption of the head noun: the last word before a preposition in the phrase."""
        for i, word in enumerate(self.words):
            if i and word in _PREPOSITIONS:
                return self.start + i - 1
        return self.stop - 1


_ENDS = "of in on with at to from for that which who near by over under and or , behind"
_PREPOSITIONS = frozenset(_ENDS.split())


@dataclass(frozen=True)
class GroundedCaption:
    """A caption's text and tokens (`data.words.vocabulary.tokenize`), and its phrases in order."""

    text: str
    tokens: tuple[str, ...]
    phrases: tuple[Phrase, ...]


def read(folder: str | os.PathLike[str], name: str) -> list[GroundedCaption]:
    """The grounded captions of one image, named as in Flickr30k (`36979.jpg`) or Flickr8k (`36979_1a2b.jpg`).

    Raises `UserError` naming file and line for what is missing or broken.
    """
    stem = name.removesuffix(".jpg").partition("_")[0]
    sentences = Path(folder) / "Sentences" / f"{stem}.txt"
    boxes = read_boxes(Path(folder) / "Annotations" / f"{stem}.xml")
    try:
        lines = sentences.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"'{sentences}' is missing; give the folder that holds Annotations and Sentences"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{sentences}: not UTF-8 text; save the file as UTF-8") from error
    return [parse(line, boxes, f"{sentences}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def parse(line: str, boxes: dict[str, tuple[Box, ...]], place: str = "sentence") -> GroundedCaption:
    """One marked-up caption; `place` names it in errors."""
    tokens: list[str] = []
    text: list[str] = []
    phrases = []
    at = 0
    for match in _PHRASE.finditer(line):
        between, inside = line[at : match.start()], match[3]
        tokens += tokenize(_plain(between, place))
        words = tokenize(inside)
        entity, kinds = match[1], tuple(match[2].strip("/").split("/"))
        if words:
            start = len(tokens)
            found = boxes.get(entity, ())
            phrases.append(Phrase(tuple(words), start, start + len(words), entity, kinds, found))
        tokens += words
        text += [between, inside]
        at = match.end()
    tokens += tokenize(_plain(line[at:], place))
    text.append(line[at:])
    if not tokens:
        raise UserError(f"{place}: the caption is empty; write one or drop the line")
    return GroundedCaption("".join(text).strip(), tuple(tokens), tuple(phrases))


def _plain(text: str, place: str) -> str:
    if "[/EN#" in text or "]" in text and "[" not in text:
        raise UserError(
            f"{place}: broken phrase mark near '{text.strip()[:40]}'; expected [/EN#id/type words]"
        )
    return text


def read_boxes(path: str | os.PathLike[str]) -> dict[str, tuple[Box, ...]]:
    """Boxes of each entity in an annotation file, divided by the file's own `<size>`."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(
            f"'{path}' is missing; give the folder that holds Annotations and Sentences"
        ) from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}:{error.position[0]}: broken XML ({error}); copy the file again") from error
    width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
    if width <= 0 or height <= 0:
        raise UserError(
            f"{path}: <size> is {width:g} x {height:g}; boxes need the photograph's size in pixels"
        )
    boxes: dict[str, list[Box]] = {}
    for item in root.iter("object"):
        box = item.find("bndbox")
        if box is None:
            continue
        x0, y0, x1, y1 = (_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax"))
        if x1 < x0 or y1 < y0:
            raise UserError(f"{path}: a box ends before it starts: {x0:g},{y0:g} to {x1:g},{y1:g}")
        scaled = tuple(min(1.0, max(0.0, v)) for v in (x0 / width, y0 / height, x1 / width, y1 / height))
        for entity in item.findall("name"):
            boxes.setdefault(entity.text or "", []).append(scaled)  # type: ignore[arg-type]
    return {entity: tuple(found) for entity, found in boxes.items()}


def _number(root: ElementTree.Element, name: str, path: str | os.PathLike[str]) -> float:
    text = root.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise UserError(f"{path}: <{name}> is '{text}'; expected a number") from None
