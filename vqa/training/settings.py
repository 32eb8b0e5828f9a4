"""What a training of the VQA model depends on besides the data, and the recipe of each kind of data."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.training.settings import TrainingSettings, epochs, rate, setting, share, whole


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """All that a training depends on besides the data; the defaults are the shipped checkpoint's."""

    trunk: str = "efficientnet_lite2"
    views: int = 2
    hidden: int = 128
    embedding: int = whole(128, "width of the words' embeddings")
    joint: int = whole(512, "width of the product of image and question")
    word_dropout: float = 0.2
    image_dropout: float = share(0.5, "the image's normalised mean dropped")
    feature_dropout: float = 0.1
    minimum_answers: int = whole(2, "occurrences that bring an answer into the list")
    per_image: int = whole(5, "questions of each image in an epoch")
    human_times: float = setting(3.0, "how often an epoch shows an image with questions that people wrote")
    derived_times: float = setting(0.5, "how often it shows one with derived questions only (0.5: half of them)")
    derived_weight: float = setting(0.35, "weight of a derived question, beside 1 of one that people wrote")
    label_smoothing: float = 0.05
    absent_weight: float = setting(0.2, "weight of a word not known to be true, where an image has no captions")
    evidence_words: int = 1000
    evidence_epochs: int = 2
    head_epochs: int = epochs(12, "the head stage, with the trunk as it is")
    answer_epochs: int = epochs(3, "the answer stage, which trains trunk and head")
    blind_epochs: int = epochs(6, "the baseline without the image")
    head_rate: float = rate(1e-3, "the head in its own stage")
    answer_head_rate: float = rate(3e-4, "the head in the answer stage")
    answer_trunk_rate: float = rate(1e-4, "the trunk in the answer stage")
    evidence_weight: float = 0.02
    weight_decay: float = 0.1
    average: float = share(0.99, "the averaged weights kept at each step")
    head_batch: int = whole(48, "images in a batch of the head stage")


EASY = Settings(
    trunk="small_cnn",
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
