"""The result of explaining: maps, scores, the targets' names and where it all came from.

T targets, B images, h,w feature map, H,W image.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import write_npz

# Each method's name in files; what is not here goes by its own name.
_ARRAY_NAMES = {"gradcam": "heatmaps"}


@dataclass(frozen=True)
class Explanation:
    """Maps that explain T scores of B images.

    `maps` holds, by method, raw values on the model's device: (T, B, h, w) for Grad-CAM, counterfactual, CAM
    and occlusion, (T, B, 3, H, W) for those with the image's resolution. `scores` is (T, B), `names` names
    the T targets, `provenance` says which model, layer and versions made it.
    """

    names: tuple[str, ...]
    scores: Tensor
    maps: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, method: str) -> Tensor:
        maps = self.__dict__.get("maps", {})
        if method == "heatmaps" and "gradcam" in maps:
            return maps["gradcam"]
        if method in maps:
            return maps[method]
        raise AttributeError(f"this explanation has no '{method}'; it has {', '.join(maps)}")

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> "Explanation":
        """The explanation of one image of the batch, B = 1."""
        if not -self.scores.shape[1] <= index < self.scores.shape[1]:
            raise IndexError(f"image {index} of an explanation of {self.scores.shape[1]} image(s)")
        index %= self.scores.shape[1]
        maps = {method: values[:, index : index + 1] for method, values in self.maps.items()}
        return Explanation(self.names, self.scores[:, index : index + 1], maps, self.provenance)

    def arrays(self) -> dict[str, np.ndarray]:
        """The maps as float32 arrays, as they are saved: Grad-CAM as `heatmaps`; B = 1 loses its axis."""
        return {
            _ARRAY_NAMES.get(method, method): _without_single_batch(values).float().cpu().numpy()
            for method, values in self.maps.items()
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an NPZ of `arrays()`, scores, names and provenance; never leaves half a file."""
        about = {"names": self.names, "provenance": dict(self.provenance), "batch": self.scores.shape[1]}
        scores = self.scores.detach().float().cpu().numpy()
        write_npz(path, **self.arrays(), scores=scores, about=np.array(json.dumps(about)))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Explanation":
        """Read what `save` wrote. Raises `UserError` for a file that is something else."""
        try:
            with np.load(Path(path), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            about = json.loads(str(arrays.pop("about")))
            scores = torch.from_numpy(arrays.pop("scores"))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(
                f"'{path}' is not a saved explanation ({error}); save one with `.save(path)`"
            ) from error
        methods = {name: method for method, name in _ARRAY_NAMES.items()}
        single = about["batch"] == 1
        maps = {
            methods.get(name, name): torch.from_numpy(values)[:, None] if single else torch.from_numpy(values)
            for name, values in arrays.items()
        }
        return Explanation(tuple(about["names"]), scores, maps, about["provenance"])


def _without_single_batch(values: Tensor) -> Tensor:
    return values.detach()[:, 0] if values.shape[1] == 1 else values.detach()


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the numbers: saywhy, torch, torchvision, timm, Python."""
    found = {"python": platform.python_version()}
    for package in ("saywhy", "torch", "torchvision", "timm", "transformers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
