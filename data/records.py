"""What data sets hold, each kind of record once: boxes, captions, phrases, objects and questions.

Readers make these records, everything else takes them; no record knows the layout that it was read from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from common.errors import UserError
from data.words.english import singular
from data.words.vocabulary import tokenize

MAX_QUESTION_WORDS = 1000
"""Longer questions are refused by the readers and by the model."""
LARGEST_IMAGE = 2**28
"""Pixels: no photograph that Pillow reads has more, and masks are made of an annotation's size."""
_PREPOSITIONS = frozenset("of in on with at to from for that which who near by over under and or , behind".split())


class Box(NamedTuple):
    """A rectangle, its edges as shares of the image's width and height, in [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of_pixels(cls, edges: Iterable[float], size: Iterable[float], where: str, first_pixel: int = 0) -> Box:
        """The box of left, top, right, bottom in pixels of an image of `size` (width, height), cut to it.

        `first_pixel` is the number of the first pixel: 1 in VOC, where a box includes its last pixel, else 0.
        Raises `UserError`, with the place `where`, for a size of nothing or of no photograph, and for a box that ends
        before it starts.
        """
        try:
            x0, y0, x1, y1, width, height = map(float, (*edges, *size))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where}: a box is of four numbers, in an image of two") from None
        if not (width > 0 and height > 0 and width * height <= LARGEST_IMAGE):
            raise UserError(f"{where}: <size> is {width:g} x {height:g}; boxes need the image's size in pixels")
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise UserError(f"{where}: a box from {x0:g},{y0:g} to {x1:g},{y1:g} has no place")
        if x1 < x0 or y1 < y0:
            raise UserError(f"{where}: a box ends before it starts: {x0:g},{y0:g} to {x1:g},{y1:g}")
        x0, y0 = x0 - first_pixel, y0 - first_pixel
        return cls(*(min(1.0, max(0.0, v)) for v in (x0 / width, y0 / height, x1 / width, y1 / height)))

    @property
    def area(self) -> float:
        """The share of the image that the box covers."""
        return (self.right - self.left) * (self.bottom - self.top)


def boxes_of_shares(boxes: Any, where: str) -> tuple[Box, ...]:
    """A user's own list of [left, top, right, bottom] as boxes; `UserError` for what is no box within [0, 1]."""
    try:
        found = [tuple(float(edge) for edge in box) for box in boxes]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: boxes is {str(boxes)[:60]!r}, not a list of [left, top, right, bottom]") from None
    for box in found:
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise UserError(f"{where}: box {list(box)} is not left < right, top < bottom within [0, 1]")
    return tuple(Box(*box) for box in found)


@dataclass(frozen=True)
class CaptionedImage:
    """A photograph and the captions people wrote for it: as written, and as tokens."""

    name: str
    path: Path
    captions: tuple[str, ...]
    image_id: str = ""  # tells photographs apart across sets, as a question's does

    @property
    def tokens(self) -> list[list[str]]:
        return [tokenize(caption) for caption in self.captions]


@dataclass(frozen=True)
class CaptionedText:
    """The captions of a photograph that is not at hand; `labels` are the classes of the objects in it."""

    image_id: str
    captions: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def tokens(self) -> list[list[str]]:
        return [tokenize(caption) for caption in self.captions]


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

    @property
    def noun(self) -> str:
        """The head noun in the singular."""
        return singular(self.words[self.head - self.start])


@dataclass(frozen=True)
class GroundedCaption:
    """A caption's text and tokens (`data.words.vocabulary.tokenize`), and its phrases in order."""

    text: str
    tokens: tuple[str, ...]
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True)
class GroundedImage:
    """A photograph with its captions and the boxes of their phrases."""

    path: Path
    image_id: str
    captions: tuple[GroundedCaption, ...]


