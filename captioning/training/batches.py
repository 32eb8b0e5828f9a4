"""Batches for training a captioner: images as stored features, with all their captions as numbers of words."""

from collections.abc import Iterator, Sequence

import torch

from captioning.training.settings import Settings
from common.training import batches
from common.training.batches import Batch, Picture, parts
from data.words.vocabulary import END


class Loader(batches.Loader):
    """Seeded batches of one data set; `captions` are those of each picture, as numbers of words without the end."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        captions: Sequence[Sequence[Sequence[int]]],
        words: Sequence[str],
        settings: Settings,
        device: torch.device,
    ):
        super().__init__(pictures, words, settings.batch, device)
        most = settings.longest - 1
        self.captions = [[[*tokens[:most], END] for tokens in each] for each in captions]

    @property
    def steps(self) -> int:
        return -(-len(self.pictures) // self.batch)

    def epoch(self, seed: int) -> Iterator[Batch]:
        """All images once in random order, each in a random view, with all their captions."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.pictures), generator=generator).tolist()
        views = torch.randint(0, self.views(0), (len(order),), generator=generator).tolist()
        for numbers, chosen in zip(parts(order, self.batch), parts(views, self.batch), strict=True):
            yield self.make(numbers, chosen)

    def plain(self) -> Iterator[Batch]:
        """All images in order, as they are."""
        for numbers in parts(range(len(self.pictures)), self.batch):
            yield self.make(numbers, [0] * len(numbers))

    def make(self, numbers: Sequence[int], views: Sequence[int]) -> Batch:
        """The batch of some images in given views, with all their captions."""
        return self.together(numbers, self.features(numbers, views), [self.captions[n] for n in numbers])
