"""Models that answer questions, as `Answerer` needs them, and the project's own: a CNN, an LSTM, no attention.

Letters: B images, K channels, h,w map, L words, N answers, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from common import request
from common.errors import UserError
from common.explainable import Explainable, HookedModel, SplitModel
from common.formulas import gradients
from common.gradcam import Known
from common.images import Preprocessing
from common.request import Encoded, Request
from common.targets import score_table
from common.text import Text, padded
from data.words.vocabulary import PAD
from vqa.model import AnswerOutput, VqaModel
from vqa.question import question_words
from vqa.request import find_answer, numbered_request


@dataclass(frozen=True)
class Answer:
    """An answer: its score before the softmax, its probability among all answers, and the next best ones.

    `read` are its words as tokens, of models that write their answers: their score is the log-probability.
    """

    text: str
    score: float
    probability: float
    runners_up: tuple[Answer, ...] = ()
    read: Text | None = None

    def __str__(self) -> str:
        return self.text


class AnswerNetwork(request.Network, Protocol):
    """What `Answerer` needs of a model that answers questions, besides what every facade needs.

    A query is what the network makes of questions: their tokens (B, L), padded with 0, and what it has to be told
    besides.
    """

    def read(self, question: str) -> Text: ...

    def answers(self, encoded: Encoded, questions: Sequence[Text], top: int) -> list[list[Answer]]:
        """The likeliest answers to a question about each image, best first; `encoded` has the images' states."""
        ...

    def request(self, questions: Sequence[Text], answers: Sequence[Sequence[str]]) -> Request:
        """The query of a question about each image, and targets for answers by name; as many for each image."""
        ...

    def states(self, features: Tensor) -> Tensor:
        """What the head reads of the images (B, ...), made of their features once for any number of queries."""
        ...

    def head(self, states: Any, query: Any) -> Any:
        """The output for queries about these images; one image may be asked several."""
        ...

    def attribute(self, encoded: Encoded, request: Request) -> tuple[Known | None, Tensor]:
        """What each token of the queries adds to the targets' scores, to first order (T, B, M): the gradient times the
        embedding. And what was found on the way there of the map at `layer`, where the model reads it apart."""
        ...


class LstmNetwork:
    """A `VqaModel` behind an `Answerer`; a query is the tokens (B, L).

    What its head reads of images, the `states`, is the trunk's summary (B, E+C). `baselines` are the figures that its
    checkpoint has of models that don't look, by name and set.
    """

    def __init__(
        self,
        module: VqaModel,
        name: str = "vqa",
        source: str = "the caller's",
        baselines: Mapping[str, Any] | None = None,
    ):
        self.module, self.name, self.source, self.baselines = module, name, source, baselines or {}
        self.layer = f"trunk.{module.trunk.layer}"

    @property
    def preprocessing(self) -> Preprocessing:
        return self.module.trunk.preprocessing

    @property
    def fingerprint(self) -> str:
        return self.module.trunk.fingerprint

    def read(self, question: str) -> Text:
        words = question_words(question)
        known = self.module.vocabulary
        return Text.of(words, known.encode(words), known.unknown(words), question)

    def encode(self, images: Tensor) -> Tensor:
        return self.module.features(images)

    def answers(self, encoded: Encoded, questions: Sequence[Text], top: int) -> list[list[Answer]]:
        tokens = padded([question.tokens for question in questions], encoded.pixels.device)
        return best_answers(self.head(encoded.states, tokens), self.module.answers, top)

    def request(self, questions: Sequence[Text], answers: Sequence[Sequence[str]]) -> Request:
        numbers = [[find_answer(answer, self.module.answer_index) for answer in each] for each in answers]
        query = padded([question.tokens for question in questions])
        return numbered_request(query, numbers, self.module.answers)

    def states(self, features: Tensor) -> Tensor:
        return self.module.trunk.summary(features)

    def head(self, states: Any, query: Tensor) -> Tensor:
        return self.module.answer_scores(states, self.module.question(query))

    def attribute(self, encoded: Encoded, request: Request) -> tuple[Known | None, Tensor]:
        """One backward pass of all targets' scores, each from rows of its own, to what is seen and to the words."""
        module, tokens, T, B = self.module, request.query, len(request.targets), len(encoded)
        assert encoded.states is not None  # an `Answerer` has them made
        with torch.enable_grad():
            summary = encoded.states.detach().repeat(T, 1).requires_grad_()
            words = module.question.vectors(tokens).detach().repeat(T, 1, 1).requires_grad_()
            asked = module.question.encode(words, (tokens != PAD).repeat(T, 1))
            outputs = module.answer_scores(summary, asked).unflatten(0, (T, B))
            scores = torch.cat([score_table([target], outputs[t], B) for t, target in enumerate(request.targets)])
        of_summary, of_words = torch.autograd.grad(scores.sum(), (summary, words))
        alpha = module.trunk.evidence.importance(of_summary.unflatten(0, (T, B)), encoded.features)
        added = (of_words * words.detach()).sum(-1).unflatten(0, (T, B))
        return Known(scores.detach(), alpha.detach(), encoded.features), added

    def explainable(self, layer: str | None) -> Explainable:
        if layer in (None, self.layer):
            return LstmSplit(self.module, self.layer)
        return HookedModel(self.module, layer)


class LstmSplit(SplitModel):
    """A `VqaModel` split at its own map; the query is the questions' tokens (B, L)."""

    def __init__(self, network: VqaModel, layer: str) -> None:
        self.network: VqaModel = network
        self.layer = layer

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.network.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> AnswerOutput:
        if query is None:
            raise UserError("a VQA model explains an answer to a question; give its tokens (B, L) as the query")
        return self.network.output(features, query)

    def importance(self, scores: Tensor, A: Tensor, output: AnswerOutput) -> Tensor:
        """Eq. 1 by way of what the head saw of the images: the map itself is left out of the backward pass."""
        return self.network.trunk.evidence.importance(gradients(scores, output.summary), A)


def best_answers(scores: Tensor, names: Sequence[str], top: int) -> list[list[Answer]]:
    """The `top` best of the answers `names`, best first, for each row of scores (B, N), with softmax shares."""
    shares = scores.softmax(1)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    return [
        [Answer(names[i], float(scores[row, i]), float(shares[row, i])) for i in best]
        for row, best in enumerate(order.tolist())
    ]
