"""Batches for training a captioner: views of the images as stored features, captions as token numbers.

Letters: B images, C captions of the batch, L tokens, E evidence words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model import pad
from data.records import CaptionedImage
from data.store import FeatureStore
from data.words.vocabulary import END, FUNCTION_WORDS, SPECIAL, Vocabulary


@dataclass
class Batch:
    """Stored features (B,C,h,w), captions (C,L) with their end token, the image of each caption (C,),
    evidence targets (B,E), and the images' numbers in the data set."""

    features: Tensor
    tokens: Tensor
    image: Tensor
    evidence: Tensor
    numbers: list[int]


def evidence_vocabulary(images: Sequence[CaptionedImage], vocabulary: Vocabulary, count: int) -> list[str]:
    """The `count` content words that are in the captions of the most images."""
    seen = Counter(w for image in images for w in {w for tokens in image.tokens for w in tokens})
    words = [w for w in seen if w in vocabulary and w not in FUNCTION_WORDS and w not in SPECIAL]
    return sorted(words, key=lambda w: (-seen[w], w))[:count]


def evidence_targets(images: Sequence[CaptionedImage], words: Sequence[str]) -> Tensor:
    """(images, E): the share of an image's captions that say each word."""
    index = {word: i for i, word in enumerate(words)}
    targets = torch.zeros(len(images), len(words))
    for row, image in enumerate(images):
        for tokens in image.tokens:
            for word in set(tokens) & index.keys():
                targets[row, index[word]] += 1 / len(image.captions)
    return targets


class Loader:
    """Seeded batches of one data set from its feature store."""

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        store: FeatureStore,
        vocabulary: Vocabulary,
        evidence_words: Sequence[str],
        batch: int,
        longest: int,
        device: torch.device,
    ):
        self.images, self.store, self.batch, self.device = images, store, batch, device
        self.rows = store.rows([image.name for image in images])
        self.captions = [
            [vocabulary.encode(tokens)[: longest - 1] + [END] for tokens in image.tokens] for image in images
        ]
        self.targets = evidence_targets(images, evidence_words)

    @property
    def steps(self) -> int:
        return -(-len(self.images) // self.batch)

    def epoch(self, seed: int) -> Iterator[Batch]:
        """All images once in random order, each in a random view, with all their captions."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.images), generator=generator).tolist()
        views = torch.randint(0, self.store.shape[0], (len(order),), generator=generator).tolist()
        for start in range(0, len(order), self.batch):
            yield self.make(order[start : start + self.batch], views[start : start + self.batch])

    def features(self, numbers: Sequence[int], views: int | Sequence[int] = 0) -> Tensor:
        stored = torch.from_numpy(self.store.read([self.rows[n] for n in numbers], views))
        return stored.to(self.device).float().contiguous(memory_format=torch.channels_last)

    def make(self, numbers: list[int], views: int | Sequence[int] = 0) -> Batch:
        captions = [tokens for n in numbers for tokens in self.captions[n]]
        image = [i for i, n in enumerate(numbers) for _ in self.captions[n]]
        return Batch(
            self.features(numbers, views),
            pad(captions).to(self.device),
            torch.tensor(image, device=self.device),
            self.targets[numbers].to(self.device),
            numbers,
        )

    def plain(self) -> Iterator[Batch]:
        """All images in order, as they are."""
        for start in range(0, len(self.images), self.batch):
            yield self.make(list(range(start, min(start + self.batch, len(self.images)))))
