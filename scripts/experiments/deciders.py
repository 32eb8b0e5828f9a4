"""What figure 9 asks of a model, for all three tasks: what it says of a photograph, and which units counted.

K units, h,w feature map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.state import untouched
from data.words.english import singular
from scripts.experiments.lab import Lab

QUESTION = "what is in the picture?"


@dataclass(frozen=True)
class Decision:
    """What was said (`context` says of what kind it is), the units' importance (K,) and the map A (K, h, w)."""

    context: str
    said: str
    alpha: Tensor
    A: Tensor


@dataclass(frozen=True)
class Decider:
    """A model as figure 9 needs it: its map (1, K, h, w) of a photograph, and its decisions about it.

    `mark` tells its weights from others; `decide` takes the nouns that are worth a word of a caption.
    """

    name: str
    layer: str
    mark: str
    features: Callable[[Path], Tensor]
    decide: Callable[[Path, Collection[str]], list[Decision]]


def classifier(lab: Lab) -> Decider:
    """The classifier: its likeliest class."""
    model = lab.classifier

    def features(path: Path) -> Tensor:
        with untouched(model.network.module):
            return model.explainable.features(model.images(path)).float().cpu()

    def decide(path: Path, nouns: Collection[str]) -> list[Decision]:
        found = model.explain(path, methods=("importance",))
        (best,) = model.predict(path, top=1)
        alpha = found.maps["importance"][0, 0].cpu()
        return [Decision("the class", best.label.split(",")[0], alpha, features(path)[0])]

    return Decider(lab.model, model.layer, lab.model, features, decide)


def captioner(lab: Lab) -> Decider:
    """The captioner: its whole caption, and the first word of it that names one of the nouns."""
    model = lab.speaker("captioner")

    def features(path: Path) -> Tensor:
        return model.encode(path).features.float().cpu()

    def decide(path: Path, nouns: Collection[str]) -> list[Decision]:
        seen = model.encode(path)
        caption = model.caption(seen)
        alpha = model.explain(seen, caption, methods=("importance",)).maps["importance"][:, 0].cpu()
        A = seen.features[0].float().cpu()
        decisions = [Decision("the caption", caption.text, alpha[0], A)]
        for place, word in enumerate(caption.words):
            if singular(word) in nouns:
                return [*decisions, Decision(f"a word of '{caption.text}'", word, alpha[1 + place], A)]
        return decisions

    return Decider("captioner", _layer(model), lab.mark("captioner"), features, decide)


def answerer(lab: Lab) -> Decider:
    """The VQA model: its answer to one question."""
    model = lab.speaker("VQA model")

    def features(path: Path) -> Tensor:
        return model.encode(path).features.float().cpu()

    def decide(path: Path, nouns: Collection[str]) -> list[Decision]:
        seen = model.encode(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # words that the model does not know
            answer = model.answer(seen, QUESTION, top=1).text
            alpha = model.explain(seen, QUESTION, answer, methods=("importance",)).maps["importance"]
        A = seen.features[0].float().cpu()
        return [Decision(f"the answer to '{QUESTION}'", answer, alpha[0, 0].cpu(), A)]

    return Decider("VQA model", _layer(model), lab.mark("VQA model"), features, decide)


def _layer(model: Any) -> str:
    return str(model.layer or model.network.layer)


DECIDERS: dict[str, Callable[[Lab], Decider]] = {
    "classifier": classifier,
    "captioner": captioner,
    "VQA model": answerer,
}
