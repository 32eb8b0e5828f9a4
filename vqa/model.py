"""The VQA model: 'deeper LSTM Q + norm I' (Lu et al. 2015) on the last feature map, no attention.

A two-layer LSTM reads the question; the image is the L2-normalised mean of the feature map, together with
word evidence: a linear classifier on every position of the map, pooled (as in the captioner; Fang et al.
2015, Wu et al. 2016). Their element-wise product is classified over the answers.
Source: Lu, Lin, Batra and Parikh, github.com/GT-Vision-Lab/VQA_LSTM_CNN, 2015; Antol et al., ICCV 2015.

Letters: B images, K channels, h,w map, L tokens, V vocabulary, D hidden, E evidence words, N answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.networks.pooling import log_mean_exp, pooled_importance
from common.networks.trunk import feature_map
from common.text import check_tokens
from data.records import MAX_QUESTION_WORDS
from data.words.vocabulary import PAD, Vocabulary, tokenize

UNSEEN = -4.0  # evidence, at first, of an answer that no evidence word stands for


class QuestionEncoder(nn.Module):
    """Two-layer LSTM over the words of a question: (B,L) tokens -> the last states of both layers (B,4D), and
    beside them the sum of the words' embeddings, which few questions suffice to learn from.

    Padding (0, at the end) changes nothing.
    """

    def __init__(
        self, vocabulary: int, embedding: int = 200, hidden: int = 384, dropout: float = 0.3, word_dropout: float = 0.1
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, dropout=dropout, batch_first=True)
        self.dropout, self.word_dropout = dropout, word_dropout
        nn.init.normal_(self.embedding.weight, std=0.5)
        for bias in (self.lstm.bias_ih_l0, self.lstm.bias_ih_l1):  # remember at first: the cells start as bags of words
            nn.init.constant_(cast(Tensor, bias)[hidden : 2 * hidden], 1.0)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B,L) -> (B,L,embedding); in training, whole words are dropped now and then."""
        embedded = self.embedding(tokens)
        if self.training and self.word_dropout:
            keep = torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout
            embedded = embedded * keep[..., None]
        return F.dropout(embedded, self.dropout, self.training)

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B,L,embedding) and which of the places hold a word (B,L) -> (B,4D+embedding), without dropout."""
        lengths = mask.sum(1)
        read: Any = embedded
        if not bool(mask.all()):
            read = nn.utils.rnn.pack_padded_sequence(
                embedded, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
            )
        _, (h, c) = self.lstm(read)
        states = torch.cat([h[0], c[0], h[1], c[1]], 1)
        return torch.cat([states * (lengths > 0)[:, None], _bag(embedded, mask)], 1)

    def embedding_gradients(self, gradients: Tensor, tokens: Tensor) -> Tensor:
        """d y / d embedding (T,B,L,embedding) of T scores, from d y / d encoding (T,B,4D+embedding).

        The fused LSTM's backward pass can't be batched: the questions are encoded once for each score instead.
        """
        T, B, _ = gradients.shape
        with torch.enable_grad():
            embedded = self.embedding(tokens).detach().repeat(T, 1, 1).requires_grad_()
            encoded = self.encode(embedded, (tokens != PAD).repeat(T, 1))
        return torch.autograd.grad(encoded, embedded, gradients.flatten(0, 1))[0].unflatten(0, (T, B))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,L) tokens, each row with words or none -> (B,4D+embedding)."""
        return self.encode(self.embed(tokens), tokens != PAD)


def _bag(embedded: Tensor, mask: Tensor) -> Tensor:
    """The sum of a question's words over the root of their number (B,embedding)."""
    kept = mask[..., None].to(embedded)
    return (embedded * kept).sum(1) / kept.sum(1).clamp(min=1).sqrt()


