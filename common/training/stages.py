"""What the trainings of all tasks have in common: a trunk whose late blocks are trained together with a head.

Letters: B images, C channels that the front gives, K the map's, h,w map.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import load_trunk
from common.training.loop import Stage, parameter_groups, seed_everything
from common.training.settings import TrainingSettings
from common.training.views import Stores


class Training(ABC):
    """A trunk, a model on it, and batches of a corpus; a task adds its head and the losses of its stages.

    The trunk's front stays as it is, so its output is stored once for each image; the `tail` is trained.
    """

    model: Any

    def __init__(
        self,
        corpus: Any,
        settings: TrainingSettings,
        stores: str | os.PathLike[str],
        device: str | torch.device = "cpu",
    ):
        """`stores` is the folder of the stored features."""
        self.corpus, self.settings, self.device = corpus, settings, torch.device(device)
        seed_everything(settings.seed, settings.trunk)
        self.trunk = load_trunk(settings.trunk)
        self.model = self.new_model()
        self.tail = self.trunk.split(settings.train_blocks)[1]
        self.trunk.module.requires_grad_(False)
        made = Stores(self.trunk, settings.train_blocks, Path(stores), self.device)
        self.train_loader, self.val_loader = (corpus.loader(split, made, settings) for split in ("train", "val"))
        self.start_evidence()

    @abstractmethod
    def build(self) -> nn.Module:
        """A model on the trunk, its head with random weights."""

    @abstractmethod
    def start_evidence(self) -> None:
        """Set the model's evidence for words to what is known before training."""

    def new_model(self) -> Any:
        """As `build`, from the settings' seed and on the device."""
        seed_everything(self.settings.seed)
        return self.build().to(memory_format=torch.channels_last).to(self.device)  # type: ignore[call-overload]

    def mode(self) -> None:
        """Train mode; a pretrained trunk keeps its batch norms as they were trained on ImageNet."""
        self.model.train()
        if self.trunk.pretrained:
            self.trunk.module.eval()

    def stage(
        self,
        name: str,
        epochs: int,
        loss: Callable[[Any], tuple[Tensor, dict[str, float]]],
        *groups: tuple[list[nn.Parameter], float],
        **more: Any,
    ) -> Stage:
        """A stage that trains `groups` of parameters, each at its rate; `more` are further fields of `Stage`."""
        parameters = parameter_groups(self.model, *groups)
        decay = self.settings.weight_decay
        return Stage(name, epochs, parameters=parameters, loss=loss, weight_decay=decay, mode=self.mode, **more)

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
