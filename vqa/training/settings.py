"""What a training of the VQA model depends on besides the data, and the recipe of each kind of data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.training.settings import RunSettings, choice, epochs, rate, setting, share, whole

_TIMES = "how often an epoch asks a question {} (0.5: half of them, others each time)"
MODELS = {
    "evidence": "the trunk's summary of the image",
    "coattention": "every position of its last map (Lu et al. 2016)",
    "pooled": "the mean of its last map (Lu et al. 2015): a control",
}
"""What reads the image, by name."""
ATTENTIONS = ("parallel", "alternating")

_WEIGHT = "weight of a question {}, beside 1 of VQA v1, v2 and COCO-QA"


@dataclass(frozen=True)
class Settings(RunSettings):
    """All that a training depends on besides the data and the trunk; the defaults are the shipped checkpoint's."""

    model: str = choice("evidence", MODELS, "what reads the image")
    attention: str = choice("parallel", ATTENTIONS, "how co-attention attends")
    embedding: int = whole(128, "width of the words' embeddings; of all that co-attention compares")
    hidden: int = whole(128, "width of each LSTM layer")
    joint: int = whole(512, "width of the product of image and question")
    minimum_count: int = whole(4, "occurrences that bring a word into the vocabulary; a person's question counts twice")
    minimum_answers: int = whole(1, "questions that bring an answer into the list that is learned from")
    kept_answers: int = whole(2, "questions whose answer stays in the list in the end")
    dropout: float = share(0.4, "the question's states and the product dropped")
    image_dropout: float = share(0.5, "what the product is told of the image dropped")
    word_dropout: float = share(0.15, "words dropped")
    untold: float = share(0.1, "concepts of which nothing is told")
    label_smoothing: float = share(0.05, "a target's probability spread over all answers")
    head_epochs: int = epochs(16, "the head")
    blind_epochs: int = epochs(8, "the baseline without the image")
    head_rate: float = rate(1e-3, "the head")
    average: float = share(0.998, "the averaged weights kept at each step")
    batch: int = whole(256, "questions in a batch")
    weight_decay: float = setting(0.05, "weight decay, but for what starts at the concepts' names")
    people_times: float = setting(1.5, _TIMES.format("that people wrote, or of COCO-QA"))
    boxes_times: float = setting(0.35, _TIMES.format("derived from boxes, but for counts, which are few"))
    boxes_weight: float = setting(0.5, _WEIGHT.format("derived from boxes"))
    derived_times: float = setting(0.12, _TIMES.format("derived from captions"))
    derived_weight: float = setting(0.35, _WEIGHT.format("derived from captions"))
    captions_times: float = setting(0.2, _TIMES.format("made of captions without photographs"))
    captions_weight: float = setting(0.5, _WEIGHT.format("made of captions without photographs"))
    okvqa_weight: float = setting(0.3, _WEIGHT.format("of OK-VQA"))

    def times(self, source: str, kind: str = "") -> float:
        """How often an epoch asks a question of a kind from a set."""
        if (source, kind) == ("boxes", "count"):
            return 1.0
        times = {"boxes": self.boxes_times, "derived": self.derived_times, "captions": self.captions_times}
        return times.get(source, self.people_times)

    def weight(self, source: str) -> float:
        """What a question of a set counts."""
        weights = {
            "boxes": self.boxes_weight, "derived": self.derived_weight, "captions": self.captions_weight,
            "okvqa": self.okvqa_weight,
        }  # fmt: skip
        return weights.get(source, 1.0)


EASY = Settings(
    embedding=64,
    hidden=96,
    joint=256,
    minimum_count=2,
    dropout=0.2,
    image_dropout=0.2,
    word_dropout=0.0,
    untold=0.0,
    label_smoothing=0.0,
    head_epochs=8,
    people_times=1.0,
    blind_epochs=1,
    head_rate=2e-3,
    weight_decay=0.02,
    average=0.97,
)
"""Settings for easy-VQA's drawings."""

RECIPES: dict[str, dict[str, Any]] = {
    "evidence": {},
    "coattention": {
        "embedding": 192,
        "dropout": 0.5,
        "untold": 0.0,
        "head_epochs": 8,
        "blind_epochs": 3,
        "captions_times": 0.05,
    },  # fmt: skip
    "pooled": {"dropout": 0.5, "untold": 0.0, "head_epochs": 8, "blind_epochs": 3, "captions_times": 0.05},
}
"""By model: what differs from the defaults."""


def settings_for(data: Sequence[str], model: str = "evidence") -> Settings:
    """The recipe for a model and the sets named in `data`: easy-VQA alone has one of its own."""
    if {text.partition(":")[0] for text in data} == {"easyvqa"}:
        return replace(EASY, model=model)
    return Settings(model=model, **RECIPES.get(model, {}))
