"""Batches for training the VQA model: questions with their answers, and what the trunk says of their images.

Letters: Q questions of a batch, I images, L tokens, E concepts, C of them counted, N answers, K channels, h,w map.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.text import padded
from common.training.batches import parts
from common.training.maps import StoredMaps
from data.records import Question
from vqa.metrics import accuracy_scores, normalise_answer
from vqa.training.settings import Settings

PLAIN_BATCH = 512


@dataclass(frozen=True)
class Example:
    """A question as the model is trained on it: its tokens, and its target (answer's number -> share).

    The target is empty where no answer of the question is in the model's list.
    """

    question: Question
    tokens: list[int]
    target: dict[int, float]


@dataclass
class Batch:
    """Tokens (Q,L), what is told of the images or None, targets (Q,N) that sum to 1, weights (Q,), questions' numbers.

    `summary` is (Q,E+C), or (Q,K,h,w) for a head that reads the map.
    """

    tokens: Tensor
    summary: Tensor | None
    targets: Tensor
    weights: Tensor
    questions: list[int]


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


class Loader:
    """Seeded batches of questions; `summaries` (I,2,E+C) are of the images whose `places` are given by their ids.

    Maps (I,2,K,h,w) stand in their place for a head that reads these. `answers` is the length of the answers' list.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        summaries: Tensor | StoredMaps,
        places: dict[str, int],
        answers: int,
        settings: Settings,
        device: torch.device,
    ):
        self.examples, self.summaries, self.places = list(examples), summaries, places
        self.answers, self.settings, self.device = answers, settings, device

    def only(self, wanted: Callable[[Question], bool]) -> Loader:
        """A loader of the questions that are `wanted`; of all of them where none is."""
        other = copy.copy(self)
        other.examples = [each for each in self.examples if wanted(each.question)] or self.examples
        return other

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.order(0)) // self.settings.batch)

    def order(self, seed: int) -> list[int]:
        """The answerable questions of an epoch in random order, those of each set as often as the settings say."""
        rng = random.Random(seed)
        sources: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, example in enumerate(self.examples):
            if example.target:
                sources[example.question.source, example.question.kind].append(number)
        asked: list[int] = []
        for source, numbers in sorted(sources.items()):
            times = self.settings.times(*source)
            asked += numbers * int(times) + rng.sample(numbers, round(times % 1 * len(numbers)))
        rng.shuffle(asked)
        return asked

    def epoch(self, seed: int, look: bool = True) -> Iterator[Batch]:
        """The questions of an epoch, each about a random view of its image; `look=False` leaves the images out."""
        rng = random.Random(seed)
        for numbers in parts(self.order(seed), self.settings.batch):
            views = [rng.randrange(self.summaries.shape[1]) for _ in numbers]
            yield self.make(numbers, views if look else None)

    def plain(self, look: bool = True) -> Iterator[Batch]:
        """All questions in their order, about their images as they are."""
        for numbers in parts(range(len(self.examples)), PLAIN_BATCH):
            yield self.make(numbers, [0] * len(numbers) if look else None)

    def make(self, numbers: Sequence[int], views: Sequence[int] | None) -> Batch:
        """The batch of some questions, each about a view of its image, or without images."""
        examples = [self.examples[number] for number in numbers]
        targets = torch.zeros(len(examples), self.answers)
        for row, example in enumerate(examples):
            for answer, share in example.target.items():
                targets[row, answer] = share
        weights = torch.tensor([self.settings.weight(example.question.source) for example in examples])
        summary = None
        if views is not None:
            places = [self.places[example.question.image_id] for example in examples]
            summary = self.summaries[(places, list(views))].to(self.device)
        tokens = padded([example.tokens for example in examples], self.device)
        return Batch(tokens, summary, targets.to(self.device), weights.to(self.device), list(numbers))
