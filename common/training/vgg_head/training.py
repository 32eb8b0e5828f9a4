"""Train a head of VGG's kind to say what a classifier says (Hinton et al. 2015): `saywhy train vgg-head`.

The convolutions are the classifier's and stay as they are, so that every photograph passes through them once: what the
head reads and what the classifier says of it are stored, for some views. No label is read. The last epoch is kept: none
is chosen by the photographs held out.

B images, K channels, C classes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import Trunk, load_trunk
from common.networks.vgg_head import BASE, POOLED, hidden_layers, pooled
from common.training.checkpoints import save_checkpoint
from common.training.loop import Stage, parameter_groups, seed_of, show_progress, train
from common.training.run import Run
from common.training.store import FeatureStore, complete_store
from common.training.trunk.corpus import Corpus, Photograph, families
from common.training.vgg_head.settings import Settings
from common.training.views import view


class Views:
    """What is stored of views of photographs: of each channel of the last map its largest values, and its mean."""

    def __init__(self, trunk: Trunk, folder: Path, device: torch.device) -> None:
        self.trunk, self.folder, self.device = trunk, folder, device

    def read(self, photographs: Sequence[Photograph], numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the head reads (n, views, K, 3, 3) and the maps' means (n, views, K), float16."""
        found = [self._family(name, members, numbers) for name, members in families(photographs).items()]
        both = torch.cat(found)
        return both[..., :-1].unflatten(-1, (POOLED, POOLED)), both[..., -1]

    def _family(self, name: str, members: Sequence[Photograph], numbers: Sequence[int]) -> Tensor:
        store = self.open(name, {p.image_id: p.path for p in members}, numbers)
        return torch.from_numpy(store.read(range(len(store))))

    def open(self, name: str, files: dict[str, Path], numbers: Sequence[int]) -> FeatureStore:
        """The store of some views of `files` (name -> file), made or gone on with where it isn't there."""
        key = f"{self.trunk.fingerprint(None, len(numbers))}-{seed_of(POOLED, *numbers):08x}"
        path = self.folder / f"{name}-{key}-{len(files)}.h5"
        progress = show_progress(f"views of {name} images", 960)
        return complete_store(path, files, key, lambda paths: self._encode(paths, numbers), 16, progress)

    @torch.no_grad()
    def _encode(self, paths: Sequence[Path], numbers: Sequence[int]) -> np.ndarray:
        loaded = [(path.name, self.trunk.preprocessing(path)[0]) for path in paths]
        images = torch.stack([view(image, name, number) for name, image in loaded for number in numbers])
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):  # twice as fast, and exact enough
            maps = self.trunk.features(images).float()
        return condensed(maps).unflatten(0, (len(paths), len(numbers))).cpu().half().numpy()


def condensed(maps: Tensor) -> Tensor:
    """Of each channel (B, K, h, w) the nine values that the head reads, and the mean: (B, K, 10)."""
    return torch.cat([pooled(maps).flatten(2), maps.mean((-2, -1))[..., None]], -1)


class Distillation:
    """The head, what its teacher says, and the photographs that it learns from and is watched on."""

    def __init__(self, photographs: Sequence[Photograph], views: Views, settings: Settings) -> None:
        self.settings, self.device = settings, views.device
        last: Any = views.trunk.classifier
        self.last: nn.Linear = last.to(self.device).requires_grad_(False)
        shown = [p for p in photographs if p.split == "train"]
        self.read, self.means = views.read(shown, [0, *range(2, 2 + settings.crops)])
        held = families([p for p in photographs if p.split != "train"])
        self.held = {name: views.read(members, [0]) for name, members in held.items()}
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.head = hidden_layers(self.last.in_features, self.last.out_features).to(self.device)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every photograph once, in a random view, mirrored at an even chance: what the head reads, the means."""
        generator, (count, views) = torch.Generator().manual_seed(seed), self.means.shape[:2]
        picked = torch.randint(0, views, (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        for rows in torch.randperm(count, generator=generator).split(self.settings.batch):
            values, means = self.read[rows, picked[rows]], self.means[rows, picked[rows]]
            values = torch.where(mirrored[rows][:, None, None, None], values.flip(-1), values)
            yield values.to(self.device).float(), means.to(self.device).float()

    def said(self, values: Tensor, dropout: float = 0.0) -> Tensor:
        """The head's logits (B, C) of what it reads."""
        x = values.flatten(1)
        for layer in self.head:
            x = layer(F.dropout(x, dropout) if isinstance(layer, nn.Linear) and dropout else x)
        return x

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The divergence of the head's softened output from the teacher's."""
        values, means = batch
        warm = self.settings.temperature
        ours = (self.said(values, self.settings.dropout) / warm).log_softmax(1)
        theirs = (self.last(means) / warm).log_softmax(1)
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * warm**2, {}

    def stage(self) -> Stage:
        settings = self.settings
        return Stage(
            "head", settings.head_epochs, -(-len(self.means) // settings.batch),
            parameter_groups(self.head, (list(self.head.parameters()), settings.head_rate)),
            self.batches, self.loss, self.watch, weight_decay=settings.weight_decay, average=settings.average,
        )  # fmt: skip

    def watch(self) -> dict[str, float]:
        """Agreement with the teacher on photographs held out, for the log."""
        return {f"{name}_{what}": each[what] for name, each in self.agreement().items() for what in ("top1", "top5")}

    @torch.no_grad()
    def agreement(self) -> dict[str, dict[str, float]]:
        """By family held out, in per cent: how often the head's first class is the teacher's, and how often the
        teacher's first is among the head's five; with the standard error of a share, and n.
        """
        found = {}
        for name, (values, means) in self.held.items():
            rows = zip(values[:, 0].split(256), means[:, 0].split(256), strict=True)
            pairs = [(self.said(v.to(self.device).float()), self.last(m.to(self.device).float())) for v, m in rows]
            ours = torch.cat([a.topk(5).indices for a, _ in pairs])
            same = ours == torch.cat([b.argmax(1) for _, b in pairs])[:, None]
            shares = {"top1": float(same[:, 0].double().mean()), "top5": float(same.any(1).double().mean())}
            errors = {f"{key}_error": (s * (1 - s) / len(ours)) ** 0.5 for key, s in shares.items()}
            found[name] = {**{k: round(100 * v, 2) for k, v in {**shares, **errors}.items()}, "n": len(ours)}
        return found

    def save(self, path: Path) -> Path:
        """The head, and what it is; returns the file of its weights."""
        config = {
            "kind": "vgg head", "version": 1, "base": BASE, "settings": asdict(self.settings),
            "photographs": len(self.means), "agreement": self.agreement(),
        }  # fmt: skip
        return save_checkpoint(path, self.head.state_dict(), config)


def train_vgg_head(
    read: Callable[[int, int | None], Corpus],
    out: str | os.PathLike[str],
    settings: Settings,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the photographs that `read(words, limit)` gives; returns the checkpoint's path in folder `out`.

    `limit` takes only the first photographs of each split; `features` names a folder for the stored views (default:
    in `out`). A run that was interrupted goes on where it stopped.
    """
    photographs, out = read(1, limit).photographs, Path(out)
    views = Views(load_trunk(BASE), Path(features or out / "features"), torch.device(device))
    told = Distillation(photographs, views, settings)
    run = Run(out, {**asdict(settings), "photographs": len(told.means)}, fresh=restart)
    train([told.stage()], told.head, run, settings.seed)
    return told.save(out / "vgg_head")
