"""Batches of images with texts: the images as stored features, the texts as numbers of words.

Letters: B images, N texts of the batch, L tokens, E evidence words.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from common.text import padded
from common.training.evidence import evidence_targets
from common.training.store import FeatureStore

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """An image to train on: its id in the data, its name in its feature store, and the words true of it.

    `words` gives each word's share, in [0, 1]; other words count by `absent` as untrue. An epoch shows the image
    `times` times.
    """

    image_id: str
    name: str
    store: FeatureStore
    words: Mapping[str, float]
    absent: float = 1.0
    times: float = 1.0


@dataclass
class Batch:
    """Stored features (B,C,h,w), texts (N,L), the image of each (N,), and the images' numbers in the loader (B).

    `evidence` (B,E) are the evidence words' targets, `absent` (B,) what words count that are not true of the image.
    """

    features: Tensor
    tokens: Tensor
    image: Tensor
    evidence: Tensor
    absent: Tensor
    numbers: list[int]


class Loader:
    """What the loaders of all tasks share: the pictures of a data set, their features and their evidence."""

    def __init__(self, pictures: Sequence[Picture], words: Sequence[str], batch: int, device: torch.device):
        self.pictures, self.batch, self.device = list(pictures), batch, device
        self.evidence = evidence_targets([picture.words for picture in pictures], words)
        self.absent = torch.tensor([picture.absent for picture in pictures])

    def views(self, number: int) -> int:
        """How many views of a picture are stored."""
        return self.pictures[number].store.shape[0]

    def features(self, numbers: Sequence[int], views: Sequence[int]) -> Tensor:
        """(B,C,h,w) of pictures in given views."""
        rows = []
        for number, view in zip(numbers, views, strict=True):
            picture = self.pictures[number]
            rows.append(torch.from_numpy(picture.store.read(picture.store.rows([picture.name]), view)[0]))
        stored = torch.stack(rows).to(self.device)
        return stored.float().contiguous(memory_format=torch.channels_last)

    def together(self, numbers: Sequence[int], features: Tensor, texts: Sequence[Sequence[Sequence[int]]]) -> Batch:
        """The batch of some pictures, with the texts about each."""
        image = [row for row, each in enumerate(texts) for _ in each]
        return Batch(
            features,
            padded([tokens for each in texts for tokens in each], self.device),
            torch.tensor(image, device=self.device),
            self.evidence[list(numbers)].to(self.device),
            self.absent[list(numbers)].to(self.device),
            list(numbers),
        )


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in runs of `size`; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
