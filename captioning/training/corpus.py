"""What a training of the captioner reads: captions, of photographs and of photographs that nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.training.evidence import evidence_targets, word_shares
from common.training.lookalikes import Shown
from data.readers import coco, flickr8k
from data.records import CaptionedImage, CaptionedText, Instance
from data.words.coco_classes import mentioned
from data.words.vocabulary import Vocabulary

_ALLOWED = "flickr8k:PATH (the folder that holds Flickr8k_text) or coco:PATH (a copy of COCO)"


@dataclass(frozen=True)
class Subject:
    """What some captions, as tokens, are about; `path` is its photograph, None where there is none.

    `classes` are those of COCO's that are in it, by the boxes that people drew (`boxed`), else by their captions.
    """

    image_id: str
    tokens: list[list[str]]
    classes: frozenset[str]
    boxed: bool
    path: Path | None = None

    @classmethod
    def of(cls, record: CaptionedImage | CaptionedText, classes: Iterable[str] | None = None) -> Subject:
        """The subject of a record; without `classes` they are those that its captions name."""
        tokens = record.tokens
        named = frozenset().union(*map(mentioned, tokens)) if classes is None else frozenset(classes)
        return cls(record.image_id, tokens, named, classes is not None, getattr(record, "path", None))


@dataclass
class Corpus:
    """Photographs and texts to train on, with captions; `boxed` photographs, whose evidence stands in for texts'.

    `val` has what it is watched by: Flickr8k's dev split, COCO's validation photographs.
    """

    photographs: list[Subject] = field(default_factory=list)
    texts: list[Subject] = field(default_factory=list)
    boxed: list[Subject] = field(default_factory=list)
    val: dict[str, list[Subject]] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Sequence[str], limit: int | None = None) -> Corpus:
        """The corpus in `data`, flickr8k:PATH or coco:PATH or both; `limit` takes the first of each part only."""
        corpus = cls()
        for text in data:
            kind, colon, folder = text.partition(":")
            if kind not in _READ or not colon or not folder:
                raise UserError(f"--data is {_ALLOWED}; received '{text}'")
            _READ[kind](corpus, Path(folder), limit)
        if not corpus.photographs and not corpus.texts:
            raise UserError(f"no captions to learn from; give --data {_ALLOWED}")
        return corpus

    @property
    def subjects(self) -> list[Subject]:
        """All that is trained on: photographs, then texts."""
        return [*self.photographs, *self.texts]

    def vocabulary(self, minimum: int) -> Vocabulary:
        """The words that occur `minimum` times or more in the captions that are trained on."""
        return Vocabulary.build((words for each in self.subjects for words in each.tokens), minimum)


def shown(subjects: Sequence[Subject], classes: Sequence[str], words: Sequence[str]) -> Shown:
    """What is known to be in subjects: which of `classes`, and the share of the captions that say each of `words`."""
    present = [[float(name in subject.classes) for name in classes] for subject in subjects]
    shares = evidence_targets([word_shares(subject.tokens) for subject in subjects], words)
    return Shown(np.array(present, np.float32).reshape(len(subjects), len(classes)), shares.numpy())


def _read_flickr8k(corpus: Corpus, folder: Path, limit: int | None) -> None:
    train, dev = (flickr8k.read(folder, split)[:limit] for split in ("train", "dev"))
    corpus.photographs += map(Subject.of, train)
    corpus.val["flickr8k"] = [Subject.of(image) for image in dev]


def _read_coco(corpus: Corpus, folder: Path, limit: int | None) -> None:
    """Captions without photographs, photographs with boxes, and the captioned ones that are not kept for validation."""
    held = coco.read_held_out(folder)
    known = {image.image_id for image, _ in held}
    free = [pair for pair in coco.read_split(folder, "train") if pair[0].image_id not in known][:limit]
    corpus.val["coco"] = [_boxed(*pair) for pair in held[:limit]]
    boxed = [_boxed(*pair) for pair in free]
    corpus.boxed += boxed
    corpus.photographs += [subject for subject in boxed if subject.tokens]
    texts = coco.find_root(folder) / "annotations" / "captions_without_photographs.json"
    if texts.is_file():
        corpus.texts += [Subject.of(text, text.labels) for text in coco.read_texts(texts)[:limit]]


def _boxed(image: CaptionedImage, instances: Sequence[Instance]) -> Subject:
    return Subject.of(image, {instance.name for instance in instances})


_READ = {"flickr8k": _read_flickr8k, "coco": _read_coco}
