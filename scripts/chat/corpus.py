"""What the chat model is trained on: captions of photographs and questions about them, as prompts and replies.

    corpus = Corpus.read(["flickr8k:PATH", "coco:PATH", "cocoqa:PATH", "vqa2:PATH"], settings)

No photograph of a validation split is among them, nor one that captions are measured on, whatever the set.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioning.chat import PROMPT
from captioning.training.corpus import Corpus as Captions
from captioning.training.corpus import Subject
from common.errors import UserError
from data.derived.question_sets import DERIVED, QuestionSet
from data.readers import coco
from data.records import Question, held_out
from vqa.training.corpus import OF_COCO

CAPTIONED = ("flickr8k", "coco")


@dataclass(frozen=True)
class Said:
    """A prompt and what is to be replied; `derived` texts were said of this photograph by nobody."""

    prompt: str
    reply: str
    derived: bool = False


@dataclass
class Corpus:
    """Texts by photograph (`files`: image id -> file), `others` whose photographs nobody has, and questions held."""

    texts: dict[str, list[Said]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    others: list[Said] = field(default_factory=list)
    val: list[Question] = field(default_factory=list)
    dev: list[Subject] = field(default_factory=list)

    @classmethod
    def read(cls, data: Sequence[str], alike: int = 0, limit: int | None = None) -> Corpus:
        """The corpus of the sets named in `data`, KIND:PATH each: captions (flickr8k, coco) and question sets.

        `alike` captions of other photographs of the same classes go with each photograph that has none of its own;
        `limit` takes the first photographs of each part only.
        """
        of_captions = [text for text in data if text.partition(":")[0] in CAPTIONED]
        sets = [QuestionSet.parse(text) for text in data if text not in of_captions]
        captions = Captions.read(of_captions, limit) if of_captions else Captions()
        corpus = cls(val=[q for one in sets for q in one.read("val")], dev=captions.val.get("flickr8k", []))
        kept = {q.image_id for q in corpus.val} | {s.image_id for each in captions.val.values() for s in each}
        kept = kept.union(*(_held(one) for one in sets))
        corpus._add_captions(captions, alike)
        corpus._add_questions(held_out([q for one in sets for q in one.read("train")], kept), limit)
        if not corpus.files:
            raise UserError("no photograph is left to train on; give --data flickr8k:PATH, coco:PATH or questions")
        return corpus

    def _add_captions(self, captions: Captions, alike: int) -> None:
        for subject in captions.photographs:
            self._add(subject.image_id, subject.path, [_caption(words) for words in subject.tokens])
        by_classes: dict[frozenset[str], list[Subject]] = defaultdict(list)
        for text in captions.texts:
            self.others += [_caption(words) for words in text.tokens]
            by_classes[text.classes].append(text)
        for subject in captions.boxed:
            same = by_classes.get(subject.classes, ()) if subject.classes and not subject.tokens else ()
            some = random.Random(subject.image_id).sample(list(same), min(alike, len(same)))
            borrowed = [_caption(text.tokens[0], derived=True) for text in some]
            self._add(subject.image_id, subject.path, borrowed)

    def _add_questions(self, questions: Iterable[Question], limit: int | None) -> None:
        """The questions about the first `limit` photographs."""
        by_image: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            by_image[question.image_id].append(question)
        for image_id, asked in list(by_image.items())[:limit]:
            told = [Said(q.text, q.answer, q.source in DERIVED) for q in asked if q.answer.strip()]
            self._add(image_id, asked[0].image, told)

    def _add(self, image_id: str, path: Path | None, texts: Sequence[Said]) -> None:
        if path is not None and texts:
            self.files[image_id] = path
            self.texts.setdefault(image_id, []).extend(texts)

    @property
    def photographs(self) -> dict[str, Path]:
        """Every photograph that is trained on or watched."""
        watched = {q.image_id: q.image for q in self.val}
        return {**self.files, **watched, **{s.image_id: s.path for s in self.dev if s.path}}

    def all_texts(self) -> Iterator[Said]:
        """Every text that is trained on."""
        yield from (said for texts in self.texts.values() for said in texts)
        yield from self.others


def drawn(texts: Sequence[Said], count: int, rng: random.Random) -> list[Said]:
    """At most `count` texts of a photograph in random order: derived questions where there is room."""
    mixed = rng.sample(list(texts), len(texts))
    return sorted(mixed, key=lambda said: said.derived and said.prompt != PROMPT)[:count]


def counts(corpus: Corpus) -> Mapping[str, int]:
    """How much there is of what."""
    texts = list(corpus.all_texts())
    return {
        "photographs": len(corpus.files), "texts": len(texts), "derived": sum(said.derived for said in texts),
        "without_photograph": len(corpus.others), "validation_questions": len(corpus.val),
    }  # fmt: skip


def _caption(words: Sequence[str], derived: bool = False) -> Said:
    return Said(PROMPT, " ".join(words), derived)


def _held(questions: QuestionSet) -> set[str]:
    """Photographs of COCO that no question is trained on: the validation split's, and those kept for captions."""
    if questions.kind not in OF_COCO:
        return set()
    return coco.split_ids(questions.path, "val") | coco.captions_kept(questions.path)
