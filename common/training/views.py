"""Views of photographs that a trunk's front is run on once, before training: plain, mirrored, crops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.networks.trunk import Trunk
from common.training.loop import seed_of, show_progress
from common.training.store import FeatureStore, complete_store


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
        int(torch.randint(0, n - s + 1, (), generator=generator)) for s, n in zip(size, image.shape[1:], strict=True)
    )
    crop = image[None, :, top : top + size[0], left : left + size[1]]
    scaled = F.interpolate(crop, image.shape[1:], mode="bilinear", antialias=True, align_corners=False)[0]
    return scaled.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else scaled


@dataclass(frozen=True)
class Stores:
    """What the front of a trunk, which ends before block `blocks`, makes of images: kept in files in `folder`."""

    trunk: Trunk
    blocks: int | None
    folder: Path
    device: torch.device

    def open(self, name: str, files: dict[str, Path], views: int) -> FeatureStore:
        """The store of the first `views` views of `files` (name -> file), made or gone on with where it isn't there.

        The name of its file has `name` in it, and a hash of all that its content depends on.
        """
        key = self.trunk.fingerprint(self.blocks, views)
        return complete_store(
            self.folder / f"{name}-{key}-{len(files)}.h5",
            files,
            key,
            lambda paths: self.encode(paths, views),
            max(1, 32 // views),
            show_progress(f"features of {name} images"),
        )

    @torch.no_grad()
    def encode(self, paths: Sequence[Path], views: int) -> np.ndarray:
        """The front's output for each view of each file (files, views, C, h, w), as float16.

        An image's views depend on its file name.
        """
        loaded = [(path.name, self.trunk.preprocessing(path)[0]) for path in paths]
        batch = torch.stack([view(image, name, number) for name, image in loaded for number in range(views)])
        batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
        front, _ = self.trunk.split(self.blocks)
        # twice as fast, and exact enough
        with torch.autocast(self.device.type, torch.bfloat16, enabled=views > 1):
            maps = front(batch).float()
        return maps.unflatten(0, (len(paths), views)).cpu().half().numpy()
