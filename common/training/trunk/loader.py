"""Batches for training a trunk: photographs as stored features, with the targets of their concepts.

Letters: B images, E concepts, C of them counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.training.batches import parts
from common.training.store import FeatureStore
from common.training.trunk.corpus import Photograph, Targets, families
from common.training.views import Stores


@dataclass
class Batch:
    """Stored features (B,..), targets and weights (B,E), and counts (B,C), -1 where they are not known."""

    features: Tensor
    values: Tensor
    weights: Tensor
    counts: Tensor


class Loader:
    """Batches of photographs' stored features and targets; a photograph goes by its number in the corpus."""

    def __init__(self, photographs: Sequence[Photograph], targets: Targets, stores: Stores, views: int, batch: int):
        self.photographs, self.targets, self.device, self.batch = photographs, targets, stores.device, batch
        self.place: dict[str, tuple[FeatureStore, int]] = {}
        for family, members in families(photographs).items():
            names = _names(members)
            store = stores.open(family, dict(zip(names, (p.path for p in members), strict=True)), views)
            rows = zip(members, store.rows(names), strict=True)
            self.place.update({p.image_id: (store, row) for p, row in rows})

    def epoch(self, numbers: Sequence[int], seed: int, views: int) -> Iterator[Batch]:
        """The photographs once in random order, each in a random view."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(numbers), generator=generator).tolist()
        chosen = torch.randint(0, views, (len(order),), generator=generator).tolist()
        for places, view in zip(parts(order, self.batch), parts(chosen, self.batch), strict=True):
            yield self.make([numbers[place] for place in places], view)

    def plain(self, numbers: Sequence[int], view: int = 0) -> Iterator[Batch]:
        """The photographs in order, all in one view."""
        for some in parts(numbers, self.batch):
            yield self.make(some, [view] * len(some))

    def make(self, numbers: Sequence[int], views: Sequence[int]) -> Batch:
        """The batch of some photographs in given views."""
        stored = []
        for number, view in zip(numbers, views, strict=True):
            store, row = self.place[self.photographs[number].image_id]
            stored.append(torch.from_numpy(store.read([row], view)[0]))
        part = self.targets.part(numbers)
        told = (torch.from_numpy(array).to(self.device) for array in (part.values, part.weights, part.counts))
        features = torch.stack(stored).to(self.device).float().contiguous(memory_format=torch.channels_last)
        return Batch(features, *told)


def _names(photographs: Sequence[Photograph]) -> list[str]:
    """The names in the features' store: the files', where each is another, else the images' ids."""
    names = [p.path.name for p in photographs]
    return names if len(set(names)) == len(names) else [p.image_id for p in photographs]
