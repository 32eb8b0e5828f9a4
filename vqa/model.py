"""The VQA model: 'deeper LSTM Q + norm I' (Lu et al. 2015) on what a trunk says of an image, no attention.

A two-layer LSTM reads the question. The image is what the trunk says of it: which of its concepts are there, and how
many things of each class (see `common.networks.evidence`; Wu et al. 2016 answer from such words). The element-wise
product of both is classified over the answers; to that comes what the evidence says outright (`vqa.reading`).
Source: Lu, Lin, Batra and Parikh, github.com/GT-Vision-Lab/VQA_LSTM_CNN, 2015; Antol et al., ICCV 2015.

Letters: B images, K channels, h,w map, L tokens, S states of a question, E concepts, C counted ones, N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import SeeingTrunk
from common.text import check_tokens
from data.words.vocabulary import Vocabulary
from vqa.concepts import word_concepts
from vqa.question import QuestionEncoder, question_words
from vqa.reading import EvidenceReader, log_counts

SHARPNESS = 4.0  # of probabilities, so that they weigh as much as logarithms of counts


class ImageEncoder(nn.Module):
    """A summary (B,E+C) -> (B,joint): tanh of a linear layer on concepts' probabilities and logarithms of counts."""

    def __init__(self, concepts: int, counted: int, joint: int, dropout: float = 0.5):
        super().__init__()
        self.sizes, self.dropout = (concepts, counted), dropout
        self.project = nn.Linear(concepts + counted, joint)

    def forward(self, summary: Tensor) -> Tensor:
        logits, counts = summary.split(self.sizes, -1)
        seen = torch.cat([SHARPNESS * logits.sigmoid(), log_counts(counts)], -1)
        return self.project(F.dropout(seen, self.dropout, self.training)).tanh()


@dataclass(frozen=True)
class AnswerOutput:
    """Answer scores before the softmax, `logits` (B,N), and what they were read off: the trunk's `summary` (B,E+C)."""

    logits: Tensor
    summary: Tensor


class AnsweringModel(nn.Module):
    """What the project's VQA models have in common: a trunk and a head with the seam between them.

    `head(features(images), tokens)` -> (B, answers), before the softmax. A subclass has `question`, `query` and
    `classifier`, or says what hears the question, and gives `sizes` and `output`.
    """

    of_answers = frozenset({"classifier.weight", "classifier.bias"})  # what has a row for each answer
    classifier: nn.Linear

    def __init__(self, trunk: SeeingTrunk, vocabulary: Vocabulary, answers: Sequence[str]) -> None:
        super().__init__()
        self.trunk, self.vocabulary, self.answers = trunk, vocabulary, tuple(answers)
        self.answer_index = {answer: i for i, answer in enumerate(self.answers)}

    @property
    def sizes(self) -> dict[str, Any]:
        """What a model of the same weights is built with."""
        raise NotImplementedError

    def with_answers(self: Own, kept: Sequence[str]) -> Own:
        """The model with some of its answers only: their scores are as they were."""
        model = type(self)(self.trunk, self.vocabulary, kept, **self.sizes)
        rows = [self.answer_index[answer] for answer in kept]
        own = self.state_dict().items()
        model.load_state_dict({name: each[rows] if name in self.of_answers else each for name, each in own})
        return model.to(self.classifier.weight.device).eval()

    @property
    def hearing(self) -> nn.Module:
        """The parts that hear the question: what is trained where no image is seen."""
        return nn.ModuleDict({name: self.get_submodule(name) for name in ("question", "query", "classifier")})

    def features(self, images: Tensor) -> Tensor:
        """The last feature map A (B,K,h,w) of images (B,3,H,W), after its activation."""
        return self.trunk.features(images)

    def head(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Answer scores (B,N), pre-softmax, of the map (B,K,h,w) and tokens (B,L).

        One map may be given for several questions, and one question for several maps (B=1).
        """
        return self.output(features, tokens).logits

    def output(self, features: Tensor, tokens: Tensor) -> Any:
        """As `head`: the `logits`, with what the head saw beside them."""
        raise NotImplementedError

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.features(images), tokens)

    def encode(self, question: str) -> list[int]:
        """Numbers of a question's words; unknown words become `UNKNOWN`. Raises `UserError` without a word."""
        return self.vocabulary.encode(question_words(question))


Own = TypeVar("Own", bound=AnsweringModel)


class VqaModel(AnsweringModel):
    """The model that reads the trunk's summary of an image.

    Layers of the trunk are hooked by name (`trunk.network.blocks.6`). The answer scores are pre-softmax. The
    question's reading doesn't depend on the image, and the image is seen through the trunk's summary alone.
    """

    of_answers = AnsweringModel.of_answers | {"reader.own.weight", "reader.own.bias", "reader.names"}

    def __init__(
        self,
        trunk: SeeingTrunk,
        vocabulary: Vocabulary,
        answers: Sequence[str],
        *,
        embedding: int = 128,
        hidden: int = 128,
        joint: int = 512,
        dropout: float = 0.4,
        image_dropout: float = 0.5,
        word_dropout: float = 0.15,
    ):
        super().__init__(trunk, vocabulary, answers)
        evidence = trunk.evidence
        concepts, counted = len(evidence.words), evidence.counted
        about = word_concepts(vocabulary.words, evidence.words, counted)
        self.question = QuestionEncoder(about, concepts, embedding, hidden, word_dropout=word_dropout)
        self.image = ImageEncoder(concepts, counted, joint, image_dropout)
        self.query = nn.Linear(self.question.width, joint)
        self.classifier = nn.Linear(joint, len(self.answers))
        self.reader = EvidenceReader(self.answers, evidence.words, counted, self.question.width)
        self.dropout = dropout

    @property
    def sizes(self) -> dict[str, Any]:
        embedding, hidden = self.question.embedding.embedding_dim, self.question.lstm.hidden_size
        return {"embedding": embedding, "hidden": hidden, "joint": self.query.out_features}

    def output(self, features: Tensor, tokens: Tensor) -> AnswerOutput:
        """As `head`, with all that the head sees of the images beside the scores."""
        check_tokens(tokens, len(self.vocabulary))
        summary = self.trunk.summary(features)
        return AnswerOutput(self.answer_scores(summary, self.question(tokens)), summary)

    def answer_scores(self, summary: Tensor, asked: Tensor) -> Tensor:
        """Summaries (B,E+C) and read questions (B,S+E) -> (B,N): the product, classified, and what evidence says."""
        states, concepts = self.question.split(asked)
        told, counting = self.reader(summary, states, concepts)
        return told + self.product((1 - counting)[:, None] * self.image(summary), states)

    def blind_scores(self, asked: Tensor) -> Tensor:
        """Read questions (B,S+E) -> (B,N): what the question alone says."""
        return self.product(None, self.question.split(asked)[0])

    def product(self, image: Tensor | None, states: Tensor) -> Tensor:
        """(B,N) of the image (B,joint) and the question's states (B,S); of the question alone without an image.

        The image is a factor around 1, so that an image of which nothing is known leaves the question's own word.
        """
        query = self.query(F.dropout(states, self.dropout, self.training)).tanh()
        joint = query if image is None else (1 + image) * query
        return self.classifier(F.dropout(joint, self.dropout, self.training))
