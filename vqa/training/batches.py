"""Batches for training the VQA model: views of images as stored features, questions and answers as numbers.

Letters: B images, Q questions of the batch, L tokens, N answers, E evidence words.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.records import Question
from data.store import FeatureStore
from data.words.vocabulary import FUNCTION_WORDS, PAD, Vocabulary, tokenize
from vqa.metrics import accuracy_scores, normalise_answer

ASKING = frozenset(
    "color many doing wearing picture image photo photograph here see kind type there any".split()
)


@dataclass(frozen=True)
class Picture:
    """An image to take questions from: file, name in its store, and the words known to be true of it."""

    name: str
    path: Path
    image_id: str


@dataclass
class Batch:
    """Stored features (B,C,h,w), questions (Q,L), the image of each (Q,), answer targets (Q,N) that sum to 1,
    weights (Q,), evidence targets (B,E) and how much each image's words count where they are absent (B,)."""

    features: Tensor
    tokens: Tensor
    image: Tensor
    targets: Tensor
    weights: Tensor
    evidence: Tensor
    absent: Tensor


def answer_vocabulary(questions: Sequence[Question], minimum: int) -> list[str]:
    """Normalised answers given to at least `minimum` questions, commonest first, ties by name.

    For questions with ten human answers each answer counts that at least three people gave.
    """
    counts: Counter[str] = Counter()
    for question in questions:
        given = Counter(map(normalise_answer, question.answers))
        enough = {answer for answer, count in given.items() if count >= 3 or len(question.answers) < 10}
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
    words = set(tokenize(question.text)) | set(tokenize(normalise_answer(question.answer)))
    return {w for w in words if w.isalpha() and len(w) > 1} - FUNCTION_WORDS - ASKING - {"yes"}


def evidence_vocabulary(
    shown: Mapping[str, Collection[str]], count: int, answers: Collection[str] = ()
) -> list[str]:
    """`count` words that are true of at least three images: those that are answers, then those of the most images."""
    seen = Counter(word for words in shown.values() for word in words)
    wanted = set(answers)
    return sorted((w for w in seen if seen[w] > 2), key=lambda w: (w not in wanted, -seen[w], w))[:count]


