"""Models that answer questions, as `Answerer` needs them, and the project's own: without attention, and with it.

Letters: B images, K channels, h,w map, L words, N answers, S levels of attention, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

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
from vqa.attribution import token_gradients
from vqa.coattention import LEVELS, CoattentionModel
from vqa.model import AnswerOutput, VqaModel
from vqa.pooled import PooledModel
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


@dataclass(frozen=True)
class Attention:
    """Where a model with attention looks: at each of its `levels` the `image`'s shares (S, h, w), which sum to 1, and
    those of the question's words (S, L). The same for every answer: not what speaks for one of them."""

    levels: tuple[str, ...]
    image: Tensor
    words: tuple[str, ...]
    of_words: Tensor


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

    def attribute(self, encoded: Encoded, request: Request) -> tuple[Known | list[Known] | None, Tensor]:
        """What each token of the queries adds to the targets' scores, to first order (T, B, M): the gradient times the
        embedding. And what was found on the way there of the map at `layer`, if anything: of each image where they
        are taken one by one."""
        ...


class OwnNetwork:
    """A model of the project behind an `Answerer`; a query is the tokens (B, L).

    `baselines` are the figures that its checkpoint has of models that don't look, by name and set.
    """

    embedding = "question.embedding"  # what `token_gradients` looks at

    def __init__(
        self, module: Any, name: str = "vqa", source: str = "the caller's", baselines: Mapping[str, Any] | None = None
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
        raise NotImplementedError

    def head(self, states: Any, query: Tensor) -> Tensor:
        return self.module.answer_scores(states, self.module.question(query))

    def explainable(self, layer: str | None) -> Explainable:
        if layer in (None, self.layer):
            return self.split()
        return HookedModel(self.module, layer)

    def attribute(self, encoded: Encoded, request: Request) -> tuple[Known | None, Tensor]:
        return None, token_gradients(self, encoded.states, request)

    def split(self) -> SplitModel:
        """The model split at its own map."""
        return OwnSplit(self.module, self.layer)


class LstmNetwork(OwnNetwork):
    """A `VqaModel` behind an `Answerer`. Its head reads the trunk's summary: the `states` are (B, E+C)."""

    module: VqaModel

    def states(self, features: Tensor) -> Tensor:
        return self.module.trunk.summary(features)

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

    def split(self) -> SplitModel:
        return LstmSplit(self.module, self.layer)


class CoattentionNetwork(OwnNetwork):
    """A `CoattentionModel` behind an `Answerer`; its head reads the map itself: the `states` are (B, K, h, w)."""

    module: CoattentionModel

    def states(self, features: Tensor) -> Tensor:
        return features

    def attention(self, encoded: Encoded, questions: Sequence[Text]) -> list[Attention]:
        """Where each question makes the model look, and which of its words it listens to."""
        tokens = padded([question.tokens for question in questions], encoded.pixels.device)
        found = self.module.output(encoded.states, tokens)
        rows = zip(questions, found.image_attention, found.word_attention, strict=True)
        return [Attention(LEVELS, image, asked.words, words[:, : len(asked.words)]) for asked, image, words in rows]


class PooledNetwork(OwnNetwork):
    """A `PooledModel` behind an `Answerer`; its head reads the map's mean: the `states` are (B, K)."""

    module: PooledModel

    def states(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def own_network(module: VqaModel | CoattentionModel | PooledModel, **about: Any) -> OwnNetwork:
    """The network around a model of the project; see `OwnNetwork`."""
    kinds: dict[type, type[OwnNetwork]] = {CoattentionModel: CoattentionNetwork, PooledModel: PooledNetwork}
    return kinds.get(type(module), LstmNetwork)(module, **about)


class OwnSplit(SplitModel):
    """A model of the project split at its own map; the query is the questions' tokens (B, L)."""

    network: Any

    def __init__(self, network: nn.Module, layer: str) -> None:
        self.network, self.layer = network, layer

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.network.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> Any:
        if query is None:
            raise UserError("a VQA model explains an answer to a question; give its tokens (B, L) as the query")
        return self.network.output(features, query)


class LstmSplit(OwnSplit):
    """A `VqaModel` split at its own map."""

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
