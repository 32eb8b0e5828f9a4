"""What a trunk is taught: photographs, the concepts that are looked for, and what is known of each photograph.

Made by `data.derived.concepts`. A target is in [0, 1], its weight 0 where nothing is known.

Letters: n photographs, t texts, C classes, W words, E = C+W concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GUESSED = 0.3  # weight of a word that classes speak for


@dataclass(frozen=True)
class Photograph:
    """A photograph of a `family` of them; `split` is 'train', 'val', or 'captions': kept to measure captions by."""

    image_id: str
    path: Path
    split: str

    @property
    def family(self) -> str:
        """The collection that it is from."""
        return self.image_id.partition(":")[0]


@dataclass(frozen=True)
class Targets:
    """Targets (n,E) in [0, 1], their weights (n,E), and the number of things of each class (n,C), -1: not known."""

    values: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    @classmethod
    def unknown(cls, photographs: int, classes: int, words: int) -> Targets:
        """Nothing is known of any."""
        shape = (photographs, classes + words)
        counts = np.full((photographs, classes), -1, np.int16)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), counts)

    def with_guess(self, guess: np.ndarray, where: np.ndarray) -> Targets:
        """With a guess of the words (n,W), of a weight of its own, `where` (n,W) it serves: what is known stays."""
        size = self.counts.shape[1]
        values, weights = self.values.copy(), self.weights.copy()
        values[:, size:] = np.where(where, np.maximum(values[:, size:], guess), values[:, size:])
        weights[:, size:] = np.where(where, np.maximum(weights[:, size:], GUESSED), weights[:, size:])
        return Targets(values, weights, self.counts)

    def part(self, rows: Sequence[int]) -> Targets:
        """The targets of some photographs."""
        return Targets(self.values[rows], self.weights[rows], self.counts[rows])

    def base(self) -> np.ndarray:
        """(E,): the mean target of each concept where it is known."""
        return (self.values * self.weights).sum(0) / np.maximum(self.weights.sum(0), 1)


@dataclass(frozen=True)
class Texts:
    """Captions of photographs that aren't at hand: the `classes` in each (t,C), the share that say each word (t,W)."""

    classes: np.ndarray
    shares: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Corpus:
    """Photographs with targets of the concepts `names`, the first `counted` of which are classes.

    `texts` teach what words people say of classes; `guessed` (n,W) is where such a guess serves as target.
    `imagenet` has the numbers of ImageNet's classes that each concept is a name of.
    """

    photographs: Sequence[Photograph]
    names: tuple[str, ...]
    counted: int
    targets: Targets
    texts: Texts
    guessed: np.ndarray
    imagenet: Sequence[Sequence[int]]

    def numbers(self, *splits: str) -> list[int]:
        """The photographs of some splits, by their number."""
        return [number for number, photograph in enumerate(self.photographs) if photograph.split in splits]


def families(photographs: Sequence[Photograph]) -> dict[str, list[Photograph]]:
    """The photographs of each family, in their order."""
    found: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        found.setdefault(photograph.family, []).append(photograph)
    return found
