"""What a training of the VQA model reads: questions, words and answers, and its images' stored features."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.training.batches import Picture
from common.training.evidence import commonest_words, word_shares
from common.training.views import Stores
from data.derived.question_sets import DERIVED, QuestionSet
from data.readers import flickr8k
from data.readers.coco import split_ids
from data.records import Question, held_out
from data.words.vocabulary import FUNCTION_WORDS, PAD, Vocabulary, tokenize
from vqa.training.batches import Example, Loader, answer_scores, answer_vocabulary, words_shown
from vqa.training.settings import Settings

LONGEST = 24  # words of a question that are trained on
Shown = Mapping[str, tuple[Mapping[str, float], bool]]


@dataclass(frozen=True)
class Corpus:
    """The questions of some sets, and the lists of words and answers that a model is made for.

    No question of `train` is about an image of the validation questions, whatever the set. `shown` says of each
    training image which words are true of it (with a share in [0, 1]), and whether other words count as untrue.
    """

    sets: tuple[QuestionSet, ...]
    train: list[Question]
    val: list[Question]
    vocabulary: Vocabulary
    answers: list[str]
    words: list[str]
    shown: Shown
    limited: bool = False

    @classmethod
    def read(cls, sets: Sequence[QuestionSet], settings: Settings, limit: int | None = None) -> Corpus:
        """The corpus of `sets`; `limit` takes the questions about the first images of each set and split only."""
        validation = [question for s in sets for question in s.read("val")]
        kept_out = {question.image_id for question in validation}.union(*(_coco_validation(s) for s in sets))
        train = _limited(held_out([q for s in sets for q in s.read("train")], kept_out), limit)
        if not train:
            raise UserError("no training question is left; every image is kept for validation")
        shown = words_true(train, sets)
        answers = answer_vocabulary(train, settings.minimum_answers)
        told = [words for words, _ in shown.values()]
        return cls(
            tuple(sets),
            train,
            _limited(validation, limit),
            Vocabulary.build((tokenize(q.text) for q in train), settings.minimum_count),
            answers,
            commonest_words(told, settings.evidence_words, 3, set(answers)),
            shown,
            limit is not None,
        )

    @property
    def human(self) -> set[str]:
        """The images that people wrote training questions about."""
        return {q.image_id for q in self.train if q.source not in DERIVED}

    def loader(self, split: str, stores: Stores, settings: Settings) -> Loader:
        """Batches of a split's questions."""
        index = {answer: number for number, answer in enumerate(self.answers)}
        weights = dict.fromkeys(DERIVED, settings.derived_weight)
        examples = [
            Example(
                question,
                self.vocabulary.encode(tokenize(question.text))[:LONGEST] or [PAD],
                answer_scores(question, index),
                weights.get(question.source, 1.0),
            )
            for question in (self.train if split == "train" else self.val)
        ]
        pictures = self._pictures(split, stores, settings)
        return Loader(pictures, examples, self.words, len(index), settings, stores.device)

    def _pictures(self, split: str, stores: Stores, settings: Settings) -> list[Picture]:
        """The images of a split's questions; each collection of images has a feature store of its own."""
        questions, views = (self.train, settings.views) if split == "train" else (self.val, 1)
        human, found = self.human, []
        for family in dict.fromkeys(_family(question) for question in questions):
            files = self._files(family, [q for q in questions if _family(q) == family], split)
            name = {"train": "train", "val": "dev"}[split] if family == "flickr8k" else f"{family}-{split}"
            store = stores.open(name, {path.name: path for path in files.values()}, views)
            for image_id, path in files.items():
                words, complete = self.shown.get(image_id, ({}, False))
                absent = 1.0 if complete else settings.absent_weight
                times = settings.human_times if image_id in human else settings.derived_times
                times = times if split == "train" else 1.0
                found.append(Picture(image_id, path.name, store, words, absent, times))
        return found

    def _files(self, family: str, questions: Sequence[Question], split: str) -> dict[str, Path]:
        """Id -> file of the family's images.

        All of Flickr8k's, so that the captioner's training of the same images shares the store.
        """
        if family == "flickr8k" and not self.limited:
            return {
                image.image_id: image.path
                for s in self.sets
                if s.kind == "derived"
                for image in flickr8k.read(s.path, "train" if split == "train" else "dev")
            }
        found = {q.image_id: q.image for q in questions}
        return dict(sorted(found.items(), key=lambda item: item[1].name))


def words_true(questions: Sequence[Question], sets: Sequence[QuestionSet]) -> Shown:
    """`Corpus.shown`: a caption's words by the share of captions that say them, a question's where it shows them."""
    found: dict[str, tuple[dict[str, float], bool]] = {}
    for s in sets:
        for image in flickr8k.read(s.path, "train") if s.kind == "derived" else ():
            shares = {w: n for w, n in word_shares(image.tokens).items() if w not in FUNCTION_WORDS}
            found[image.image_id] = (shares, True)
    for question in questions:
        words, complete = found.setdefault(question.image_id, ({}, False))
        if not complete:
            words.update(dict.fromkeys(words_shown(question) - words.keys(), 1.0))
    return found


def _coco_validation(questions: QuestionSet) -> set[str]:
    of_coco = questions.kind in ("vqa", "vqa2", "okvqa", "cocoqa", "boxes")
    return split_ids(questions.path, "val") if of_coco else set()


def _family(question: Question) -> str:
    """The collection that a question's image is from."""
    return question.image_id.partition(":")[0]


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
