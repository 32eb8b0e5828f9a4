"""A question read once for all that is asked about its words: its encoding, that without each of its words, and
the gradients of any number of targets with respect to the words' embeddings.

Without a word the question is the same up to that word, so the LSTM reads a batch that grows: after each word it
goes on with the question so far, and with each question so far that lacks one word. That is half the steps of
reading them all from the start, in as few matrix products as for the longest alone.

Letters: L words, X embedding, D hidden, T targets, R = t+1 rows before word t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from common.fast.fuse import PackedProduct
from vqa.model import QuestionEncoder


@dataclass(frozen=True)
class Reading:
    """A question (L words) as the encoder read it.

    `encoded` (1+L, 4D+X): the whole question first, then the question without each word. The rest is what the
    gradients need: the embedded words (L,X), their products with the first layer's input weights (L,4D), and what
    each of the two LSTM layers kept.
    """

    encoded: Tensor
    embedded: Tensor
    parts: Tensor
    layers: tuple[_Layer, _Layer]

    @property
    def whole(self) -> Tensor:
        """(1, 4D+X), as `QuestionEncoder.forward` gives it."""
        return self.encoded[:1]

    @property
    def shorter(self) -> Tensor:
        """(L, 4D+X): row i is the question without word i."""
        return self.encoded[1:]


@dataclass(frozen=True)
class _Layer:
    """One LSTM layer after a reading: its states at the end (1+L,D), what it put out at each word (R,D), and the
    whole question's derivatives at each word (L,...), named in `_backward`."""

    h: Tensor
    c: Tensor
    outputs: list[Tensor]
    gates: Tensor  # (L,4D)
    forget: Tensor  # (L,D)
    through: Tensor  # (L,D)


class _Weights:
    """One LSTM layer's weights, ready for many small products."""

    def __init__(self, lstm: nn.LSTM, layer: int) -> None:
        w_in, w_hidden, b_in, b_hidden = (
            cast(Tensor, getattr(lstm, f"{name}_l{layer}")).detach()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        self.hidden, self.bias = lstm.hidden_size, b_in + b_hidden
        self.input, self.recurrent = PackedProduct(w_in), PackedProduct(w_hidden)
        self.input_back, self.recurrent_back = PackedProduct(w_in.t()), PackedProduct(w_hidden.t())


class Reader:
    """Reads questions with the weights that `encoder` has now, in evaluation mode."""

    @torch.no_grad()
    def __init__(self, encoder: QuestionEncoder) -> None:
        self.embedding = encoder.embedding.weight
        self.layers = _Weights(encoder.lstm, 0), _Weights(encoder.lstm, 1)

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Reading:
        """Read a question (L,), without padding. Without its only word it leaves the zero state."""
        embedded, count = self.embedding[tokens], len(tokens)
        lower, upper = self.layers
        parts = lower.input(embedded)
        first = _run(list((parts + lower.bias).split(1)), lower)
        rows = [len(output) for output in first.outputs]
        second = _run(list((upper.input(torch.cat(first.outputs)) + upper.bias).split(rows)), upper)
        total = embedded.sum(0)
        bags = torch.cat([total[None] / count**0.5, (total - embedded) / max(count - 1, 1) ** 0.5])
        encoded = torch.cat([first.h, first.c, second.h, second.c, bags], 1)
        return Reading(encoded, embedded, parts, (first, second))

    @torch.no_grad()
    def words_gradients(self, reading: Reading, slopes: Tensor) -> Tensor:
        """Gradient times embedding, summed over its entries, of each word (T,L), from d target / d `whole` (T,4D+X).

        Backpropagation through time, for all targets in one batch. The gradient with respect to a word is that
        of its gates times the input weights W, so its product with the embedding e is that of the gates with W e.
        """
        lower, upper = self.layers
        D = lower.hidden
        h0, c0, h1, c1, bag = slopes.split([D, D, D, D, slopes.shape[1] - 4 * D], 1)
        gates = _backward(reading.layers[1], upper, h1, c1)
        below = upper.input_back(gates.flatten(0, 1)).unflatten(0, gates.shape[:2])
        gates = _backward(reading.layers[0], lower, h0, c0, below.unbind(0))
        direct = bag @ reading.embedded.t() / len(reading.embedded) ** 0.5
        return torch.einsum("ltg,lg->tl", gates, reading.parts) + direct


def _run(inputs: Sequence[Tensor], weights: _Weights) -> _Layer:
    """One LSTM layer over the growing batch; `inputs` holds each word's part of the gates (1 or R, 4D)."""
    D = weights.hidden
    h = c = inputs[0].new_zeros(1, D)
    outputs, kept = [], []
    for part in inputs:
        all_gates = weights.recurrent(h) + part
        open_ = all_gates.sigmoid()
        g = all_gates[:, 2 * D : 3 * D].tanh()
        i, f, o = open_[:, :D], open_[:, D : 2 * D], open_[:, 3 * D :]
        new_c = torch.addcmul(i * g, f, c)
        squashed = new_c.tanh()
        new_h = o * squashed
        kept.append((open_[:1], g[:1], c[:1], squashed[:1]))
        outputs.append(new_h)
        # The question without this word goes on from where the question was before it.
        h, c = torch.cat([new_h, h[:1]]), torch.cat([new_c, c[:1]])
    open_, g, before, squashed = (torch.cat(each) for each in zip(*kept, strict=True))
    i, f, _, o = open_.chunk(4, 1)
    gates = torch.cat(
        [g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], 1
    )  # d c / d gates i, f, g and d h / d gate o, before their squashing
    return _Layer(h, c, outputs, gates, f, o * (1 - squashed * squashed))


def _backward(
    layer: _Layer, weights: _Weights, h: Tensor, c: Tensor, above: Sequence[Tensor] | None = None
) -> Tensor:
    """d target / d gates (L,T,4D) from the slopes of the last states (T,D) and of each output (`above`, (T,D)).

    With y the target: dy/dc_t takes in dy/dh_t by way of h = o tanh(c); the gates follow from both, h before the
    word from the gates, c before it by the forget gate.
    """
    found = []
    for t in range(len(layer.gates) - 1, -1, -1):
        if above is not None:
            h = h + above[t]
        c = torch.addcmul(c, h, layer.through[t])
        gates = torch.cat([c, c, c, h], 1) * layer.gates[t]
        found.append(gates)
        if t:
            h, c = weights.recurrent_back(gates), c * layer.forget[t]
    return torch.stack(found[::-1])
