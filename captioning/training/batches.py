"""Batches for training a captioner: what the decoder reads of some subjects, with all their captions.

Letters: B subjects, N captions of the batch, L tokens, E concepts, C of them counted, P photographs, v views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.text import padded
from common.training.batches import parts
from common.training.lookalikes import Lookalikes
from data.words.vocabulary import END


@dataclass
class Batch:
    """Summaries (B,E+C), captions (N,L), the subject of each (N,), and the subjects' numbers in the loader (B)."""

    summary: Tensor
    tokens: Tensor
    image: Tensor
    numbers: list[int]


class Loader:
    """Seeded batches of photographs and, after them, texts, for which others' photographs stand in.

    `seen` (P,v,E+C) are the photographs' summaries; `captions` those of each subject, as numbers of words without the
    end. An epoch has every photograph once, in a random view, and a share of the texts.
    """

    def __init__(
        self,
        seen: Tensor,
        lookalikes: Lookalikes | None,
        captions: Sequence[Sequence[Sequence[int]]],
        longest: int,
        batch: int,
        device: torch.device | None = None,
    ):
        self.seen, self.lookalikes, self.batch, self.device = seen, lookalikes, batch, device
        self.captions = [[[*tokens[: longest - 1], END] for tokens in each] for each in captions]

    def texts(self, share: float) -> int:
        """How many texts an epoch with a `share` of them has."""
        return round(share * (len(self.captions) - len(self.seen)))

    def steps(self, share: float) -> int:
        return -(-(len(self.seen) + self.texts(share)) // self.batch)

    def epoch(self, seed: int, share: float) -> Iterator[Batch]:
        """The photographs and a share of the texts in random order, each with all its captions."""
        generator = np.random.default_rng(seed)
        texts = len(self.seen) + generator.permutation(len(self.captions) - len(self.seen))[: self.texts(share)]
        order = generator.permutation(np.concatenate([np.arange(len(self.seen)), texts])).tolist()
        for numbers in parts(order, self.batch):
            yield self.make(numbers, generator)

    def make(self, numbers: Sequence[int], generator: np.random.Generator) -> Batch:
        """The batch of some subjects: photographs in random views, texts as lookalikes show them; photographs first."""
        numbers = sorted(numbers)
        photographs = [n for n in numbers if n < len(self.seen)]
        views = generator.integers(self.seen.shape[1], size=len(photographs))
        summary = self.seen[photographs, views]
        if len(photographs) < len(numbers):
            assert self.lookalikes is not None  # there are texts
            texts = [n - len(self.seen) for n in numbers[len(photographs) :]]
            summary = torch.cat([summary, self.lookalikes.draw(texts, generator)])
        captions = [self.captions[n] for n in numbers]
        image = torch.tensor([row for row, each in enumerate(captions) for _ in each], device=self.device)
        tokens = padded([tokens for each in captions for tokens in each], self.device)
        return Batch(summary.to(self.device), tokens, image, numbers)
