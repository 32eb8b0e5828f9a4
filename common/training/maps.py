"""Feature maps of photographs on disk, for heads that read every position, or the mean over them.

    maps = Maps(Summaries.open(None, "runs/vqa/features"))
    stored = maps.of("coco", {"coco:25": Path("COCO_train2014_000000000025.jpg")})
    stored[[0], [1]]                                       # (1,K,h,w): the first photograph, mirrored

They are the trunk's own, of photographs that it was trained on as well: there is no cross-fitting (see
`common.training.summaries`), for maps of different trunks have different channels.

Letters: I images, Q questions of a batch, K channels, h,w map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.networks.trunk import SeeingTrunk
from common.training.loop import seed_of, show_progress
from common.training.store import FeatureStore, complete_store
from common.training.summaries import VIEWS, Summaries
from common.training.views import view

_BATCH = 16  # photographs that are read together


@dataclass(frozen=True)
class Maps:
    """The last feature maps of a trunk; `mean` keeps the mean over the positions of each alone.

    `summaries` names the trunk and the folder, and says what the trunk tells besides.
    """

    summaries: Summaries
    mean: bool = False

    @property
    def trunk(self) -> SeeingTrunk:
        return self.summaries.trunk

    @property
    def device(self) -> torch.device:
        return self.summaries.device

    def of(self, family: str, photographs: Mapping[str, Path]) -> StoredMaps:
        """The maps of photographs (image id -> file) in their order; `family` names the file that keeps them."""
        trunk, files = self.trunk, dict(photographs)
        which = f"{trunk.fingerprint}-{VIEWS}-{seed_of(*files):08x}"
        file = self.summaries.folder / f"{'means' if self.mean else 'maps'}-{family}-{which}.h5"
        progress = show_progress(f"feature maps of {family} images")
        store = complete_store(file, files, trunk.fingerprint, self.encode, _BATCH, progress)
        return StoredMaps([(store, row) for row in range(len(files))])

    @torch.no_grad()
    def encode(self, paths: Sequence[Path]) -> np.ndarray:
        """The trunk's maps of each file, whole and mirrored: (files,2,K,h,w), or (files,2,K), as float16."""
        loaded = [(path.name, self.trunk.preprocessing(path)[0]) for path in paths]
        batch = torch.stack([view(image, name, number) for name, image in loaded for number in range(VIEWS)])
        batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
        maps = self.trunk.features(batch)
        maps = maps.mean((2, 3)) if self.mean else maps
        return maps.unflatten(0, (len(paths), VIEWS)).cpu().half().numpy()


class StoredMaps:
    """Maps in files, read when they are asked for: `stored[places, views]` is (Q,K,h,w), float32."""

    def __init__(self, rows: Sequence[tuple[FeatureStore, int]]) -> None:
        self.rows = list(rows)
        self.shape = (len(self.rows), *self.rows[0][0].shape)

    @staticmethod
    def joined(parts: Sequence[StoredMaps]) -> StoredMaps:
        """Those of several files, one after the other."""
        return StoredMaps([row for part in parts for row in part.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: tuple[Sequence[int], Sequence[int]]) -> Tensor:
        places, views = wanted
        found = [self.rows[place] for place in places]
        out = np.empty((len(found), *self.shape[2:]), np.float16)
        for store in {id(store): store for store, _ in found}.values():
            own = [i for i, (other, _) in enumerate(found) if other is store]
            out[own] = store.read([found[i][1] for i in own], [views[i] for i in own])
        return torch.from_numpy(out).float()
