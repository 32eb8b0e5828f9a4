"""Batches for training a captioner: views of the images as stored features, captions as token numbers.

Letters: B images, C captions of the batch, L tokens, E evidence words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.model import pad
from common.training import seed_of
from data.features import FeatureStore
from data.flickr8k import CaptionedImage
from data.vocabulary import END, SPECIAL, Vocabulary

# Words that say nothing of what an image shows: no evidence is learned for them.
_FUNCTION_WORDS = """
a an the and or but of in on at by to for from with without into onto over under up down out off through
across along around behind between near next beside past above below against toward towards is are was were
be being been has have having had do does doing did it its 's he she they them his her their him himself
herself themselves itself that this these those there here who which what while as if so some something
someone other another each one two three four five six several many few both all others not no than then
very about during after before where when how can n't just like looks looking appears seen shown i you we
my your our more most only same own get gets getting go goes going also still such
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


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


def view(image: Tensor, name: str, number: int) -> Tensor:
    """View `number` of a preprocessed image (3,H,W): 0 as it is, 1 mirrored, the rest random crops.

    A crop keeps 60 to 100 % of either side, is scaled back to the image's size, and mirrored at an even
    chance; it depends on the image's name and the number alone.
    """
    if number < 2:
        return image.flip(-1) if number else image
    generator = torch.Generator().manual_seed(seed_of(name, number))
    low, high = 0.6, 1.0
    shares = low + (high - low) * torch.rand(2, generator=generator)
    size = [int(round(float(s) * n)) for s, n in zip(shares, image.shape[1:], strict=True)]
    top, left = (
        int(torch.randint(0, n - s + 1, (), generator=generator))
        for s, n in zip(size, image.shape[1:], strict=True)
    )
    crop = image[None, :, top : top + size[0], left : left + size[1]]
    scaled = F.interpolate(crop, image.shape[1:], mode="bilinear", antialias=True, align_corners=False)[0]
    return scaled.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else scaled


def store_features(
    path: Path,
    images: Sequence[CaptionedImage],
    front: nn.Module,
    preprocess: Callable[[Path], Tensor],
    views: int,
    fingerprint: str,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """A complete store of `views` views of each image (see `view`); goes on where an earlier call stopped."""
    names = [image.name for image in images]
    if path.exists():
        store = FeatureStore(path, fingerprint)
        if store.names == names and not store.missing():
            return store  # complete: several trainings may read it at once
        store.close()
    paths = {image.name: image.path for image in images}
    device = next(front.parameters()).device

    @torch.no_grad()
    def compute(names: list[str]) -> np.ndarray:
        loaded = [(name, preprocess(paths[name])) for name in names]
        batch = torch.stack([view(image, name, number) for name, image in loaded for number in range(views)])
        batch = batch.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=views > 1
        ):  # twice as fast, and exact enough
            maps = front(batch).float()
        return maps.unflatten(0, (len(names), views)).cpu().half().numpy()

    shape = compute([images[0].name]).shape[1:]
    with FeatureStore.open(path, names, shape, fingerprint) as store:
        store.fill(compute, max(1, 32 // views), progress)
    return FeatureStore(path, fingerprint)


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
