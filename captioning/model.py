"""The captioner: an LSTM that sees the image only through what the trunk says is in it, no attention.

Show and Tell (Vinyals et al. 2015) with word evidence (Fang et al. 2015, Wu et al. 2016): the trunk's summary of
its last feature map, evidence for concepts and counts, starts the LSTM; evidence for concepts that are words of
the vocabulary is, weighted by one gate a step, added to these words' logits as well. What the decoder reads is
nothing but that summary, so it can learn to write from any: also from one that no photograph stands behind.

Letters: B images, K channels, h,w map, L tokens, V vocabulary, D hidden, E concepts, C of them counted,
W concepts with a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from common.networks.trunk import SeeingTrunk
from common.text import TextOutput, check_tokens
from data.words.vocabulary import PAD, START, Vocabulary


@dataclass(frozen=True)
class CaptionOutput(TextOutput):
    """What the captioner says of given tokens, and what that is made of.

    `summary` (B,E+C) is all that the decoder saw of the images; `states` (L,S*B,D) and `evidence` (L,S*B,W) all that
    the scores of each place are made of: the decoder's hidden states and the evidence for words.
    """

    summary: Tensor
    states: Tensor
    evidence: Tensor


class State(NamedTuple):
    """The decoder between two words: hidden and cell state (B,D), evidence for words (B,W)."""

    h: Tensor
    c: Tensor
    evidence: Tensor

    def select(self, rows: Tensor) -> State:
        return State(self.h[rows], self.c[rows], self.evidence[rows])


class Decoder(nn.Module):
    """LSTM over words, written as a loop of cells: its backward pass works in eval mode on every device
    and under `torch.func.vmap` (`is_grads_batched`), which fused recurrent kernels don't.

    `words` maps the number of a concept to that of its word, for the concepts that have one.
    """

    def __init__(
        self,
        concepts: int,
        counted: int,
        vocabulary: int,
        words: dict[int, int],
        hidden: int = 512,
        dropout: float = 0.4,
        word_dropout: float = 0.2,
    ):
        super().__init__()
        self.concepts = concepts
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.cell = nn.LSTMCell(hidden, hidden)
        self.image = nn.Linear(concepts + counted, hidden)
        self.gate = nn.Linear(hidden, 1)
        self.dropout, self.word_dropout = dropout, word_dropout
        for name, numbers in (("shown", list(words)), ("shown_words", list(words.values()))):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.long), persistent=False)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.constant_(cast(Tensor, self.gate.bias), -1.0)  # a word is in few captions

    def evidence(self, summary: Tensor) -> Tensor:
        """The evidence for words (B,W) in a summary (B,E+C)."""
        return summary[:, cast(Tensor, self.shown)]

    def begin(self, summary: Tensor) -> State:
        """The state after the image, which the LSTM reads as its first input: how likely each concept, how many."""
        likely, counts = summary[:, : self.concepts].sigmoid(), summary[:, self.concepts :].log1p()
        seen = F.dropout(self.image(torch.cat([likely, counts], 1)), self.word_dropout, self.training)
        zero = seen.new_zeros(seen.shape[0], self.cell.hidden_size)
        h, c = self._cell(self._input_gates(seen), zero, zero)
        return State(h, c, self.evidence(summary))

    def advance(self, state: State, gates: Tensor) -> State:
        return State(*self._cell(gates, state.h, state.c), state.evidence)

    def read(self, words: Tensor) -> Tensor:
        """The words' part of the LSTM's gates, (..., 4D)."""
        return self._input_gates(F.dropout(self.embedding(words), self.word_dropout, self.training))

    def logits(self, h: Tensor, evidence: Tensor) -> Tensor:
        """(..., V) from hidden states h (..., D), with evidence for words (..., W) or (B,W): h is (B,D) or (L,B,D)."""
        h = F.dropout(h, self.dropout, self.training)
        logits = _full(F.linear(h, self.embedding.weight, self.bias))
        shown = _full(self.gate(h)).sigmoid() * evidence
        return logits.index_add(-1, cast(Tensor, self.shown_words), shown)

    def _input_gates(self, x: Tensor) -> Tensor:
        return F.linear(x, self.cell.weight_ih, self.cell.bias_ih)

    def _cell(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = gates + F.linear(h, self.cell.weight_hh, self.cell.bias_hh)
        i, f, g, o = _full(gates).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class CaptionModel(nn.Module):
    """A trunk and a decoder with the seam between them: `head(features(images), tokens)`.

    `trunk` says what is in a photograph, `decoder` reads nothing else of it; any layer can be hooked by its name.
    Tokens (B,L) are numbers of words without the start token, padded with 0; the end token is a token.
    """

    def __init__(
        self,
        trunk: SeeingTrunk,
        vocabulary: Vocabulary,
        hidden: int = 512,
        dropout: float = 0.4,
        word_dropout: float = 0.2,
    ):
        super().__init__()
        self.trunk, self.vocabulary = trunk, vocabulary
        words = words_of(trunk.evidence.words, vocabulary)
        concepts, counted = len(trunk.evidence.words), trunk.evidence.counted
        self.decoder = Decoder(concepts, counted, len(vocabulary), words, hidden, dropout, word_dropout)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map A (B,K,h,w) of images (B,3,H,W), after its activation."""
        return self.trunk.features(images)

    def head(self, features: Tensor, tokens: Tensor) -> CaptionOutput:
        """Log-probabilities of `tokens` (B,L) given the map (B,K,h,w): a graph that starts at `features`.

        Tokens (S,B,L) are S captions of each image; one map (B=1) may be given for several captions.
        Raises `UserError` for tokens outside the vocabulary.
        """
        return self.told(self.trunk.summary(features), tokens)

    def told(self, summary: Tensor, tokens: Tensor) -> CaptionOutput:
        """As `head`, given all that the decoder sees of the images: the trunk's summary (B,E+C), or any other."""
        check_tokens(tokens, len(self.vocabulary), dimensions=(2, 3))
        *several, B, L = tokens.shape
        S = several[0] if several else 1
        seen = summary.expand(B, -1).repeat(S, 1)
        states = self.hidden(seen, tokens.reshape(S * B, L))
        evidence = self.decoder.evidence(seen).expand(L, -1, -1)
        logits = self.decoder.logits(states, evidence).transpose(0, 1).reshape(*tokens.shape, -1)
        return CaptionOutput.of(logits, tokens, tokens != PAD, summary=summary, states=states, evidence=evidence)

    def hidden(self, summary: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states (L,B,D) from which each token is predicted, given the ones before it."""
        before = F.pad(tokens[:, :-1], (1, 0), value=START)
        state = self.decoder.begin(summary)
        hidden = []
        for gates in self.decoder.read(before).unbind(1):
            state = self.decoder.advance(state, gates)
            hidden.append(state.h)
        return torch.stack(hidden)

    def forward(self, images: Tensor, tokens: Tensor) -> CaptionOutput:
        return self.head(self.features(images), tokens)

    def start(self, features: Tensor) -> State:
        """The decoder's state before the first word."""
        return self.decoder.begin(self.trunk.summary(features))

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Read the last words (B,), `START` at first: log-probabilities of the next (B,V), the new state."""
        state = self.decoder.advance(state, self.decoder.read(words))
        return self.decoder.logits(state.h, state.evidence).log_softmax(-1), state


def words_of(concepts: Sequence[str], vocabulary: Vocabulary) -> dict[int, int]:
    """Number of a concept -> number of its word, for those that are words of the vocabulary.

    Of a class and a caption word of one name the word, which comes later, is taken: it is learned from captions.
    """
    last = {name: number for number, name in enumerate(concepts)}
    return {number: vocabulary.index[name] for name, number in last.items() if name in vocabulary}


def _full(x: Tensor) -> Tensor:
    """Half precision, which autocast makes, as float32: sums of exponentials and cell states need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
