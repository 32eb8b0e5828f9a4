"""The project's own VQA model as `Answerer` needs it, split at the last feature map of its trunk.

Letters: B images, K channels, h,w map, L words, N answers, T targets, D hidden, X embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import formulas
from common.explainable import Explainable, HookedModel, SplitModel
from common.images import Preprocessing
from common.targets import Target, score_table
from vqa.answerer import Answer, Asked, find_answer
from vqa.model import VqaModel, question_words
from vqa.reading import Reader, Reading
from vqa.targets import AnswerScore


class LstmVqaNetwork:
    """A `VqaModel` behind an `Answerer`. Its query is the encoded question (B, 4D+X), whatever the image."""

    def __init__(
        self,
        module: VqaModel,
        preprocessing: Preprocessing,
        name: str = "vqa",
        source: str = "the caller's",
        layer: str = "trunk",
    ):
        self.module, self.preprocessing, self.name, self.source, self.layer = (
            module,
            preprocessing,
            name,
            source,
            layer,
        )
        self._look: tuple[tuple, Look] | None = None
        self._reader: tuple[tuple, Reader] | None = None
        self._reading: tuple[Asked, Reading] | None = None
        self._heard: Heard | None = None

    def read(self, question: str) -> Asked:
        words = question_words(question)
        tokens = torch.tensor([self.module.vocabulary.encode(words)])
        return Asked(question, tuple(words), tokens, tuple(self.module.vocabulary.unknown(words)))

    def encode(self, images: Tensor) -> Tensor:
        return self.module.features(images)

    def best(self, features: Tensor, asked: Asked, top: int) -> list[Answer]:
        scores = self.heard(features, asked).output.detach()[0]
        shares = scores.softmax(0)
        order = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [Answer(self.module.answers[i], float(scores[i]), float(shares[i])) for i in order]

    def look(self, features: Tensor) -> Look:
        """What the head sees of a map (B, K, h, w); kept for the answer and explanations of the same map."""
        stamp = (features, *_stamp(self.module.image))
        if self._look is None or not _same(self._look[0], stamp):
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                summary = self.module.image.summary(leaf)
                self._look = stamp, Look(leaf, summary, self.module.image.encode(summary))
        return self._look[1]

    def heard(self, features: Tensor, asked: Asked) -> Heard:
        """The answer scores of a map and a question, with what they were made of; kept as `look` and `reading` are."""
        look, reading = self.look(features), self.reading(asked)
        if self._heard is None or self._heard.look is not look or self._heard.reading is not reading:
            with torch.enable_grad():
                whole = reading.whole.detach().requires_grad_()
                self._heard = Heard(look, reading, whole, self.module.answer_scores(look.joint, whole))
        return self._heard

    def reading(self, asked: Asked) -> Reading:
        """The question, read once for its answer and all that is explained of it."""
        device = next(self.module.parameters()).device
        stamp = (device, *_stamp(self.module.question))
        if self._reader is None or not _same(self._reader[0], stamp):
            self._reader, self._reading = (stamp, Reader(self.module.question)), None
        if self._reading is None or self._reading[0] is not asked:
            self._reading = asked, self._reader[1].read(asked.tokens[0].to(device))
        return self._reading[1]

    def targets(self, answers: Sequence[str]) -> tuple[list[Target], Any]:
        numbers = [find_answer(answer, self.module.answer_index) for answer in answers]
        return [AnswerScore(number, self.module.answers[number]) for number in numbers], None

    def explainable(self, layer: str | None, asked: Asked, told: Any) -> tuple[Explainable, Tensor, bool]:
        query = self.reading(asked).whole
        if layer in (None, self.layer):
            return _Seam(self, asked), query, True
        forward = self._forward
        return HookedModel(self.module, layer, forward=forward), query, False

    def _forward(self, images: Tensor, query: Tensor) -> Tensor:
        return self.module.answer_scores(self.module.image(self.module.features(images)), query)

    def words(
        self, features: Tensor, asked: Asked, told: Any, targets: Sequence[Target], explained: Explainable
    ) -> tuple[Tensor, Tensor]:
        """Question attribution (T, L), twice: gradient times embedding, and leaving out each word."""
        heard = self.heard(features, asked)
        own = score_table(targets, heard.output, 1)
        slopes = explained.slopes if isinstance(explained, _Seam) else None
        if slopes is None:
            slopes = heard.slopes(own)[1]
        with torch.no_grad():
            rest = self.module.answer_scores(heard.look.joint, heard.reading.shorter)
        without = score_table(targets, rest, len(asked.words))
        assert self._reader is not None  # `reading` made it
        return self._reader[1].words_gradients(heard.reading, slopes), own.detach() - without


@dataclass(frozen=True)
class Look:
    """A map as the head sees it: the map (B, K, h, w), a leaf; its summary (B, K+E); and that encoded (B, joint).

    The graph from one to the other is kept, for every explanation of the same image.
    """

    leaf: Tensor
    summary: Tensor
    joint: Tensor


@dataclass(frozen=True)
class Heard:
    """The answer scores `output` (B, N), with a graph from the image's summary and the encoded question `whole`."""

    look: Look
    reading: Reading
    whole: Tensor
    output: Tensor

    def slopes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """d scores (T, 1) / d the image's summary (T, 1, K+E) and / d the encoded question (T, 4D+X), in one pass."""
        rows = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)[:, :, None]
        inputs = (self.look.summary, self.whole)
        image, question = torch.autograd.grad(scores, inputs, rows, retain_graph=True, is_grads_batched=True)
        return image, question[:, 0]


def _stamp(module: nn.Module) -> tuple:
    """What tells whether a module's weights are still those that they were."""
    return tuple(each for p in module.parameters() for each in (p, p.data_ptr(), p._version))


def _same(one: tuple, other: tuple) -> bool:
    return len(one) == len(other) and all(
        a is b or (isinstance(a, (int, torch.device)) and a == b) for a, b in zip(one, other, strict=True)
    )


class _Seam(SplitModel):
    """The model split at its own map, for the explanation of one question; `slopes` are d targets / d the encoded
    question (T, 4D+X), once `importance` has run."""

    def __init__(self, network: LstmVqaNetwork, asked: Asked) -> None:
        self.whole, self.layer, self.asked = network, network.layer, asked
        self.network: VqaModel = network.module
        self.heard: Heard | None = None
        self.slopes: Tensor | None = None

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.network.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> Tensor:
        if query is None:
            raise ValueError("a VQA model explains a question; give its encoding (B, 4D+X) as the query")
        return self.network.answer_scores(self.network.image(features), query)

    def split(self, images: Tensor, query: Any = None, features: Tensor | None = None) -> tuple[Tensor, Any]:
        if features is None or len(features) != 1:
            return super().split(images, query, features)
        self.heard = self.whole.heard(features, self.asked)
        return self.heard.look.leaf, self.heard.output

    def importance(self, scores: Tensor, A: Tensor, output: Any) -> Tensor:
        """As `common.formulas.importance`, by way of the map's summary: the map itself is left out."""
        if self.heard is None or self.heard.look.leaf is not A:
            return formulas.importance(scores, A)
        image, self.slopes = self.heard.slopes(scores)
        return self.network.image.importance(image, A[0, 0].numel())
