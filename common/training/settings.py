"""The settings that the trainings of the captioner and of the VQA model have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from common.errors import UserError


@dataclass(frozen=True)
class TrainingSettings:
    """What both trainings depend on besides the data; each task's own settings add to it and give its defaults.

    Raises `UserError` for a value that is out of range, naming it: `least` holds the smallest whole numbers
    that count, epochs are whole and not negative, rates positive, and what is a share is in [0, 1).
    """

    trunk: str = "efficientnet_lite0"
    train_blocks: int | None = 5  # train the trunk from this block on; None: not at all
    views: int = 1
    hidden: int = 256
    evidence_words: int = 0
    minimum_count: int = 2
    batch: int = 32
    dropout: float = 0.5
    word_dropout: float = 0.1
    feature_dropout: float = 0.2
    label_smoothing: float = 0.1
    evidence_epochs: int = 0
    trunk_rate: float = 2e-4
    evidence_weight: float = 0.02
    weight_decay: float = 0.01
    seed: int = 1

    least: ClassVar[Mapping[str, int]] = {
        "views": 1, "hidden": 1, "evidence_words": 0, "minimum_count": 1, "batch": 1
    }  # fmt: skip
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout", "feature_dropout", "label_smoothing")

    def __post_init__(self) -> None:
        for name, low in self.least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise UserError(f"{name} is a whole number above {low - 1}; received {value}")
        for name in self.shares:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is in [0, 1); received {getattr(self, name)}")
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_epochs") and (not isinstance(value, int) or value < 0):
                raise UserError(f"{name} is a whole number, 0 to leave the stage out; received {value}")
            if name.endswith("_rate") and not value > 0:
                raise UserError(f"{name} is a learning rate above 0; received {value}")
