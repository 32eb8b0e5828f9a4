"""Models that write captions, as `Captioner` needs them, and the project's own: a CNN, an LSTM, no attention.

Letters: S sequences, B images, K channels, h,w map, L tokens, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from captioning import decoding
from captioning.model import CaptionModel, CaptionOutput
from common import request
from common.errors import UserError
from common.explainable import Explainable, HookedModel, SplitModel
from common.formulas import gradients
from common.images import Preprocessing
from common.text import Text, TextOutput
from data.words.vocabulary import END, tokenize


@dataclass(frozen=True)
class Caption:
    """A caption and how likely the model finds it: words, the log-probability of each, and further captions.

    `total` is their sum with the end token's; `read` the words as tokens; `alternatives` are best first. `visual` is
    each word's log-probability less that without the image, in nats; empty where the model can't say.
    """

    words: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    total: float
    read: Text
    alternatives: tuple[Caption, ...] = ()
    visual: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def of(text: Text, log_probs: Tensor) -> Caption:
        """A text with the log-probabilities (L,) of its tokens and its end."""
        return Caption(text.words, _of_words(text, log_probs), float(log_probs.sum()), text)

    def beside(self, unseen: Tensor) -> Caption:
        """The caption with `visual`, given its tokens' log-probabilities (L,) without the image."""
        without = _of_words(self.read, unseen)
        pairs = zip(self.log_probabilities, without, strict=True)
        return replace(self, visual=tuple(seen - other for seen, other in pairs))


def _of_words(text: Text, log_probs: Tensor) -> tuple[float, ...]:
    """The log-probability of each word, given those of the tokens (L,)."""
    return tuple(float(log_probs[a:b].sum()) for a, b in text.spans)


class CaptionNetwork(request.Network, Protocol):
    """What `Captioner` needs of a model that writes captions, besides what every facade needs.

    A query is (S, B, L): S token sequences for each image, each ending in `end`, padded with 0; its
    output's fields are (S, B, L).
    """

    end: int
    vocabulary_size: int

    def read(self, text: str | Sequence[str]) -> Text:
        """Words, or a sentence, as tokens."""
        ...

    def decode(self, features: Tensor, beam: int, count: int, max_length: int) -> list[list[Caption]]:
        """The `count` likeliest captions of each image, best first."""
        ...

    def head(self, features: Tensor, query: Tensor) -> TextOutput:
        """How likely given sequences are, from what `encode` gave."""
        ...

    def without_image(self, query: Tensor) -> TextOutput | None:
        """How likely given sequences are for no image in particular, such as the mean of many photographs.

        None for a model that has nothing of the kind: what its words owe to the image is then not said.
        """
        ...


class LstmNetwork:
    """The project's own captioner, split at the last feature map of its trunk."""

    def __init__(
        self, module: CaptionModel, name: str = "captioner", source: str = "the caller's", length_penalty: float = 0.0
    ) -> None:
        self.module, self.name, self.source = module, name, source
        self.end, self.vocabulary_size, self.length_penalty = END, len(module.vocabulary), length_penalty
        self.once = decoding.content_words(module.vocabulary)

    @property
    def preprocessing(self) -> Preprocessing:
        return self.module.trunk.preprocessing

    @property
    def fingerprint(self) -> str:
        """What tells the trunk from others: models on one trunk share what they encode."""
        return self.module.trunk.fingerprint

    @property
    def layer(self) -> str:
        """The name of the map that the trunk's evidence is read off."""
        return f"trunk.{self.module.trunk.layer}"

    def read(self, text: str | Sequence[str]) -> Text:
        words = tokenize(text) if isinstance(text, str) else list(text)
        tokens = self.module.vocabulary.encode(words)
        return Text.of(words, tokens, self.module.vocabulary.unknown(words))

    def encode(self, images: Tensor) -> Tensor:
        return self.module.features(images)

    def decode(self, features: Tensor, beam: int, count: int, max_length: int) -> list[list[Caption]]:
        state = self.module.start(features)
        found = decoding.beam(self.module, state, beam, max_length, self.length_penalty, self.once)
        return [[self._caption(hypothesis) for hypothesis in each[:count]] for each in found]

    def head(self, features: Tensor, query: Tensor) -> TextOutput:
        return self.module.head(features, query)

    def without_image(self, query: Tensor) -> TextOutput:
        return self.module.told(self.module.trunk.evidence.typical[None], query)

    def explainable(self, layer: str | None) -> Explainable:
        if layer in (None, self.layer):
            return LstmSplit(self.module, self.layer)
        return HookedModel(self.module, layer)

    def _caption(self, hypothesis: decoding.Hypothesis) -> Caption:
        words = [self.module.vocabulary.words[token] for token in hypothesis.tokens]
        text = Text.of(words, hypothesis.tokens)
        return Caption(text.words, hypothesis.log_probs, hypothesis.total, text)


class LstmSplit(SplitModel):
    """A `CaptionModel` split at its last map; the query is (S, B, L)."""

    def __init__(self, network: CaptionModel, layer: str) -> None:
        self.network: CaptionModel = network
        self.layer = layer

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.network.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> TextOutput:
        if query is None:
            raise UserError("a captioner explains a caption; give its tokens (S, B, L) as the query")
        return self.network.head(features, query)

    def importance(self, scores: Tensor, A: Tensor, output: CaptionOutput) -> Tensor:
        """Eq. 1 by way of what the decoder saw of the images: the map itself is left out of the backward pass."""
        return self.network.trunk.evidence.importance(_of_summary(scores, output), A)


def _of_summary(scores: Tensor, output: CaptionOutput) -> Tensor:
    """d scores (T, B) / d summary: (T, B, E+C).

    Targets are sums of the tokens' scores, and a token's is made of the states at its own place alone. So one backward
    pass through the vocabulary gives all tokens their gradients, and only the LSTM's pass is run for each target.
    """
    tables, made_of = (output.log_probs, output.logits), (output.states, output.evidence)
    rows = torch.eye(len(scores)).to(scores)[:, :, None].expand(-1, -1, scores.shape[1])
    *shares, others = _grad(scores, (*tables, output.distributions), rows)
    if others is not None or shares == [None, None]:  # words that are not said, or a score of the caller's own kind
        return gradients(scores, output.summary)
    passed: Any = (0.0, 0.0)
    for share, table in zip(shares, tables, strict=True):
        if share is not None:
            weights = share.flatten(1, -2).transpose(1, 2)[..., None]  # (T, L, S*B, 1)
            passed = [sum_ + weights * own for sum_, own in zip(passed, _grad(table.sum(), made_of), strict=True)]
    return _grad(made_of, (output.summary,), passed)[0]


def _grad(scores: Any, inputs: Any, rows: Any = None) -> Any:
    """Gradients to several inputs, of several outputs' rows at once; None for an input that is not on the way."""
    return torch.autograd.grad(
        scores, inputs, rows, retain_graph=True, allow_unused=True, is_grads_batched=rows is not None
    )
