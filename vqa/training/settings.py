"""What a training of the VQA model depends on besides the data, and the recipe of each kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.networks.trunk import SMALL
from common.training.settings import TrainingSettings


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """All that a training depends on besides the data; the defaults are the shipped checkpoint's."""

    trunk: str = "efficientnet_lite2"
    views: int = 2
    hidden: int = 128
    embedding: int = 128
    joint: int = 512
    word_dropout: float = 0.2
    image_dropout: float = 0.5  # share of the image's normalised mean that is dropped
    feature_dropout: float = 0.1
    minimum_answers: int = 2
    per_image: int = 5
    human_times: float = 3.0  # how often an epoch shows an image with questions that people wrote
    derived_times: float = 0.5  # and one with derived questions only
    derived_weight: float = 0.35  # weight of a derived question, beside 1
    label_smoothing: float = 0.05
    absent_weight: float = 0.2  # of a word not known to be true, where an image has no captions
    evidence_words: int = 1000
    evidence_epochs: int = 2
    head_epochs: int = 12
    answer_epochs: int = 3
    blind_epochs: int = 6
    head_rate: float = 1e-3
    answer_head_rate: float = 3e-4
    answer_trunk_rate: float = 1e-4
    evidence_weight: float = 0.02
    weight_decay: float = 0.1
    average: float = 0.99  # decay of the moving average of the weights
    head_batch: int = 48  # images in a batch of the head stage

    least: ClassVar = {
        **TrainingSettings.least,
        **dict.fromkeys(("embedding", "joint", "minimum_answers", "per_image", "head_batch"), 1),
    }
    shares: ClassVar = (*TrainingSettings.shares, "image_dropout")


EASY = Settings(
    trunk=SMALL,
    views=1,
    evidence_words=0,
    evidence_epochs=0,
    embedding=64,
    hidden=96,
    joint=256,
    per_image=6,
    human_times=1.0,
    dropout=0.2,
    image_dropout=0.3,
    word_dropout=0.0,
    feature_dropout=0.0,
    label_smoothing=0.0,
    answer_epochs=14,
    head_epochs=0,
    blind_epochs=1,
    answer_trunk_rate=2e-3,
    answer_head_rate=2e-3,
    weight_decay=0.02,
    average=0.97,
)
"""Settings for easy-VQA, whose own small CNN is trained from nothing."""


def settings_for(data: Sequence[str]) -> Settings:
    """The recipe for the sets named in `data`: easy-VQA alone has one of its own."""
    return EASY if {text.partition(":")[0] for text in data} == {"easyvqa"} else Settings()
