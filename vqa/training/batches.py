"""Batches for training the VQA model: images as stored features, with questions about them and their answers.

Letters: B images, Q questions of the batch, L tokens, N answers, E evidence words.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.training import batches
from common.training.batches import Picture, parts
from data.records import Question
from data.words.vocabulary import FUNCTION_WORDS, tokenize
from vqa.metrics import accuracy_scores, normalise_answer
from vqa.training.settings import Settings

ASKING = frozenset("color many doing wearing picture image photo photograph here see kind type there any".split())


@dataclass(frozen=True)
class Example:
    """A question as the model is trained on it: its tokens, its target (answer's number -> share), its weight.

    The target is empty where no answer of the question is in the model's list.
    """

    question: Question
    tokens: list[int]
    target: dict[int, float]
    weight: float


@dataclass
class Batch(batches.Batch):
    """The texts are questions: their numbers in the loader, answer targets (Q,N) that sum to 1, weights (Q,)."""

    questions: list[int]
    targets: Tensor
    weights: Tensor


def answer_vocabulary(questions: Sequence[Question], minimum: int) -> list[str]:
    """Normalised answers given to at least `minimum` questions, commonest first, ties by name.

    For questions with ten human answers each answer counts that at least three people gave; of those with
    soft answers each that is wholly right.
    """
    counts: Counter[str] = Counter()
    for question in questions:
        given = Counter(map(normalise_answer, question.answers))
        enough = {answer for answer, count in given.items() if count >= 3 or len(question.answers) < 10}
        enough |= {normalise_answer(answer) for answer, score in question.soft_answers if score == 1}
        counts.update((enough | {normalise_answer(question.answer)}) - {""})
    return sorted((a for a, n in counts.items() if n >= minimum), key=lambda a: (-counts[a], a))


def answer_scores(question: Question, index: dict[str, int]) -> dict[int, float]:
    """Answer's number -> its share of the target; empty when no answer of the question is in the list."""
    if question.soft_answers:
        scores = {normalise_answer(answer): score for answer, score in question.soft_answers}
    elif len(question.answers) > 1:
        scores = accuracy_scores(question.answers)
    else:
        scores = {normalise_answer(question.answer): 1.0}
    known = {index[answer]: score for answer, score in scores.items() if answer in index and score > 0}
    total = sum(known.values())
    return {number: score / total for number, score in known.items()}


def words_shown(question: Question) -> set[str]:
    """The content words that a question and its answer show to be true of the image."""
    if normalise_answer(question.answer) == "no":
        return set()
    asked = "" if question.kind == "choice" else question.text  # of a cat and a dog, one is not there
    words = set(tokenize(asked)) | set(tokenize(normalise_answer(question.answer)))
    return {w for w in words if w.isalpha() and len(w) > 1} - FUNCTION_WORDS - ASKING - {"yes"}


class Loader(batches.Loader):
    """Seeded batches of questions, image by image; `answers` is the length of the answers' list.

    Of pictures that an epoch shows half a time, half are in an epoch.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        examples: Sequence[Example],
        words: Sequence[str],
        answers: int,
        settings: Settings,
        device: torch.device,
    ):
        super().__init__(pictures, words, settings.batch, device)
        self.answers, self.per_image = answers, settings.per_image
        self.summaries: list[Tensor] | None = None  # of each picture (views, K+E): see `summarise`
        self._ask(examples)

    def only(self, wanted: Callable[[Question], bool]) -> Loader:
        """A loader of the questions that are `wanted`; of all of them where none is."""
        other = copy.copy(self)
        other._ask([each for each in self.examples if wanted(each.question)] or self.examples)
        return other

    def _ask(self, examples: Sequence[Example]) -> None:
        self.examples = list(examples)
        place = {picture.image_id: i for i, picture in enumerate(self.pictures)}
        self.of_image: dict[int, list[int]] = defaultdict(list)
        for number, example in enumerate(self.examples):
            self.of_image[place[example.question.image_id]].append(number)

    @property
    def steps(self) -> int:
        return self.steps_of(self.batch)

    def steps_of(self, batch: int) -> int:
        """Batches of an epoch with `batch` images in each."""
        return -(-len(self.order(0)) // batch)

    def order(self, seed: int, each_once: bool = False) -> list[int]:
        """The pictures of an epoch in random order, each as often as its `times` says, or once."""
        rng = random.Random(seed)
        every = [1.0 if each_once else picture.times for picture in self.pictures]
        shown = [i for i, times in enumerate(every) for _ in range(int(times))]
        fractions: dict[float, list[int]] = defaultdict(list)
        for i, times in enumerate(every):
            fractions[times % 1].append(i)
        for share in sorted(fractions):
            shown += rng.sample(fractions[share], round(share * len(fractions[share])))
        rng.shuffle(shown)
        return shown

    def epoch(self, seed: int, look: bool = True, batch: int | None = None, each_once: bool = False) -> Iterator[Batch]:
        """The epoch's images, each in a random view, with at most `per_image` of its answerable questions, chosen anew.

        `look=False` leaves the features out.
        """
        rng = random.Random(seed)
        for part in parts(self.order(seed, each_once), batch or self.batch):
            numbers = list(dict.fromkeys(part))
            asked = [[n for n in self.of_image.get(i, ()) if self.examples[n].target] for i in numbers]
            asked = [rng.sample(found, min(self.per_image, len(found))) for found in asked]
            views = [rng.randrange(self.views(i)) for i in numbers]
            if any(asked):
                yield self.make(numbers, asked, views if look else None)

    def plain(self, look: bool = True) -> Iterator[Batch]:
        """All questions, image by image as they are."""
        shown = [i for i in range(len(self.pictures)) if self.of_image.get(i)]
        for numbers in parts(shown, self.batch):
            yield self.make(numbers, [self.of_image[i] for i in numbers], [0] * len(numbers) if look else None)

    def make(self, numbers: Sequence[int], asked: Sequence[Sequence[int]], views: Sequence[int] | None) -> Batch:
        """The batch of some images in given views (None: without features), each with the questions `asked` of it."""
        questions = [n for each in asked for n in each]
        examples = [self.examples[n] for n in questions]
        features = torch.zeros(len(numbers)) if views is None else self.features(numbers, views)
        batch = self.together(numbers, features, [[self.examples[n].tokens for n in each] for each in asked])
        targets = torch.zeros(len(examples), self.answers)
        for row, example in enumerate(examples):
            for answer, share in example.target.items():
                targets[row, answer] = share
        weights = torch.tensor([example.weight for example in examples])
        return Batch(
            **vars(batch), questions=questions, targets=targets.to(self.device), weights=weights.to(self.device)
        )

    def summarise(self, encode: Callable[[Tensor], Tensor], counts: Sequence[int]) -> None:
        """From now on batches carry what `encode` makes of stored features (B,K+E), for `counts` views of each."""
        self.summaries = None
        rows = [(i, view) for i, count in enumerate(counts) for view in range(count)]
        made = [encode(self.features(*zip(*part, strict=True))).half().cpu() for part in parts(rows, 64)]
        self.summaries = list(torch.cat(made).split(list(counts)))

    def views(self, number: int) -> int:
        return len(self.summaries[number]) if self.summaries else super().views(number)

    def features(self, numbers: Sequence[int], views: Sequence[int]) -> Tensor:
        """(B,C,h,w) of images in given views, or their summaries (B,K+E)."""
        if not self.summaries:
            return super().features(numbers, views)
        rows = [self.summaries[i][view] for i, view in zip(numbers, views, strict=True)]
        return torch.stack(rows).float().to(self.device)
