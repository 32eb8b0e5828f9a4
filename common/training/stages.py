"""What the trainings of all tasks have in common: a trunk whose late blocks are trained together with a head.

Letters: B images, C channels that the front gives, K the map's, h,w map.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import load_trunk
from common.training.loop import seed_everything
from common.training.settings import TrainingSettings
from common.training.views import Stores

S = TypeVar("S", bound=TrainingSettings)
M = TypeVar("M", bound=nn.Module)


class Training(ABC, Generic[S, M]):
    """A trunk, a model on it, and where the trunk's stored features are; a task adds its head, its data and its losses.

    The trunk's front stays as it is, so its output is stored once for each image (`stores`); the `tail` is trained.
    """

    def __init__(self, settings: S, stores: str | os.PathLike[str], device: str | torch.device):
        self.settings, self.device = settings, torch.device(device)
        seed_everything(settings.seed, settings.trunk)
        self.trunk = load_trunk(settings.trunk)
        self.model = self.new_model()
        self.tail = self.trunk.split(settings.train_blocks)[1]
        self.trunk.module.requires_grad_(False)
        self.stores = Stores(self.trunk, settings.train_blocks, Path(stores), self.device)

    @abstractmethod
    def build(self) -> M:
        """A model on the trunk, its head with random weights."""

    def new_model(self) -> M:
        """As `build`, from the settings' seed and on the device."""
        seed_everything(self.settings.seed)
        return self.build().to(memory_format=torch.channels_last).to(self.device)  # type: ignore[call-overload]

    def mode(self) -> None:
        """Train mode; a pretrained trunk keeps its batch norms as they were trained on ImageNet."""
        self.model.train()
        if self.trunk.pretrained:
            self.trunk.module.eval()

    def maps(self, stored: Tensor) -> Tensor:
        """Stored features (B,C,..) -> the last map (B,K,h,w), channels of it dropped in training."""
        return F.dropout2d(self.tail(stored), self.settings.feature_dropout, self.model.training)

    def config(self, kind: str, **more: Any) -> dict[str, Any]:
        """What the checkpoint's JSON says: everything that loading it needs, settings and figures."""
        return {
            "kind": kind,
            "version": 1,
            "trunk": self.settings.trunk,
            "trunk_source": self.trunk.source,
            "preprocessing": self.trunk.preprocessing.to_dict(),
            "hidden": self.settings.hidden,
            "settings": asdict(self.settings),
            **more,
        }
