"""Views of photographs that a trunk's frozen front is run on once, before training: plain, mirrored, crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.training.loop import seed_of


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


def views_encoder(
    front: Callable[[Tensor], Tensor], preprocess: Callable[[Path], Tensor], views: int, device: torch.device
) -> Callable[[Sequence[Path]], np.ndarray]:
    """Files -> what `front` makes of the first `views` views of each (files, views, C, h, w), as float16.

    `preprocess` makes (3,H,W) of a file; an image's views depend on its file name.
    """

    @torch.no_grad()
    def encode(paths: Sequence[Path]) -> np.ndarray:
        loaded = [(path.name, preprocess(path)) for path in paths]
        batch = torch.stack([view(image, name, number) for name, image in loaded for number in range(views)])
        batch = batch.to(device).contiguous(memory_format=torch.channels_last)
        # twice as fast, and exact enough
        with torch.autocast(device.type, torch.bfloat16, enabled=views > 1):
            maps = front(batch).float()
        return maps.unflatten(0, (len(paths), views)).cpu().half().numpy()

    return encode