@dataclass(frozen=True)
class Region:
    """A part of a photograph: what is said of it, and the boxes of what is said."""

    text: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class DescribedImage:
    """A photograph and captions of its regions; where a model wrote them, the surest first."""

    path: Path
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Scene:
    """A photograph, the boxes of each noun (singular), and every noun of its captions, boxed or not."""

    path: Path
    boxes: dict[str, tuple[Box, ...]]
    nouns: frozenset[str]

    @classmethod
    def of(cls, image: GroundedImage) -> Scene:
        """The scene that the captions of a photograph describe; nouns are the heads of their phrases."""
        phrases = [phrase for caption in image.captions for phrase in caption.phrases]
        boxes: dict[str, dict[Box, None]] = {}
        for phrase in phrases:
            if phrase.boxes:
                boxes.setdefault(phrase.noun, {}).update(dict.fromkeys(phrase.boxes))
        nouns = frozenset(phrase.noun for phrase in phrases)
        return cls(image.path, {noun: tuple(these) for noun, these in boxes.items()}, nouns)


@dataclass(frozen=True)
class Instance:
    """One annotated object: its class's name and its box.

    A `crowd` is many things in one box; what is `difficult` the annotators could hardly see. `segmentation`
    is the outline as COCO's file has it, of a photograph of `size` (H, W): see `data.readers.masks.mask_of`.
    """

    name: str
    box: Box
    crowd: bool = False
    difficult: bool = False
    segmentation: Any = None
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LocalisedImage:
    """A photograph and the objects in it; `mask` is the file of its segmentation, where there is one."""

    name: str
    path: Path
    instances: tuple[Instance, ...]
    mask: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the photograph, each once, in the order of the annotation."""
        return tuple(dict.fromkeys(instance.name for instance in self.instances))

    def boxes(self, name: str) -> list[Box]:
        """The boxes of one class."""
        return [instance.box for instance in self.instances if instance.name == name]


@dataclass(frozen=True)
class Question:
    """A question, its image and, where the data has them, its answers and their boxes.

    `answer` is the one right answer (for VQA the 'multiple choice answer'); `answers` all human answers
    (ten in VQA, one elsewhere, none when unknown); `soft_answers` pairs of an answer and its accuracy in
    [0, 1], where the data has these instead. `kind` is the set's own question type.
    `image_id` tells photographs apart across sets (`coco:25`, `flickr8k:1000268201`).
    """

    id: str
    text: str
    image: Path
    image_id: str
    answer: str = ""
    answers: tuple[str, ...] = ()
    kind: str = ""
    source: str = ""
    boxes: tuple[Box, ...] = ()
    soft_answers: tuple[tuple[str, float], ...] = ()


def checked_text(text: Any, where: str) -> str:
    """The question without surrounding blanks; `UserError` when it is not a usable string."""
    if not isinstance(text, str):
        raise UserError(f"{where}: the question is {text!r}, not a string; write it in quotes")
    words = len(text.split())
    if not words:
        raise UserError(f"{where}: the question is empty; write at least one word")
    if words > MAX_QUESTION_WORDS:
        raise UserError(f"{where}: the question has {words} words; at most {MAX_QUESTION_WORDS} are allowed")
    return text.strip()


def checked_answer(answer: Any, where: str) -> str:
    """The answer without surrounding blanks; `UserError` when it is not a non-empty string."""
    if not isinstance(answer, str):
        raise UserError(
            f"{where}: the answer is {answer!r} ({type(answer).__name__}), not a string; write it in quotes"
        )
    if not answer.strip():
        raise UserError(f"{where}: the answer is empty; leave it out if it is unknown")
    return answer.strip()


def checked_soft_answers(soft: Any, where: str) -> tuple[tuple[str, float], ...]:
    """Pairs of {answer: accuracy in [0, 1]}, blank answers left out; `UserError` when it is no such object."""
    if not isinstance(soft, dict) or not any(answer.strip() for answer in soft):
        raise UserError(f"{where}: 'soft_answers' is {soft!r}, not an object of answers with their accuracies")
    odd = [value for value in soft.values() if not isinstance(value, (int, float)) or not 0 <= value <= 1]
    if odd:
        raise UserError(f"{where}: the accuracy {odd[0]!r:.40} of an answer is not in [0, 1]")
    return tuple((answer.strip(), float(value)) for answer, value in soft.items() if answer.strip())


class _OfImage(Protocol):
    @property
    def image_id(self) -> str: ...


Record = TypeVar("Record", bound=_OfImage)


def held_out(records: Iterable[Record], image_ids: Collection[str]) -> list[Record]:
    """The records whose image is *not* among `image_ids`: nothing of a validation image is trained on."""
    forbidden = set(image_ids)
    return [record for record in records if record.image_id not in forbidden]
