"""Evidence for captions without a photograph: what the trunk said of photographs that show much the same.

A text's captions and classes say what was in its photograph; of the photographs at hand those with the likest
classes, and with evidence for the words of the captions, stand in for it. Where the classes differ, evidence and
count of the class come from another photograph, one that has it or one that lacks it; evidence for words moves a
little towards what the captions say. So the decoder learns to write from evidence as wrong as a trunk's is.

Letters: N texts, P photographs, v views, E concepts, C of them counted classes, W = E - C words, M lookalikes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_CHUNK = 512


@dataclass(frozen=True)
class Shown:
    """What is known of texts or photographs: `classes` (N,C) of 0 or 1, and the `words`' shares of captions (N,W)."""

    classes: np.ndarray
    words: np.ndarray


class Lookalikes:
    """Summaries for texts, drawn anew at each call.

    `seen` (P,v,E+C) are the summaries of photographs in several views, `present` (P,C) the classes in them.
    `count` photographs stand in for each text.
    """

    def __init__(self, texts: Shown, present: np.ndarray, seen: np.ndarray, count: int = 6, noise: float = 0.4):
        self.texts, self.present, self.seen, self.noise = texts, present.astype(bool), seen, noise
        self.classes, self.concepts = present.shape[1], present.shape[1] + texts.words.shape[1]
        self.found, self.chances = self._search(min(count, len(seen)))
        self.having = [np.flatnonzero(column) for column in self.present.T]
        self.lacking = [np.flatnonzero(~column) for column in self.present.T]

    def _search(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The likest photographs of each text (N,M), and the running sum of their chances (N,M)."""
        rarity = np.log(len(self.present) / (1 + self.present.sum(0))).clip(0.3).astype(np.float32)
        evidence = self.seen[:, 0, self.classes : self.concepts].astype(np.float32)
        silence = np.logaddexp(0, evidence).sum(1)
        found, chances = [], []
        for start in range(0, len(self.texts.classes), _CHUNK):
            part = slice(start, start + _CHUNK)
            alike = overlap(self.texts.classes[part], self.present, rarity)
            score = 10 * alike + 0.5 * (self.texts.words[part] @ evidence.T - silence)
            best = np.argsort(-score, 1, kind="stable")[:, :count]
            weights = np.exp(0.5 * np.take_along_axis(score - score.max(1, keepdims=True), best, 1))
            found.append(best)
            chances.append(np.cumsum(weights / weights.sum(1, keepdims=True), 1))
        return np.concatenate(found), np.concatenate(chances)

    def draw(self, numbers: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Summaries (B,E+C) for some texts."""
        rows = np.asarray(numbers)
        ranks = (self.chances[rows] < generator.random((len(rows), 1))).sum(1).clip(max=self.found.shape[1] - 1)
        photos = self.found[rows, ranks]
        views = generator.integers(self.seen.shape[1], size=len(rows))
        drawn = self.seen[photos, views].astype(np.float32)
        self._exchange(drawn, rows, photos, views, generator)
        words = drawn[:, self.classes : self.concepts]
        likely = 1 / (1 + np.exp(-words))
        words += self.texts.words[rows] - likely + self.noise * generator.standard_normal(words.shape)
        return torch.from_numpy(drawn)

    def _exchange(
        self, drawn: np.ndarray, rows: np.ndarray, photos: np.ndarray, views: np.ndarray, generator: np.random.Generator
    ) -> None:
        """Take evidence and count of each class that differs from another photograph."""
        for row, number in zip(*np.nonzero(self.texts.classes[rows] != self.present[photos]), strict=True):
            others = self.having[number] if self.texts.classes[rows[row], number] else self.lacking[number]
            if not len(others):
                continue
            other = self.seen[others[generator.integers(len(others))], views[row]]
            for place in (number, self.concepts + number):
                drawn[row, place] = other[place]


def overlap(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How alike sets are, (N,P): the weight of what they share over that of what either has; 1 where both are empty."""
    a, b = a.astype(np.float32) * weight, b.astype(np.float32)
    shared = a @ b.T
    either = a.sum(1)[:, None] + (b @ weight)[None] - shared
    return np.where(either > 0, shared / np.maximum(either, 1e-6), 1.0)
