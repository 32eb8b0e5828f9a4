"""How the VQA model reads a question: 'deeper LSTM Q' (Lu et al. 2015), and which concepts its words ask about.

Letters: B questions, L tokens, V vocabulary, M embedding, D hidden, S states, E concepts.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.text import check_length
from data.records import MAX_QUESTION_WORDS
from data.words.vocabulary import PAD, tokenize

SPELLINGS = {
    "colour": "color",
    "colours": "colors",
    "coloured": "colored",
    "grey": "gray",
    "tyre": "tire",
    "favourite": "favorite",
}


class QuestionEncoder(nn.Module):
    """Two-layer LSTM over the words of a question: (B,L) tokens -> (B,S+E), S = 4D+M states and what is asked about.

    `about` has the numbers of the concepts that each word names (V,3), E where there are fewer.

    The states are the last ones of both layers, and beside them the sum of the words' embeddings, which few questions
    suffice to learn from; then how far each concept is asked about (see `split`): a word asks about the concepts that
    it names, which isn't learned. How far it counts among what is asked about is read off the LSTM's output at that
    word ('is there a book on the table?': book, not table).

    Padding (0, at the end) changes nothing.
    """

    about: Tensor

    def __init__(
        self,
        about: Tensor,
        concepts: int,
        embedding: int = 128,
        hidden: int = 128,
        dropout: float = 0.3,
        word_dropout: float = 0.15,
    ):
        super().__init__()
        self.sizes = (embedding, concepts)
        self.embedding = nn.Embedding(len(about), embedding)
        self.register_buffer("about", about)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, dropout=dropout, batch_first=True)
        self.counts = nn.Linear(hidden, 1)
        self.width = 4 * hidden + embedding
        self.dropout, self.word_dropout = dropout, word_dropout
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.counts.weight)
        nn.init.constant_(self.counts.bias, 2.0)
        for bias in (self.lstm.bias_ih_l0, self.lstm.bias_ih_l1):  # remember at first: the cells start as bags of words
            nn.init.constant_(cast(Tensor, bias)[hidden : 2 * hidden], 1.0)

    def vectors(self, tokens: Tensor) -> Tensor:
        """(B,L) -> (B,L,M+E): each word's embedding, and 1 at the concepts that it names."""
        words = self.embedding(tokens)
        named = words.new_zeros(*tokens.shape, self.sizes[1] + 1)
        return torch.cat([words, named.scatter(-1, self.about[tokens].long(), 1.0)[..., :-1]], -1)

    def embed(self, tokens: Tensor) -> Tensor:
        """As `vectors`; in training, what the LSTM reads of a word is dropped now and then."""
        embedded = self.vectors(tokens)
        if not self.training:
            return embedded
        words, concepts = embedded.split(self.sizes, -1)
        keep = torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout
        return torch.cat([F.dropout(words * keep[..., None], self.dropout), concepts], -1)

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B,L,M+E) and which of the places hold a word (B,L) -> (B,S+E), without dropout of words."""
        words, concepts = embedded.split(self.sizes, -1)
        kept = mask[..., None].to(words)
        outputs, states = self._run(words, mask)
        bag = (words * kept).sum(1) / kept.sum(1).clamp(min=1).sqrt()
        about = torch.bmm((self.counts(outputs).sigmoid() * kept).transpose(1, 2), concepts)[:, 0]
        return torch.cat([*states, bag, about.clamp(-MOST, MOST)], 1)

    def _run(self, words: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The upper layer's outputs (B,L,D), and both layers' last states h and c (B,D); 0 without a word."""
        lengths = mask.sum(1)
        if bool(mask.all()):
            outputs, (h, c) = self.lstm(words)
        else:
            packed: Any = nn.utils.rnn.pack_padded_sequence(
                words, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
            )
            packed, (h, c) = self.lstm(packed)
            outputs, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=mask.shape[1])
        there = (lengths > 0)[:, None]
        return outputs, [state * there for state in (h[0], c[0], h[1], c[1])]

    def split(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """States (B,S) of what was asked (B,S+E), and how far each concept is asked about (B,E)."""
        states, concepts = asked.split([self.width, self.sizes[1]], -1)
        return states, concepts

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,L) tokens, each row with words or none -> (B,S+E)."""
        return self.encode(self.embed(tokens), tokens != PAD)


MOST = 1.5
"""How far a concept can be asked about: twice in a question is not twice as much."""


def question_words(question: str) -> list[str]:
    """The words of a question (see `data.words.vocabulary.tokenize`); `UserError` when there is none, or too many."""
    if not isinstance(question, str):
        raise UserError(f"a question is a string; received {question!r}")
    check_length(question, "a question", 10_000)
    words = [SPELLINGS.get(word, word) for word in tokenize(question)]
    if not words:
        raise UserError(f"the question {question!r} is empty; ask something such as 'what color is the hat?'")
    if len(words) > MAX_QUESTION_WORDS:
        raise UserError(f"the question has {len(words)} words; at most {MAX_QUESTION_WORDS} are read")
    return words
