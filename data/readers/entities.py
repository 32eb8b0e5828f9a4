"""Flickr30k Entities (Plummer et al. 2015): the phrases of captions and the boxes people drew for them.

`Sentences/<image>.txt` holds a caption a line with phrases marked `[/EN#<id>/<type> words]`;
`Annotations/<image>.xml` the boxes of each id, in pixels of the original photograph.
"""

import re
from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath, read_text
from data.readers.pascal_xml import read_xml, xml_box
from data.records import Box, GroundedCaption, GroundedImage, Phrase
from data.words.vocabulary import tokenize

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[a-z]+)+) ([^\[\]]+)\]")
NOT_VISUAL = "notvisual"


def read(folder: AnyPath, name: str) -> list[GroundedCaption]:
    """The grounded captions of one image, named as in Flickr30k (`36979.jpg`) or Flickr8k (`36979_1a2b.jpg`).

    Raises `UserError` naming file and line for what is missing or broken.
    """
    stem = name.removesuffix(".jpg").partition("_")[0]
    sentences = Path(folder) / "Sentences" / f"{stem}.txt"
    boxes = read_boxes(Path(folder) / "Annotations" / f"{stem}.xml")
    lines = read_text(sentences, "give the folder that holds Annotations and Sentences").splitlines()
    return [parse(line, boxes, f"{sentences}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def read_image(folder: AnyPath, photograph: Path) -> GroundedImage:
    """One photograph of Flickr8k with its grounded captions."""
    return GroundedImage(photograph, f"flickr8k:{photograph.stem}", tuple(read(folder, photograph.name)))


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
        raise UserError(f"{place}: broken phrase mark near '{text.strip()[:40]}'; expected [/EN#id/type words]")
    return text


def read_boxes(path: AnyPath) -> dict[str, tuple[Box, ...]]:
    """Boxes of each entity in an annotation file, divided by the file's own `<size>`."""
    root = read_xml(path)
    boxes: dict[str, list[Box]] = {}
    for item in root.iter("object"):
        box = xml_box(item, root, path)
        if box is None:
            continue
        for entity in item.findall("name"):
            boxes.setdefault(entity.text or "", []).append(box)
    return {entity: tuple(found) for entity, found in boxes.items()}
