"""The second VQA model: hierarchical question-image co-attention (Lu, Yang, Batra and Parikh, NIPS 2016).

The question is read at three levels: its words, its phrases of one to three words, and the whole of it. At each of
them it says where to look, and the image which words to listen to. What both attend to is put together, level by level.

    model = CoattentionModel(trunk, vocabulary, ["yes", "no"])
    output = model.output(model.features(images), tokens)
    output.logits, output.image_attention, output.word_attention       # (B,N), (B,3,h,w), (B,3,L)

Letters: B images, K channels, h,w map, P = h*w positions, L tokens, D width, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import SeeingTrunk
from common.text import check_tokens
from data.words.vocabulary import PAD, Vocabulary
from vqa.model import AnsweringModel

LEVELS = ("word", "phrase", "question")
LONGEST_PHRASE = 3
_NEVER = -1e4  # added to what may not be attended to: its share is 0 in any precision


class Asked(NamedTuple):
    """A question at each of its `LEVELS`, (B,L,D) each, and which of the places hold a word: (B,L)."""

    levels: tuple[Tensor, ...]
    mask: Tensor


class Attended(NamedTuple):
    """Image and question as attended to (B,D), and the shares of positions (B,P) and words (B,L): sums are 1."""

    image: Tensor
    question: Tensor
    positions: Tensor
    words: Tensor


@dataclass(frozen=True)
class CoattentionOutput:
    """Answer scores before the softmax, `logits` (B,N), and where each level looked: shares that sum to 1.

    `image_attention` is (B,3,h,w), `word_attention` (B,3,L); a question without a word has 0 for its words.
    """

    logits: Tensor
    image_attention: Tensor
    word_attention: Tensor


class HierarchicalQuestion(nn.Module):
    """Tokens (B,L) as words, phrases and a whole (section 3.2): three times (B,L,D). Padding is 0, at the end.

    A phrase at word t is the maximum, entry by entry, of tanh of convolutions over the one, two and three words from t
    on. The whole is what an LSTM makes of the phrases up to t.
    """

    def __init__(self, vocabulary: int, width: int, dropout: float = 0.5, word_dropout: float = 0.15):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.grams = nn.ModuleList(nn.Conv1d(width, width, size + 1) for size in range(LONGEST_PHRASE))
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout, self.word_dropout = dropout, word_dropout
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Asked:
        mask = tokens != PAD
        heard = mask
        if self.training:
            heard = mask & (torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout)
        words = self._dropped(self.embedding(tokens) * heard[..., None])
        phrases = self.phrases(words)
        whole = self.lstm(self._dropped(phrases) * mask[..., None])[0]
        return Asked((words, phrases, self._dropped(whole)), mask)

    def phrases(self, words: Tensor) -> Tensor:
        """(B,L,D) of (B,L,D)."""
        padded = F.pad(words.transpose(1, 2), (0, LONGEST_PHRASE - 1))
        length = words.shape[1]
        found = [gram(padded)[..., :length].tanh() for gram in self.grams]
        return torch.stack(found).amax(0).transpose(1, 2)

    def _dropped(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training)


class ParallelAttention(nn.Module):
    """Image and question attend to each other at once (equations 3 to 5): (B,P,D), (B,L,D), (B,L) -> `Attended`."""

    def __init__(self, width: int):
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)
        self.image, self.question = nn.Linear(width, width), nn.Linear(width, width)
        self.image_score, self.question_score = nn.Linear(width, 1, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, image: Tensor, question: Tensor, mask: Tensor) -> Attended:
        affinity = (self.affinity(question) @ image.transpose(1, 2)).tanh() * mask[..., None]  # (B,L,P)
        seen, asked = self.image(image), self.question(question)
        where = self.image_score((seen + affinity.transpose(1, 2) @ asked).tanh())
        which = self.question_score((asked + affinity @ seen).tanh())
        return attended(image, question, shares(where), shares(which, mask))


class AlternatingAttention(nn.Module):
    """The question is summed up, the image attended to, then the question again (equation 6)."""

    def __init__(self, width: int):
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.guide = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.score = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(3))

    def forward(self, image: Tensor, question: Tensor, mask: Tensor) -> Attended:
        summed = pooled(question, shares(self.score[0](self.own[0](question).tanh()), mask))
        positions = shares(self.score[1]((self.own[1](image) + self.guide[0](summed)[:, None]).tanh()))
        guide = self.guide[1](pooled(image, positions))[:, None]
        words = shares(self.score[2]((self.own[2](question) + guide).tanh()), mask)
        return attended(image, question, positions, words)


ATTENTION: dict[str, type[ParallelAttention] | type[AlternatingAttention]] = {
    "parallel": ParallelAttention,
    "alternating": AlternatingAttention,
}


def shares(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the places (B,L) of scores (B,L,1); 0 where `mask` says that there is nothing."""
    found = scores.squeeze(-1)
    if mask is None:
        return found.softmax(1)
    return found.masked_fill(~mask, _NEVER).softmax(1) * mask


