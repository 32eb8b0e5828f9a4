"""What a training of the VQA model reads: questions, words and answers, and its images' stored features."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.networks.trunk import Trunk
from common.training.loop import show_progress
from common.training.views import views_encoder
from data.derived.question_sets import QuestionSet
from data.readers import flickr8k
from data.readers.coco import split_ids
from data.records import Question, held_out
from data.store import FeatureStore, complete_store
from data.words.vocabulary import FUNCTION_WORDS, Vocabulary, tokenize
from vqa.training.batches import Loader, Picture, answer_vocabulary, evidence_vocabulary, words_shown
from vqa.training.settings import Settings

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
        told = {image: words for image, (words, _) in shown.items()}
        return cls(
            tuple(sets),
            train,
            _limited(validation, limit),
            Vocabulary.build((tokenize(q.text) for q in train), settings.minimum_count),
            answers,
            evidence_vocabulary(told, settings.evidence_words, answers),
            shown,
            limit is not None,
        )

    @property
    def human(self) -> set[str]:
        """The images that people wrote training questions about."""
        return {q.image_id for q in self.train if q.source != "derived"}

    def loader(
        self, split: str, pictures: Sequence[tuple[Picture, FeatureStore]], settings: Settings
    ) -> Loader:
        """Batches of the split's questions about `pictures`; an epoch of `train` shows some images more often."""
        human = self.human
        times = [
            settings.human_times if picture.image_id in human else settings.derived_times
            for picture, _ in pictures
        ]
        evidence, absent = self._evidence([picture for picture, _ in pictures], settings.absent_weight)
        return Loader(
            pictures,
            self.train if split == "train" else self.val,
            self.vocabulary,
            {answer: number for number, answer in enumerate(self.answers)},
            evidence,
            absent,
            settings.batch,
            settings.per_image,
            {"derived": settings.derived_weight},
            times if split == "train" else None,
        )

    def _evidence(self, pictures: Sequence[Picture], absent_weight: float) -> tuple[Tensor, Tensor]:
        index = {word: i for i, word in enumerate(self.words)}
        evidence = torch.zeros(len(pictures), len(index))
        absent = torch.ones(len(pictures))
        for row, picture in enumerate(pictures):
            told, complete = self.shown.get(picture.image_id, ({}, False))
            absent[row] = 1.0 if complete else absent_weight
            for word in told.keys() & index.keys():
                evidence[row, index[word]] = told[word]
        return evidence, absent


def stored_pictures(
    corpus: Corpus, split: str, trunk: Trunk, blocks: int | None, views: int, folder: Path
) -> list[tuple[Picture, FeatureStore]]:
    """The images of a split's questions, each with its collection's feature store in `folder` (made when missing)."""
    questions = corpus.train if split == "train" else corpus.val
    key, (front, _) = trunk.fingerprint(blocks, views), trunk.split(blocks)
    found: list[tuple[Picture, FeatureStore]] = []
    for family, group in _families(questions).items():
        pictures = _pictures(corpus, family, group, split)
        name = {"train": "train", "val": "dev"}[split] if family == "flickr8k" else f"{family}-{split}"
        store = complete_store(
            folder / f"{name}-{key}-{len(pictures)}.h5",
            {picture.name: picture.path for picture in pictures},
            key,
            views_encoder(front, lambda path: trunk.preprocessing(path)[0], views, torch.device("cpu")),
            max(1, 32 // views),
            show_progress(f"features of {split} images ({family})"),
        )
        found += [(picture, store) for picture in pictures]
    return found


def _pictures(corpus: Corpus, family: str, questions: Sequence[Question], split: str) -> list[Picture]:
    """The family's images; all of Flickr8k's, so that the captioner's training of the same images shares the store."""
    if family == "flickr8k" and not corpus.limited:
        return [
            Picture(image.name, image.path, f"flickr8k:{image.path.stem}")
            for s in corpus.sets
            if s.kind == "derived"
            for image in flickr8k.read(s.path, "train" if split == "train" else "dev")
        ]
    found = {q.image_id: Picture(q.image.name, q.image, q.image_id) for q in questions}
    return sorted(found.values(), key=lambda picture: picture.name)


def words_true(questions: Sequence[Question], sets: Sequence[QuestionSet]) -> Shown:
    """`Corpus.shown`: a caption's words by the share of captions that say them, a question's where it shows them."""
    found: dict[str, tuple[dict[str, float], bool]] = {}
    for s in sets:
        for image in flickr8k.read(s.path, "train") if s.kind == "derived" else ():
            told = Counter(word for tokens in image.tokens for word in set(tokens) - FUNCTION_WORDS)
            shares = {word: count / len(image.captions) for word, count in told.items()}
            found[f"flickr8k:{image.path.stem}"] = (shares, True)
    for question in questions:
        words, complete = found.setdefault(question.image_id, ({}, False))
        if not complete:
            words.update(dict.fromkeys(words_shown(question) - words.keys(), 1.0))
    return found


def _coco_validation(questions: QuestionSet) -> set[str]:
    of_coco = questions.kind in ("vqa", "vqa2", "okvqa", "cocoqa")
    return split_ids(questions.path, "val") if of_coco else set()


def _families(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Questions by the collection their images are from: each has a feature store of its own."""
    found: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        found[question.image_id.partition(":")[0]].append(question)
    return dict(found)


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
