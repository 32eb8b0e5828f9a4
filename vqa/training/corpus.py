"""What a training of the VQA model reads: questions, words and answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from data.derived import cloze
from data.derived.question_sets import QuestionSet
from data.readers import coco
from data.records import CaptionedText, Question, held_out
from data.words.vocabulary import SPECIAL, Vocabulary, tokenize
from vqa.training.batches import answer_vocabulary
from vqa.training.settings import Settings

OF_COCO = ("vqa", "vqa2", "okvqa", "cocoqa", "boxes")


@dataclass(frozen=True)
class Corpus:
    """The questions of some sets, and the lists of words and answers that a model is made for.

    No question of `train` is about an image of the validation questions, whatever the set. Those of source 'captions'
    are about `texts`, whose photographs nobody has; what is in them is told by `alike`, the folder of COCO whose
    photographs stand in for them.
    """

    train: list[Question]
    val: list[Question]
    vocabulary: Vocabulary
    answers: list[str]
    texts: list[CaptionedText] = field(default_factory=list)
    alike: Path | None = None

    @classmethod
    def read(cls, data: Sequence[str], settings: Settings, limit: int | None = None) -> Corpus:
        """The corpus of the sets named in `data`, KIND:PATH each; `captions:COCO` has texts to make questions of.

        `limit` takes the questions about the first images of each set and split only.
        """
        sets = [QuestionSet.parse(text) for text in data if not text.startswith("captions:")]
        alike, texts = _texts([text for text in data if text.startswith("captions:")])
        validation = [question for s in sets for question in s.read("val")]
        kept_out = {question.image_id for question in validation}.union(*(_coco_validation(s) for s in sets))
        train = _limited(held_out([q for s in sets for q in s.read("train")], kept_out), limit)
        if not train:
            raise UserError("no training question is left; every image is kept for validation")
        answers = answer_vocabulary(train, settings.minimum_answers)
        train += cloze.caption_questions(texts[:limit], frozenset(answers), settings.seed)
        return cls(train, _limited(validation, limit), _vocabulary(train, settings), answers, texts[:limit], alike)


def _texts(data: Sequence[str]) -> tuple[Path | None, list[CaptionedText]]:
    """The folder of COCO that `captions:COCO` names, and its captions without photographs."""
    if not data:
        return None, []
    if len(data) > 1:
        raise UserError(f"--data captions:COCO is given once; received {', '.join(data)}")
    folder = Path(data[0].partition(":")[2])
    file = coco.find_root(folder) / "annotations" / "captions_without_photographs.json"
    if not file.is_file():
        raise UserError(f"--data {data[0]!r}: there are no captions without photographs at '{file}'")
    return folder, coco.read_texts(file)


WEIGHTS = {"derived": 1.0, "boxes": 1.0, cloze.SOURCE: 0.2}
"""What an occurrence of a word counts: 2 in a question that people wrote, for these are few."""


def _vocabulary(questions: Sequence[Question], settings: Settings) -> Vocabulary:
    counts: defaultdict[str, float] = defaultdict(float)
    for question in questions:
        for word in tokenize(question.text):
            counts[word] += WEIGHTS.get(question.source, 2.0)
    kept = (word for word, count in counts.items() if count >= settings.minimum_count)
    return Vocabulary([*SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))])


def _coco_validation(questions: QuestionSet) -> set[str]:
    return coco.split_ids(questions.path, "val") if questions.kind in OF_COCO else set()


def _limited(questions: list[Question], limit: int | None) -> list[Question]:
    """The questions about the first `limit` images of each set."""
    if limit is None:
        return questions
    first: dict[str, set[str]] = defaultdict(set)
    kept = []
    for question in questions:
        images = first[question.source]
        if question.image_id in images or len(images) < limit:
            images.add(question.image_id)
            kept.append(question)
    return kept
