"""A control: 'deeper LSTM Q + norm I' as it was published, on the mean of the map over its positions (Lu et al. 2015).

The shipped model (`vqa.model`) scores words at every position of the map before it pools: that it localises says little
about models that pool first. This one does: a two-layer LSTM reads the question; the mean feature, scaled to length 1,
is all it has of the image; their element-wise product is classified.

Letters: B images, K channels, h,w map, L tokens, D hidden, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import SeeingTrunk
from common.text import check_tokens
from data.words.vocabulary import PAD, Vocabulary
from vqa.model import AnsweringModel


@dataclass(frozen=True)
class PooledOutput:
    """Answer scores before the softmax: `logits` (B,N)."""

    logits: Tensor


class LstmQuestion(nn.Module):
    """Tokens (B,L) -> the last states of both layers (B,4D): h and c of each. Padding is 0, at the end."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, dropout: float, word_dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, dropout=dropout, batch_first=True)
        self.dropout, self.word_dropout = dropout, word_dropout
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.embedding(tokens).tanh()
        if self.training:
            keep = torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout
            words = F.dropout(words * keep[..., None], self.dropout)
        lengths = (tokens != PAD).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            words, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        h, c = self.lstm(packed)[1]
        return torch.cat([h[0], c[0], h[1], c[1]], 1) * (lengths > 0)[:, None]


class PooledModel(AnsweringModel):
    """A trunk and a head that reads the map's mean; as `vqa.model.VqaModel`, beside which it is measured."""

    def __init__(
        self,
        trunk: SeeingTrunk,
        vocabulary: Vocabulary,
        answers: Sequence[str],
        *,
        embedding: int = 128,
        hidden: int = 128,
        joint: int = 512,
        dropout: float = 0.5,
        image_dropout: float = 0.5,
        word_dropout: float = 0.15,
    ):
        super().__init__(trunk, vocabulary, answers)
        self.dropout, self.image_dropout = dropout, image_dropout
        self.question = LstmQuestion(len(vocabulary), embedding, hidden, dropout, word_dropout)
        self.query, self.image = nn.Linear(4 * hidden, joint), nn.Linear(trunk.channels, joint)
        self.classifier = nn.Linear(joint, len(self.answers))

    @property
    def sizes(self) -> dict[str, Any]:
        embedding, hidden = self.question.embedding.embedding_dim, self.question.lstm.hidden_size
        return {"embedding": embedding, "hidden": hidden, "joint": self.query.out_features}

    def output(self, features: Tensor, tokens: Tensor) -> PooledOutput:
        """As `head`."""
        check_tokens(tokens, len(self.vocabulary))
        return PooledOutput(self.answer_scores(features.mean((2, 3)), self.question(tokens)))

    def answer_scores(self, mean: Tensor, asked: Tensor) -> Tensor:
        """Mean features (B,K) and read questions (B,4D) -> (B,N)."""
        seen = F.dropout(F.normalize(mean, dim=1), self.image_dropout, self.training)
        return self._product(self.image(seen).tanh(), asked)

    def blind_scores(self, asked: Tensor) -> Tensor:
        """Read questions (B,4D) -> (B,N): what the question alone says."""
        return self._product(torch.ones_like(asked[:, :1]), asked)

    def _product(self, image: Tensor, asked: Tensor) -> Tensor:
        query = self.query(F.dropout(asked, self.dropout, self.training)).tanh()
        return self.classifier(F.dropout(image * query, self.dropout, self.training))
