"""The result of explaining: maps, scores, the targets' names and where it all came from.

T targets, B images, L words, h,w feature map, H,W image.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import write_npz, write_text
from common.images import ImageLike, Photo, Preprocessing

# Each method's name in files; what is not here goes by its own name.
_ARRAY_NAMES = {"gradcam": "heatmaps"}


@dataclass(frozen=True)
class Explanation:
    """Maps that explain T scores of B images.

    `maps` holds, by method, raw values on the model's device: (T, B, h, w) for Grad-CAM, counterfactual, CAM
    and occlusion, (T, B, 3, H, W) for those with the image's resolution. `scores` is (T, B), `names` names
    the T targets, `provenance` says which model, layer and versions made it.

    Of models that can say how likely a text is without the image, `visual` (T, B) is the log-probability of what each
    target speaks of, given the image, less that given no image in particular, in nats: how much of it comes from the
    picture. Near 0 for 'of', negative for what the image speaks against.

    Of models that read words (a question), `words` are these, and two arrays (T, L) say what each adds to a score,
    in the score's units, positive where a word speaks for it: `word_gradients` is the gradient with respect to
    the word's embedding times the embedding, summed (to first order, what the word adds); `word_drops` is by how
    much the score falls when the word is left out.

    `photo` is the photograph, where one was given (B = 1): a notebook shows it beneath the maps, see `html`.
    """

    names: tuple[str, ...]
    scores: Tensor
    maps: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    word_gradients: Tensor | None = None
    word_drops: Tensor | None = None
    visual: Tensor | None = None
    photo: Photo | None = field(default=None, compare=False, repr=False)

    def __getattr__(self, method: str) -> Tensor:
        maps = self.__dict__.get("maps", {})
        if method == "heatmaps" and "gradcam" in maps:
            return maps["gradcam"]
        if method in maps:
            return maps[method]
        raise AttributeError(f"this explanation has no '{method}'; it has {', '.join(maps)}")

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Explanation:
        """The explanation of one image of the batch, B = 1."""
        if not -self.scores.shape[1] <= index < self.scores.shape[1]:
            raise IndexError(f"image {index} of an explanation of {self.scores.shape[1]} image(s)")
        index %= self.scores.shape[1]
        maps = {method: values[:, index : index + 1] for method, values in self.maps.items()}
        visual = None if self.visual is None else self.visual[:, index : index + 1]
        return replace(self, scores=self.scores[:, index : index + 1], maps=maps, visual=visual)

    def select(self, rows: Sequence[int]) -> Explanation:
        """The explanation of some of the targets, by number."""
        index = torch.tensor(list(rows), device=self.scores.device, dtype=torch.long)
        arrays = {**self._word_arrays(), "visual": self.visual}.items()
        rest: dict[str, Any] = {name: None if each is None else each[index] for name, each in arrays}
        maps = {method: values[index.to(values.device)] for method, values in self.maps.items()}
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, scores=self.scores[index], maps=maps, **rest)

    def _word_arrays(self) -> dict[str, Tensor | None]:
        return {"word_gradients": self.word_gradients, "word_drops": self.word_drops}

    def arrays(self) -> dict[str, np.ndarray]:
        """The maps as float32 arrays, as they are saved: Grad-CAM as `heatmaps`; B = 1 loses its axis.

        Where there are words, `word_gradients` and `word_drops` (T, L) as well.
        """
        single = self.scores.shape[1] == 1
        maps = {_ARRAY_NAMES.get(m, m): values[:, 0] if single else values for m, values in self.maps.items()}
        word = {name: values for name, values in self._word_arrays().items() if values is not None}
        return {name: values.detach().float().cpu().numpy() for name, values in {**maps, **word}.items()}

    def with_photo(self, photo: ImageLike) -> Explanation:
        """The explanation with its photograph, a file's path or an image: of one made of a tensor, or loaded."""
        known = self.provenance.get("preprocessing")
        return replace(self, photo=Photo.of(photo, Preprocessing.from_dict(known) if known else None))

    def html(self, notes: Sequence[str] = (), scale: str = "visual") -> str:
        """The photograph, and the targets to click, which paints their maps over it: HTML that needs nothing else.

        `notes` say of each target what is to be known, by default its score. `scale` 'visual' draws each map as strong
        as its evidence, 'own' all alike, until the reader chooses otherwise. Raises `UserError` for an explanation of
        several images or without a map, and for a photograph that cannot be read any more.
        """
        from common.widget.fragment import fragment

        view = self._view(notes or [f"score {score:.2f}" for score in self.scores[:, 0].tolist()])
        return fragment(replace(view, scale=scale))

    def _view(self, notes: Sequence[str]) -> Any:
        from common.widget.fragment import View

        if self.scores.shape[1] != 1:
            raise UserError(f"an explanation of {self.scores.shape[1]} images; take one of them, such as `.image(0)`")
        maps = {method: values[:, 0].detach().float().cpu() for method, values in self.maps.items() if values.dim() > 3}
        if not maps or not self.names:
            raise UserError(f"nothing to show of {len(self.names)} target(s) and the methods {', '.join(self.maps)}")
        visual = None if self.visual is None else self.visual[:, 0].tolist()
        weights = [] if self.word_gradients is None else self.word_gradients.tolist()
        view = View(self.names, maps, notes, visual=visual, read=self.words, weights=weights)
        return view if self.photo is None else replace(view, photo=self.photo.seen(), alt=self.photo.name)

    def _repr_html_(self) -> str | None:
        try:
            return self.html()
        except UserError:
            return None  # a notebook shows the text instead

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an NPZ of `arrays()`, scores, `visual` where known, names, words and provenance, which `load` reads.

        To a file whose name ends in .html, a page to look at, see `html`. Never leaves half a file.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            from common.widget.fragment import page

            return write_text(path, page(self.html(), self.names[0]))
        about = {
            "names": self.names,
            "words": self.words,
            "provenance": dict(self.provenance),
            "batch": self.scores.shape[1],
        }
        known = {"scores": self.scores, "visual": self.visual}
        tables = {name: table.detach().float().cpu().numpy() for name, table in known.items() if table is not None}
        write_npz(path, **self.arrays(), **tables, about=np.array(json.dumps(about)))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` (or a command) wrote. Raises `UserError` for a file that is something else."""
        try:
            with np.load(Path(path), allow_pickle=False) as archive:
                arrays = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "about"}
                about = json.loads(str(archive["about"]))
            names, batch = tuple(about["names"]), int(about["batch"])
            scores = arrays.pop("scores")
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise UserError(f"'{path}' is not a saved explanation ({error}); save one with `.save(path)`") from error
        rest: dict[str, Any] = {name: arrays.pop(name, None) for name in ("visual", "word_gradients", "word_drops")}
        methods = {name: method for method, name in _ARRAY_NAMES.items()}
        maps = {methods.get(name, name): values[:, None] if batch == 1 else values for name, values in arrays.items()}
        words = tuple(about.get("words", ()))
        return Explanation(names, scores, maps, about["provenance"], words=words, **rest)

    def to_row(self) -> dict[str, Any]:
        """One image's explanation as a row of a table: names, scores, `visual`, word arrays, and its maps as float16.

        `maps` holds for each method `data` (the bytes of little-endian float16), `shape` (T, ...) and `scale`: the
        map is data times scale, a power of two by which no value is lost to float16's range.
        """
        if self.scores.shape[1] != 1:
            raise UserError(f"a row is of one image; this explanation has {self.scores.shape[1]}: take `.image(i)`")
        known = {"scores": self.scores, "visual": self.visual, **self._word_arrays()}
        lists = {name: each.detach().float().flatten().tolist() for name, each in known.items() if each is not None}
        maps = {method: _packed(values[:, 0]) for method, values in self.maps.items()}
        return {"names": list(self.names), **lists, "maps": maps, **({"words": self.words} if self.words else {})}

    @staticmethod
    def from_row(row: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> Explanation:
        """What `to_row` made, such as a row that `saywhy batch` wrote (pyarrow's `to_pylist`, or pandas')."""
        if _absent(row.get("names")):
            raise UserError(f"the row of '{row.get('key')}' has no explanation: {row.get('error') or 'none was asked'}")
        names = tuple(row["names"])
        maps = {method: _unpacked(each)[:, None] for method, each in row["maps"].items() if not _absent(each)}

        def table(name: str) -> Tensor | None:
            values: Any = row.get(name)
            return None if _absent(values) else torch.tensor(list(values)).reshape(len(names), -1)

        gradients, drops = table("word_gradients"), table("word_drops")
        words = () if gradients is None else tuple(row["words"])
        scores = torch.tensor(list(row["scores"])).reshape(-1, 1)
        return Explanation(names, scores, maps, provenance or {}, words, gradients, drops, table("visual"))


def _packed(values: Tensor) -> dict[str, Any]:
    """An array as float16 with the power of two that brings its peak just below float16's largest number."""
    array = values.detach().float().cpu().numpy()
    peak = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    scale = 2.0 ** max(math.frexp(peak)[1] - 15, -126) if peak else 1.0
    return {"data": (array / scale).astype("<f2").tobytes(), "shape": list(array.shape), "scale": scale}


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    array = np.frombuffer(packed["data"], "<f2").astype(np.float32).reshape(tuple(packed["shape"]))
    return torch.from_numpy(array * np.float32(packed["scale"]))


def _absent(value: Any) -> bool:
    """None, or what pandas has for it."""
    return value is None or isinstance(value, float) and math.isnan(value)


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
