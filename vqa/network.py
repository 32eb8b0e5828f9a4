"""The project's own VQA model as `Answerer` needs it, split at the last feature map of its trunk.

Letters: B images, K channels, h,w map, L words, N answers, T targets, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.explainable import Explainable, HookedModel, SplitModel
from common.images import Preprocessing
from common.targets import Target, score_table
from vqa.explain import Answer, Asked, find_answer
from vqa.model import VqaModel, question_words
from vqa.targets import AnswerScore


class LstmVqaNetwork:
    """A `VqaModel` behind an `Answerer`. Its query is the encoded question (B, 4D): it does not depend on the image."""

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

    def read(self, question: str) -> Asked:
        words = question_words(question)
        tokens = torch.tensor([self.module.vocabulary.encode(words)])
        return Asked(question, tuple(words), tokens, tuple(self.module.vocabulary.unknown(words)))

    def encode(self, images: Tensor) -> Tensor:
        return self.module.features(images)

    def best(self, features: Tensor, asked: Asked, top: int) -> list[Answer]:
        scores = self.module.head(features, asked.tokens.to(features.device))[0]
        shares = scores.softmax(0)
        order = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [Answer(self.module.answers[i], float(scores[i]), float(shares[i])) for i in order]

    def targets(self, answers: Sequence[str]) -> tuple[list[Target], Any]:
        numbers = [find_answer(answer, self.module.answer_index) for answer in answers]
        return [AnswerScore(number, self.module.answers[number]) for number in numbers], None

    def explainable(self, layer: str | None, asked: Asked, told: Any) -> tuple[Explainable, Tensor, bool]:
        device = next(self.module.parameters()).device
        with torch.no_grad():
            query = self.module.question(asked.tokens.to(device))
        if layer in (None, self.layer):
            return _Seam(self.module, self.layer), query, True
        return (
            HookedModel(
                self.module,
                layer,
                forward=lambda images, q: _answer(self.module, self.module.features(images), q),
            ),
            query,
            False,
        )

    def words(
        self, features: Tensor, asked: Asked, told: Any, targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        """Question attribution (T, L), twice: gradient times embedding, and leaving out each word.

        One pass of the question encoder for all: the question once for each target, so that one backward pass gives
        every target's gradient, and once without each of its words.
        """
        model, T, L = self.module, len(targets), len(asked.words)
        tokens = asked.tokens.to(features.device)
        with torch.enable_grad():
            embedded = model.question.embedding(tokens).detach().expand(T, L, -1).clone().requires_grad_()
            shorter, mask = _left_out(model.question.embedding(tokens).detach())
            rows = torch.cat([embedded, shorter])
            full = torch.ones(T, L, dtype=torch.bool, device=rows.device)
            encoded = model.question.run(rows, torch.cat([full, mask]))
            with torch.no_grad():
                seen = model.image(features.detach())
            scores = model.answer_scores(seen, encoded)
            own = score_table(targets, scores[:T], T).diagonal()
            (gradient,) = torch.autograd.grad(own.sum(), embedded)
        without = score_table(targets, scores[T:].detach(), L)
        return (gradient * embedded).sum(-1).detach(), own.detach()[:, None] - without


def _left_out(embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded words (1, L, D) -> L questions that each lack one word (L, L, D), padded at the end, and their masks."""
    L = embedded.shape[1]
    keep = ~torch.eye(L, dtype=torch.bool, device=embedded.device)
    rows = embedded.expand(L, L, -1)[keep].view(L, L - 1, embedded.shape[2])
    padded = torch.cat([rows, torch.zeros_like(embedded[:, :1]).expand(L, -1, -1)], 1)
    mask = torch.ones(L, L, dtype=torch.bool, device=embedded.device)
    mask[:, -1] = False
    return padded, mask


def _answer(model: VqaModel, features: Tensor, encoded: Tensor) -> Tensor:
    return model.answer_scores(model.image(features), encoded)


class _Seam(SplitModel):
    def __init__(self, module: VqaModel, layer: str) -> None:
        self.network, self.layer = module, layer
        self.module = module

    def features(self, images: Tensor) -> Tensor:
        return self.module.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> Tensor:
        if query is None:
            raise ValueError("a VQA model explains a question; give its encoding (B, 4D) as the query")
        return _answer(self.module, features, query)
