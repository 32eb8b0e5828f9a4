"""What a trunk says of photographs, to train heads on: cross-fitted where the trunk was trained on the photograph.

A trunk is surer of photographs that it was trained on than of new ones, and a head taught on what it says of these
believes it too much. So a trunk's training also trains trunks that leave a part of the photographs out, and writes
what these say of that part to `summaries.h5` beside the trunk: what a trunk says of a photograph new to it.

    summaries = Summaries.open("runs/trunk", "runs/cap/features")
    summaries.of("coco", {"coco:25": Path("COCO_train2014_000000000025.jpg")})     # (1, 2, E+C): whole, and mirrored

Letters: E concepts, C of them counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.networks.trunk import SeeingTrunk
from common.training.loop import seed_of, show_progress
from common.training.store import FeatureStore, complete_store
from common.training.trunks import load_seeing_trunk, trunk_stem
from common.training.views import view

FILE = "summaries.h5"
VIEWS = 2  # whole, and mirrored


@dataclass(frozen=True)
class Summaries:
    """A trunk, the `crossfitted` summaries by image id, and the `folder` that keeps those the trunk makes itself."""

    trunk: SeeingTrunk
    crossfitted: FeatureStore | None
    folder: Path
    device: torch.device

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, folder: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> Summaries:
        """The summaries of a trunk: `path` is its stem, either of its files, or its run's folder; None: the shipped."""
        stem = trunk_stem(path)
        trunk = load_seeing_trunk(stem, device)
        file = stem.parent / FILE
        store = FeatureStore(file, trunk.fingerprint) if file.is_file() else None
        if store is None:
            print(
                f"no {FILE} beside '{stem}': the trunk itself tells of photographs that it was trained on, surer than "
                "of new ones; a head is best trained on the folder of 'saywhy train trunk'",
                flush=True,
            )
        return cls(trunk, store, Path(folder), torch.device(device))

    def fitted(self, image_id: str) -> bool:
        """Whether the photograph is one that the trunk was trained on, of which another trunk tells."""
        return self.crossfitted is not None and image_id in self.crossfitted.row

    def of(self, family: str, photographs: Mapping[str, Path], views: int = VIEWS) -> Tensor:
        """(n, views, E+C), float32, of `photographs` (image id -> file) in their order.

        `family` names the file in `folder` that keeps what the trunk itself says of those it wasn't trained on.
        """
        if not 1 <= views <= VIEWS:
            raise UserError(f"summaries are of 1 or {VIEWS} views; received {views}")
        found = torch.zeros(len(photographs), views, self.trunk.evidence.size)
        places = {image_id: place for place, image_id in enumerate(photographs)}
        known = [image_id for image_id in photographs if self.fitted(image_id)]
        others = {image_id: path for image_id, path in photographs.items() if not self.fitted(image_id)}
        for ids, store in ((known, self.crossfitted), (list(others), self._store(family, others, views))):
            if ids and store is not None:
                values = torch.from_numpy(store.read(store.rows(ids)))[:, :views]
                found[[places[image_id] for image_id in ids]] = values.float()
        return found

    def _store(self, family: str, photographs: Mapping[str, Path], views: int) -> FeatureStore | None:
        """What the trunk itself says of photographs, in a file that is made or gone on with where it isn't whole."""
        if not photographs:
            return None
        which = f"{self.trunk.fingerprint}-{views}-{seed_of(*photographs):08x}"
        file = self.folder / f"summaries-{family}-{which}.h5"
        paths = dict(photographs)
        progress = show_progress(f"summaries of {family} images")
        return complete_store(
            file, paths, self.trunk.fingerprint, lambda part: self.encode(part, views), 32 // views, progress
        )

    @torch.no_grad()
    def encode(self, paths: Sequence[Path], views: int) -> np.ndarray:
        """What the trunk says of each view of each file: (files, views, E+C), as float16."""
        loaded = [(path.name, self.trunk.preprocessing(path)[0]) for path in paths]
        batch = torch.stack([view(image, name, number) for name, image in loaded for number in range(views)])
        batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.trunk(batch).unflatten(0, (len(paths), views)).cpu().half().numpy()
