"""The captioner: a CNN trunk and an LSTM that sees the image only through the last feature map, no attention.

Show and Tell (Vinyals et al. 2015) with word evidence: a linear classifier on every position of the map
scores the caption words (Fang et al. 2015, Wu et al. 2016); pooled over the map it starts the LSTM
together with the mean feature, and, weighted by one gate a step, is added to the words' logits.

Letters: B images, K channels, h,w map, L tokens, V vocabulary, D hidden, E evidence words.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.networks.pooling import log_mean_exp, pooled_importance
from common.networks.trunk import feature_map
from common.text import TextOutput, check_tokens
from data.words.vocabulary import PAD, START, Vocabulary


class State(NamedTuple):
    """The decoder between two words: hidden and cell state (B,D), evidence (B,E)."""

    h: Tensor
    c: Tensor
    evidence: Tensor

    def select(self, rows: Tensor) -> State:
        return State(self.h[rows], self.c[rows], self.evidence[rows])


class Decoder(nn.Module):
    """LSTM over words, written as a loop of cells: its backward pass works in eval mode on every device
    and under `torch.func.vmap` (`is_grads_batched`), which fused recurrent kernels don't.

    `evidence_words` (E,): which words of the vocabulary the evidence layer scores.
    """

    def __init__(
        self,
        channels: int,
        vocabulary: int,
        evidence_words: list[int],
        hidden: int = 512,
        dropout: float = 0.5,
        word_dropout: float = 0.3,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.cell = nn.LSTMCell(hidden, hidden)
        self.image = nn.Linear(channels, hidden)
        self.evidence = nn.Conv2d(channels, len(evidence_words), 1)
        self.evidence_in = nn.Linear(len(evidence_words), hidden)
        self.gate = nn.Linear(hidden, 1)
        self.dropout, self.word_dropout = dropout, word_dropout
        self.register_buffer("evidence_words", torch.tensor(evidence_words, dtype=torch.long), persistent=False)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        for bias, value in ((self.evidence.bias, -3.0), (self.gate.bias, -1.0)):  # a word is in few captions
            nn.init.constant_(cast(Tensor, bias), value)

    def evidence_maps(self, features: Tensor) -> Tensor:
        """(B,E,h,w): the evidence for each word at each position, a linear function of the map.

        The 1x1 convolution `evidence`, written as a matrix product: its backward pass for many targets at
        once is then one product too, where a convolution's would be run target by target.
        """
        weight = self.evidence.weight.flatten(1)
        maps = F.linear(features.flatten(2).transpose(1, 2), weight, self.evidence.bias)
        return maps.transpose(1, 2).unflatten(2, features.shape[2:])

    def summary(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """All the decoder sees of an image: mean feature (B,K) and pooled evidence (B,E).

        Evidence is pooled by log-mean-exp: nearly the mean when it is flat, nearly the maximum when it peaks.
        """
        return features.mean((2, 3)), log_mean_exp(_full(self.evidence_maps(features)))

    def importance(self, gradients: Tensor, positions: int) -> Tensor:
        """Mean over positions of d y / d A (..., K), from d y / d seen (..., K+E); see `pooled_importance`."""
        weight = self.evidence.weight.flatten(1)
        mean, evidence = gradients.split([weight.shape[1], weight.shape[0]], -1)
        return pooled_importance(mean, evidence, weight, positions)

    def begin(self, pooled: Tensor, evidence: Tensor) -> State:
        """The state after the image, which the LSTM reads as its first input."""
        seen = self.image(pooled) + self.evidence_in(evidence.sigmoid())
        seen = F.dropout(seen, self.word_dropout, self.training)
        zero = seen.new_zeros(seen.shape[0], self.cell.hidden_size)
        h, c = self._cell(self._input_gates(seen), zero, zero)
        return State(h, c, evidence)

    def advance(self, state: State, gates: Tensor) -> State:
        return State(*self._cell(gates, state.h, state.c), state.evidence)

    def read(self, words: Tensor) -> Tensor:
        """The words' part of the LSTM's gates, (..., 4D)."""
        return self._input_gates(F.dropout(self.embedding(words), self.word_dropout, self.training))

    def logits(self, h: Tensor, evidence: Tensor) -> Tensor:
        """(..., V) from hidden states (..., D): h (B,D) or (L,B,D), with evidence (B,E)."""
        h = F.dropout(h, self.dropout, self.training)
        logits = _full(F.linear(h, self.embedding.weight, self.bias))
        shown = _full(self.gate(h)).sigmoid() * evidence
        return logits.index_add(-1, cast(Tensor, self.evidence_words), shown)

    def _input_gates(self, x: Tensor) -> Tensor:
        return F.linear(x, self.cell.weight_ih, self.cell.bias_ih)

    def _cell(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = gates + F.linear(h, self.cell.weight_hh, self.cell.bias_hh)
        i, f, g, o = _full(gates).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class CaptionModel(nn.Module):
    """A trunk and a decoder with the seam between them: `head(features(images), tokens)`.

    `trunk` is the network itself, so that any layer in it can be hooked by name (`trunk.blocks.6`); `layer`
    the name, within it, of the map the decoder reads (None: what its `forward_features` returns).
    Tokens (B,L) are numbers of words without the start token, padded with 0; the end token is a token.
    """

    def __init__(
        self,
        trunk: nn.Module,
        vocabulary: Vocabulary,
        channels: int,
        evidence_words: list[str],
        hidden: int = 512,
        dropout: float = 0.5,
        word_dropout: float = 0.3,
        layer: str | None = None,
    ):
        super().__init__()
        absent = vocabulary.unknown(evidence_words)
        if absent:
            raise UserError(f"the vocabulary doesn't fit the model: it lacks the evidence word '{absent[0]}'")
        self.trunk, self.vocabulary, self.layer = trunk, vocabulary, layer
        self.decoder = Decoder(
            channels, len(vocabulary), vocabulary.encode(evidence_words), hidden, dropout, word_dropout
        )

    def features(self, images: Tensor) -> Tensor:
        """The last feature map A (B,K,h,w) of images (B,3,H,W), after its activation."""
        return feature_map(self.trunk, self.layer, images)

    def head(self, features: Tensor, tokens: Tensor) -> TextOutput:
        """Log-probabilities of `tokens` (B,L) given the map (B,K,h,w): a graph that starts at `features`.

        Tokens (S,B,L) are S captions of each image; one map (B=1) may be given for several captions. `summary`
        (B,K+E) is all that the decoder sees of the images. Raises `UserError` for tokens outside the vocabulary.
        """
        check_tokens(tokens, len(self.vocabulary), dimensions=(2, 3))
        summary = torch.cat(self.decoder.summary(features), 1)
        *several, B, L = tokens.shape
        S = several[0] if several else 1
        seen = summary.expand(B, -1).repeat(S, 1)
        pooled, evidence = seen[:, : features.shape[1]], seen[:, features.shape[1] :]
        hidden = self.hidden(pooled, evidence, tokens.reshape(S * B, L))
        logits = self.decoder.logits(hidden, evidence).transpose(0, 1)
        return TextOutput.of(logits.reshape(*tokens.shape, -1), tokens, tokens != PAD, summary)

    def hidden(self, pooled: Tensor, evidence: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states (L,B,D) from which each token is predicted, given the ones before it."""
        before = F.pad(tokens[:, :-1], (1, 0), value=START)
        state = self.decoder.begin(pooled, evidence)
        hidden = []
        for gates in self.decoder.read(before).unbind(1):
            state = self.decoder.advance(state, gates)
            hidden.append(state.h)
        return torch.stack(hidden)

    def forward(self, images: Tensor, tokens: Tensor) -> TextOutput:
        return self.head(self.features(images), tokens)

    def start(self, features: Tensor) -> State:
        """The decoder's state before the first word."""
        return self.decoder.begin(*self.decoder.summary(features))

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Read the last words (B,), `START` at first: log-probabilities of the next (B,V), the new state."""
        state = self.decoder.advance(state, self.decoder.read(words))
        return self.decoder.logits(state.h, state.evidence).log_softmax(-1), state


def _full(x: Tensor) -> Tensor:
    """Half precision, which autocast makes, as float32: sums of exponentials and cell states need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