class ImageEncoder(nn.Module):
    """The map A (B,K,h,w) -> (B,joint+N), or (B,joint) where there are no evidence words.

    First the tanh of a linear layer on two views of the map: its L2-normalised mean (K) and the probabilities of
    the pooled evidence words (E), each scaled to a comparable size. Then the evidence of each answer that is itself
    an evidence word (N), with a learnt offset for each answer: `answers` has the number of its word, or -1.
    """

    def __init__(self, channels: int, joint: int, evidence: int = 0, answers: Sequence[int] = (), dropout: float = 0.5):
        super().__init__()
        self.answer_offset = None
        if evidence:
            words = torch.tensor(answers, dtype=torch.long)
            self.register_buffer("answer_words", words, persistent=False)
            self.answer_offset = nn.Parameter(torch.where(words < 0, UNSEEN, 0.0))
        self.evidence = nn.Conv2d(channels, evidence, 1) if evidence else None
        self.project = nn.Linear(channels + evidence, joint)
        self.dropout = dropout
        if self.evidence is not None:
            nn.init.constant_(cast(Tensor, self.evidence.bias), -3.0)  # a word is true of few images

    def pooled_evidence(self, features: Tensor) -> Tensor:
        """(B,E): log-mean-exp over the map: the mean where the evidence is flat, nearly the maximum where it peaks."""
        if self.evidence is None:
            return features.new_zeros(len(features), 0)
        return log_mean_exp(self.evidence(features))

    def summary(self, features: Tensor) -> Tensor:
        """All that is seen of the map: mean feature and pooled evidence (B,K+E)."""
        return torch.cat([features.mean((2, 3)), self.pooled_evidence(features)], 1)

    def importance(self, gradients: Tensor, positions: int) -> Tensor:
        """Mean over positions of d y / d A (...,K), from d y / d `summary` (...,K+E); see `pooled_importance`."""
        if self.evidence is None:
            return gradients / positions
        weight = self.evidence.weight.flatten(1)
        mean, evidence = gradients.split([weight.shape[1], weight.shape[0]], -1)
        return pooled_importance(mean, evidence, weight, positions)

    def join(self, mean: Tensor, evidence: Tensor) -> Tensor:
        """Mean feature (B,K) and pooled evidence (B,E) -> (B,joint+N)."""
        seen = torch.cat([F.normalize(mean, dim=1) * math.sqrt(mean.shape[1]), 4 * evidence.sigmoid()], 1)
        joint = self.project(F.dropout(seen, self.dropout, self.training)).tanh()
        if self.answer_offset is None:
            return joint
        none = evidence.shape[1]  # a column of zeros for answers that are no evidence word
        words = cast(Tensor, self.answer_words)
        told = F.pad(evidence, (0, 1))[:, torch.where(words < 0, none, words)]
        return torch.cat([joint, told + self.answer_offset], 1)

    def encode(self, summary: Tensor) -> Tensor:
        """`summary` (B,K+E) -> (B,joint+N)."""
        count = 0 if self.evidence is None else self.evidence.out_channels
        return self.join(*summary.split([summary.shape[1] - count, count], 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.encode(self.summary(features))


@dataclass(frozen=True)
class AnswerOutput:
    """Answer scores before the softmax, `logits` (B,N), and what they were read off: the maps' `summary` (B,K+E)."""

    logits: Tensor
    summary: Tensor


class VqaModel(nn.Module):
    """A trunk and a head with the seam between them: `head(features(images), tokens)` -> (B, answers).

    `trunk` is the network itself, so that any layer in it can be hooked by name (`trunk.blocks.6`); `layer` the
    name, within it, of the map that is A (None: what its `forward_features` returns). The answer scores are
    pre-softmax. The question's encoding doesn't depend on the image.
    """

    def __init__(
        self,
        trunk: nn.Module,
        vocabulary: Vocabulary,
        answers: Sequence[str],
        channels: int,
        *,
        evidence_words: Sequence[str] = (),
        embedding: int = 200,
        hidden: int = 384,
        joint: int = 768,
        dropout: float = 0.5,
        word_dropout: float = 0.1,
        image_dropout: float = 0.5,
        layer: str | None = None,
    ):
        super().__init__()
        self.trunk, self.vocabulary, self.answers = trunk, vocabulary, tuple(answers)
        self.answer_index = {answer: i for i, answer in enumerate(self.answers)}
        self.evidence_words = tuple(evidence_words)
        self.question = QuestionEncoder(len(vocabulary), embedding, hidden, word_dropout=word_dropout)
        number = {word: i for i, word in enumerate(self.evidence_words)}
        words = [number.get(answer, -1) for answer in self.answers]
        self.image = ImageEncoder(channels, joint, len(number), words, image_dropout)
        self.query = nn.Linear(4 * hidden + embedding, joint)
        self.trust = nn.Linear(4 * hidden + embedding, 1) if number else None
        if self.trust is not None:
            nn.init.zeros_(self.trust.weight)
            nn.init.constant_(self.trust.bias, 0.3)
        self.classifier = nn.Linear(joint, len(self.answers))
        self.dropout = dropout
        self.layer = layer

    def features(self, images: Tensor) -> Tensor:
        """The last feature map A (B,K,h,w) of images (B,3,H,W), after its activation."""
        return feature_map(self.trunk, self.layer, images)

    def head(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Answer scores (B,N), pre-softmax, of the map (B,K,h,w) and tokens (B,L).

        One map may be given for several questions, and one question for several maps (B=1).
        """
        return self.output(features, tokens).logits

    def output(self, features: Tensor, tokens: Tensor) -> AnswerOutput:
        """As `head`, with all that the head sees of the images beside the scores."""
        check_tokens(tokens, len(self.vocabulary))
        summary = self.image.summary(features)
        return AnswerOutput(self.answer_scores(self.image.encode(summary), self.question(tokens)), summary)

    def answer_scores(self, seen: Tensor, asked: Tensor) -> Tensor:
        """Encoded image (B,joint+N, or joint) and question (B,4D+embedding) -> (B,N).

        The product is classified; to that comes the answers' own evidence, as far as the question says to trust it
        ('what is the dog holding?' asks for a thing to be seen, 'is there a dog?' does not).
        """
        query = self.query(F.dropout(asked, self.dropout, self.training)).tanh()
        joint, evidence = seen.split([query.shape[-1], seen.shape[-1] - query.shape[-1]], -1)
        scores = self.classifier(F.dropout(joint * query, self.dropout, self.training))
        if self.trust is None or not evidence.shape[-1]:
            return scores
        return scores + self.trust(asked) * evidence

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.features(images), tokens)

    def encode(self, question: str) -> list[int]:
        """Numbers of a question's words; unknown words become `UNKNOWN`. Raises `UserError` without a word."""
        return self.vocabulary.encode(question_words(question))


SPELLINGS = {
    "colour": "color",
    "colours": "colors",
    "coloured": "colored",
    "grey": "gray",
    "tyre": "tire",
    "favourite": "favorite",
}


def question_words(question: str) -> list[str]:
    """The words of a question (see `data.words.vocabulary.tokenize`); `UserError` when there is none, or too many."""
    if not isinstance(question, str):
        raise UserError(f"a question is a string; received {question!r}")
    words = [SPELLINGS.get(word, word) for word in tokenize(question)]
    if not words:
        raise UserError(f"the question {question!r} is empty; ask something such as 'what color is the hat?'")
    if len(words) > MAX_QUESTION_WORDS:
        raise UserError(f"the question has {len(words)} words; at most {MAX_QUESTION_WORDS} are read")
    return words