def pad(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Token lists as one (Q,L) tensor, padded with `PAD` at the end."""
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[PAD] * (longest - len(sequence))] for sequence in sequences])


class Loader:
    """Seeded batches of questions, image by image, from feature stores."""

    def __init__(
        self,
        pictures: Sequence[tuple[Picture, FeatureStore]],
        questions: Sequence[Question],
        vocabulary: Vocabulary,
        answers: dict[str, int],
        evidence: Tensor,
        absent: Tensor,
        batch: int,
        per_image: int,
        weights: dict[str, float],
        times: Sequence[float] | None = None,
        longest: int = 24,
    ):
        """`evidence` (images, E) and `absent` (images,) as in `Batch`, in the order of `pictures`.

        `times` says how often an epoch shows each picture (default: once); of pictures shown half a time, half
        are in an epoch.
        """
        self.pictures, self.batch, self.per_image, self.answer_count = (
            list(pictures),
            batch,
            per_image,
            len(answers),
        )
        self.evidence, self.absent = evidence, absent
        self.summaries: list[Tensor] | None = None  # of each picture (views, K+E): see `summarise`
        self.times = [1.0] * len(self.pictures) if times is None else list(times)
        self.questions = list(questions)
        self.tokens = [vocabulary.encode(tokenize(q.text))[:longest] or [PAD] for q in self.questions]
        self.targets = [answer_scores(q, answers) for q in self.questions]
        self.weights = [weights.get(q.source, 1.0) for q in self.questions]
        place = {picture.image_id: i for i, (picture, _) in enumerate(self.pictures)}
        self.of_image: dict[int, list[int]] = defaultdict(list)
        for number, question in enumerate(self.questions):
            self.of_image[place[question.image_id]].append(number)

    @property
    def steps(self) -> int:
        return -(-len(self.order(0)) // self.batch)

    def summarise(self, encode: Callable[[Tensor], Tensor], views: Callable[[Picture], int]) -> None:
        """From now on batches carry what `encode` makes of the stored features (B,K+E), for the first views of each."""
        self.summaries = []
        rows = [(i, v) for i, (picture, _) in enumerate(self.pictures) for v in range(views(picture))]
        made = []
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            made.append(encode(self.features([i for i, _ in part], [v for _, v in part])).half())
        counts = Counter(i for i, _ in rows)
        self.summaries = list(torch.cat(made).split([counts[i] for i in range(len(self.pictures))]))

    def order(self, seed: int, each_once: bool = False) -> list[int]:
        """The pictures of an epoch in random order, each as often as `times` says, or once."""
        rng = random.Random(seed)
        every = [1.0] * len(self.times) if each_once else self.times
        shown = [i for i, times in enumerate(every) for _ in range(int(times))]
        parts: dict[float, list[int]] = defaultdict(list)
        for i, times in enumerate(every):
            parts[times % 1].append(i)
        for share in sorted(parts):
            shown += rng.sample(parts[share], round(share * len(parts[share])))
        rng.shuffle(shown)
        return shown

    def epoch(
        self, seed: int, look: bool = True, batch: int | None = None, each_once: bool = False
    ) -> Iterator[Batch]:
        """The epoch's images, each in a random view, with at most `per_image` of its answerable questions, chosen anew.

        `look=False` leaves the features out.
        """
        rng = random.Random(seed)
        order, size = self.order(seed, each_once), batch or self.batch
        for start in range(0, len(order), size):
            chosen = list(dict.fromkeys(order[start : start + size]))
            answerable = {i: [n for n in self.of_image.get(i, ()) if self.targets[n]] for i in chosen}
            asked = {i: rng.sample(found, min(self.per_image, len(found))) for i, found in answerable.items()}
            views = [rng.randrange(self.views(i)) for i in chosen]
            if any(asked.values()):
                yield self.make(chosen, asked, views, look)

    def make(
        self, chosen: Sequence[int], asked: dict[int, list[int]], views: Sequence[int], look: bool = True
    ) -> Batch:
        numbers = [n for i in chosen for n in asked[i]]
        targets = torch.zeros(len(numbers), self.answer_count)
        for row, number in enumerate(numbers):
            for answer, share in self.targets[number].items():
                targets[row, answer] = share
        return Batch(
            self.features(chosen, views) if look else torch.zeros(len(chosen)),
            pad([self.tokens[n] for n in numbers]),
            torch.tensor([row for row, i in enumerate(chosen) for _ in asked[i]]),
            targets,
            torch.tensor([self.weights[n] for n in numbers]),
            self.evidence[list(chosen)],
            self.absent[list(chosen)],
        )

    def views(self, picture: int) -> int:
        return len(self.summaries[picture]) if self.summaries else self.pictures[picture][1].shape[0]

    def features(self, chosen: Sequence[int], views: Sequence[int]) -> Tensor:
        """(B,C,h,w) of images in given views, or their summaries (B,K+E)."""
        if self.summaries:
            return torch.stack([self.summaries[i][v] for i, v in zip(chosen, views, strict=True)]).float()
        rows = []
        for i, view in zip(chosen, views, strict=True):
            picture, store = self.pictures[i]
            rows.append(torch.from_numpy(store.read(store.rows([picture.name]), view)[0]))
        return torch.stack(rows).float().contiguous(memory_format=torch.channels_last)

    def plain(self, look: bool = True) -> Iterator[tuple[Tensor, list[int], Tensor, Tensor]]:
        """All questions, image by image as they are: features, question numbers, tokens, image of each."""
        asked = [i for i in range(len(self.pictures)) if self.of_image.get(i)]
        for start in range(0, len(asked), self.batch):
            chosen = asked[start : start + self.batch]
            numbers = [n for i in chosen for n in self.of_image[i]]
            rows = torch.tensor([row for row, i in enumerate(chosen) for _ in self.of_image[i]])
            seen = self.features(chosen, [0] * len(chosen)) if look else torch.zeros(len(chosen))
            yield seen, numbers, pad([self.tokens[n] for n in numbers]), rows