def pooled(values: Tensor, weights: Tensor) -> Tensor:
    """(B,D): the values (B,L,D) under their shares (B,L)."""
    return torch.bmm(weights[:, None], values)[:, 0]


def attended(image: Tensor, question: Tensor, positions: Tensor, words: Tensor) -> Attended:
    """Both under their shares."""
    return Attended(pooled(image, positions), pooled(question, words), positions, words)


class CoattentionModel(AnsweringModel):
    """A trunk and a head with the seam between them: `head(features(images), tokens)` -> (B, answers).

    As `vqa.model.VqaModel`, which it stands beside; the head reads every position of the map.
    """

    def __init__(
        self,
        trunk: SeeingTrunk,
        vocabulary: Vocabulary,
        answers: Sequence[str],
        *,
        embedding: int = 192,
        joint: int = 512,
        attention: str = "parallel",
        dropout: float = 0.5,
        image_dropout: float = 0.5,
        word_dropout: float = 0.15,
    ):
        super().__init__(trunk, vocabulary, answers)
        self.attention, self.dropout, self.image_dropout = attention, dropout, image_dropout
        self.question = HierarchicalQuestion(len(vocabulary), embedding, dropout, word_dropout)
        self.image = nn.Linear(trunk.channels, embedding)
        self.attend = nn.ModuleList(ATTENTION[attention](embedding) for _ in LEVELS)
        widths = [(embedding, embedding), (2 * embedding, embedding), (2 * embedding, joint)]
        self.join = nn.ModuleList(nn.Linear(*width) for width in widths)
        self.classifier = nn.Linear(joint, len(self.answers))

    @property
    def sizes(self) -> dict[str, Any]:
        widths = {"embedding": self.image.out_features, "joint": self.classifier.in_features}
        return {**widths, "attention": self.attention}

    @property
    def hearing(self) -> nn.Module:
        """What is trained where no image is seen: everything, of images of which nothing is known."""
        parts = {name: part for name, part in self.named_children() if name not in ("trunk", "image")}
        return nn.ModuleDict(parts)

    def output(self, features: Tensor, tokens: Tensor) -> CoattentionOutput:
        """As `head`, with where each level looked beside the scores."""
        check_tokens(tokens, len(self.vocabulary))
        logits, found = self.attended(self.seen(features), self.question(tokens))
        maps = torch.stack([each.positions for each in found], 1).unflatten(2, features.shape[2:])
        return CoattentionOutput(logits, maps, torch.stack([each.words for each in found], 1))

    def answer_scores(self, features: Tensor, asked: Asked) -> Tensor:
        """Maps (B,K,h,w) and read questions -> (B,N)."""
        return self.attended(self.seen(features), asked)[0]

    def blind_scores(self, asked: Asked) -> Tensor:
        """Read questions -> (B,N), of an image with one position that says nothing."""
        words = asked.levels[0]
        return self.attended(words.new_zeros(len(words), 1, words.shape[2]), asked)[0]

    def seen(self, features: Tensor) -> Tensor:
        """Each position of the map (B,K,h,w) as the question is compared with it: (B,P,D)."""
        positions = self.image(features.flatten(2).transpose(1, 2)).tanh()
        return F.dropout(positions, self.image_dropout, self.training)

    def attended(self, image: Tensor, asked: Asked) -> tuple[Tensor, list[Attended]]:
        """Scores (B,N) of positions (B,P,D) and read questions (equation 7), and what each level attended to."""
        count = max(len(image), len(asked.mask))
        image, mask = image.expand(count, -1, -1), asked.mask.expand(count, -1)
        joint, found = image.new_zeros(count, 0), []
        for level, attend, join in zip(asked.levels, self.attend, self.join, strict=True):
            found.append(attend(image, level.expand(count, -1, -1), mask))
            together = torch.cat([found[-1].image + found[-1].question, joint], 1)
            joint = join(F.dropout(together, self.dropout, self.training)).tanh()
        return self.classifier(F.dropout(joint, self.dropout, self.training)), found
