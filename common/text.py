"""Text as a model reads, writes and scores it: words, their tokens, and targets read off the tokens' scores.

Captions, phrases, questions and generated answers all go this way. A model reads S sequences of tokens for each
of B images (a caption, a phrase that is not in it, a contrast), and says of every token how likely it is given
the ones before it and the image. A target sums this over some of the tokens:

    log p(w_1 ... w_L | image) = sum_l log p(w_l | w_1 ... w_(l-1), image)

    >>> logits, tokens = torch.zeros(1, 1, 3, 8), torch.tensor([[[4, 5, 2]]])    # eight words, equally likely
    >>> output = TextOutput.of(logits, tokens, tokens != 0)                      # logits (S, B, L, V), tokens (S, B, L)
    >>> TextLogLikelihood([0, 1], "a dog")(output)                               # (B,): twice log(1/8)
    tensor([-4.1589])

Letters: S sequences, B images, L tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.errors import UserError
from common.formulas import wide
from common.targets import Target, score_table, target_name


@dataclass(frozen=True)
class Text:
    """Words and the tokens they are written with: word i is `tokens[spans[i][0] : spans[i][1]]`.

    `unknown` are the words that the model's vocabulary lacks, which are read as its token for unknown words;
    `written` is what the user wrote, where that is more than the words.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    unknown: tuple[str, ...] = ()
    written: str = ""

    @staticmethod
    def of(words: Sequence[str], tokens: Sequence[int], unknown: Sequence[str] = (), written: str = "") -> Text:
        """Words that are written with one token each."""
        spans = tuple((i, i + 1) for i in range(len(words)))
        return Text(tuple(words), tuple(tokens), spans, tuple(unknown), written)

    @property
    def text(self) -> str:
        return self.written or " ".join(self.words)

    def span(self, start: int, count: int) -> tuple[int, int]:
        """The tokens first..last of `count` words from word `start` on."""
        return self.spans[start][0], self.spans[start + count - 1][1]

    def warn(self) -> Text:
        """The text itself, after a warning that names the words the model does not know."""
        if self.unknown:
            warnings.warn(unknown_words(self), stacklevel=3)
        return self


LONGEST = 2000  # characters of what a model is to have written: its tokens are spelled one by one


def check_length(text: str, what: str, most: int = LONGEST) -> None:
    """Raise `UserError` for a text that is longer than any is of its kind."""
    if len(text) > most:
        raise UserError(f"{what} of {len(text)} characters; at most {most} are read: give a sentence or two")


def spelled(
    tokens: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    special: Collection[int] = (),
    unknown: int | None = None,
) -> Text:
    """The words that tokens spell, by what `decode` writes for ever more of them: a token belongs to the word it ends.

    A token that is a part of a letter belongs to the letter's word. `special` tokens are read, and belong to no word.
    """
    words = decode(tokens).split()
    spans: list[list[int]] = []
    for i, token in enumerate(tokens):
        if token in special and token != unknown:
            continue
        word = min(max(len(decode(tokens[: i + 1]).split()), 1), max(len(words), 1)) - 1
        if word < len(spans):
            spans[-1][1] = i + 1
        else:
            spans.append([i, i + 1])
    names = words[: len(spans)]
    lost = [name for name, (a, b) in zip(names, spans, strict=False) if unknown is not None and unknown in tokens[a:b]]
    return Text(tuple(names), tuple(tokens), tuple((a, b) for a, b in spans[: len(names)]), tuple(dict.fromkeys(lost)))


def unknown_words(text: Text) -> str:
    """The line that names the words of a text that the model does not know."""
    words = ", ".join(f"'{word}'" for word in text.unknown)
    return f"the model does not know {words} (in '{text.text}'); each is read as its token for unknown words"


Output = TypeVar("Output", bound="TextOutput")


@dataclass(frozen=True)
class TextOutput:
    """What a model says of given tokens (teacher forcing); every field is (B, L, ...) or (S, B, L, ...).

    `log_probs`: log-probability of each token given the ones before it and the image, 0 where padded; `logits`: its
    logit less the mean of all tokens', 0 where padded; `distributions` (..., L, V): log-probabilities of all tokens at
    each place; `tokens`, `mask`.
    """

    log_probs: Tensor
    logits: Tensor
    distributions: Tensor
    tokens: Tensor
    mask: Tensor

    @classmethod
    def of(cls: type[Output], logits: Tensor, tokens: Tensor, mask: Tensor, **more: Tensor) -> Output:
        """From the logits (..., L, V) of what follows: those at each place belong to the token there.

        `more` are the fields that a subclass has besides.
        """
        logits = wide(logits)
        chosen, norm = logits.gather(-1, tokens[..., None])[..., 0], logits.logsumexp(-1)
        likely, above = chosen - norm, chosen - logits.mean(-1)
        likely, above = (each.masked_fill(~mask, 0.0) for each in (likely, above))
        return cls(likely, above, logits - norm[..., None], tokens, mask, **more)

    def first(self: Output) -> Output:
        """The first sequence of each image alone: fields (B, L, ...)."""
        if self.tokens.dim() == 2:
            return self
        return replace(self, **{field.name: getattr(self, field.name)[0] for field in fields(TextOutput)})


def joined(outputs: Sequence[TextOutput]) -> TextOutput:
    """Outputs (S, 1, L, ...) of several images as one (S, B, L, ...)."""
    return TextOutput(*(torch.cat([getattr(each, field.name) for each in outputs], 1) for field in fields(TextOutput)))


@dataclass(frozen=True, eq=False)
class TextLogLikelihood:
    """log p(words | image, the words before them): the sum over some of the tokens.

    `places` are positions in the first sequence, counted from 0, or marks (B, L) or (S, B, L), true for each token
    that counts.
    """

    places: Sequence[int] | Tensor
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        return self.together([self], output)[0]

    @staticmethod
    def together(targets: Sequence[TextLogLikelihood], output: Any) -> Tensor:
        """Scores (T, B) of several, read off at once."""
        places = torch.stack([each._marks(output.log_probs) for each in targets])
        counted = torch.where(places, output.log_probs, 0.0).sum(-1)
        return counted.sum(1) if counted.dim() == 3 else counted

    def _marks(self, tokens: Tensor) -> Tensor:
        """`places` as marks of the tokens (B, L) or (S, B, L)."""
        if isinstance(self.places, Tensor):
            if self.places.shape == tokens.shape:
                return self.places.to(tokens.device, torch.bool)
            raise UserError(
                f"places {tuple(self.places.shape)} do not fit tokens {tuple(tokens.shape)};"
                " mark the tokens of the very texts that are read"
            )
        if not len(self.places):
            raise UserError("a phrase has at least one word; received none")
        outside = [position for position in self.places if not 0 <= position < tokens.shape[-1]]
        if outside:
            raise UserError(f"word {outside[0]} of a text of {tokens.shape[-1]} tokens; count from 0")
        marked = torch.zeros_like(tokens, dtype=torch.bool)
        (marked if marked.dim() == 2 else marked[0])[:, list(self.places)] = True
        return marked


@dataclass(frozen=True, eq=False)
class OtherWordLogLikelihood:
    """log p(another word | the words before it, image) in the place of a token of the first sequence.

    `positions` and `words` (B,): which token of each image's text, and the word's number.
    """

    positions: Tensor
    words: Tensor
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        distributions = output.first().distributions
        images = torch.arange(len(distributions), device=distributions.device)
        return distributions[images, self.positions.to(images), self.words.to(images)]


@dataclass(frozen=True)
class Centred:
    """A target read off logits instead of log-probabilities: each word's logit less the mean of all words'.

    A log-probability falls as other words become likelier ('puppy' where the word is 'dog'), so its gradient
    also points away from what they share; the logit speaks of the word alone. The mean is taken off because a
    softmax leaves logits open up to a constant.
    """

    target: Target

    @property
    def name(self) -> str:
        return target_name(self.target)

    def __call__(self, output: Any) -> Tensor:
        return self.target(_centred(output))

    @staticmethod
    def together(targets: Sequence[Centred], output: Any) -> Tensor:
        """Scores (T, B) of several, read off one centred output."""
        return score_table([each.target for each in targets], _centred(output), output.log_probs.shape[-2])


def _centred(output: Any) -> Any:
    """The output with logits in the place of log-probabilities."""
    distributions = output.distributions - output.distributions.mean(-1, keepdim=True)
    return replace(output, log_probs=output.logits, distributions=distributions)


# What a word's score is: its log-probability, as in the paper, or its logit. Of the two the logit's maps lie better on
# what a word names (data/checkpoints/captioner.md), so it is the default.
SCORE = "logit"
SCORES: dict[str, Callable[[Target], Target]] = {"log_probability": lambda target: target, "logit": Centred}


def scored(targets: Sequence[Target], score: str) -> list[Target]:
    """The targets read as `score`, one of `SCORES`; `UserError` for another name."""
    if score not in SCORES:
        raise UserError(f"no score '{score}'; choose from {', '.join(SCORES)}")
    return [SCORES[score](target) for target in targets]


def padded(sequences: Sequence[Sequence[int]], device: Any = None, fill: int = 0) -> Tensor:
    """Token lists as one (B, L) tensor, padded with `fill`; L is at least 1."""
    longest = max([1, *map(len, sequences)])
    rows = [[*sequence, *[fill] * (longest - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, device=device)


def check_tokens(tokens: Tensor, vocabulary: int, dimensions: Sequence[int] = (2,)) -> None:
    """Raises `UserError` unless `tokens` are (B, at least 1), or (S, B, at least 1), with numbers in the vocabulary."""
    if tokens.dim() not in dimensions or tokens.shape[-1] == 0:
        raise UserError(f"tokens are (texts, words) with at least one word; received {tuple(tokens.shape)}")
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocabulary:
        raise UserError(
            f"token {least if least < 0 else most} is outside the vocabulary of {vocabulary} words;"
            " encode texts with the model's own vocabulary"
        )


class Sequences:
    """The token sequences read for each of B images, the image's own text first; each distinct one is read once."""

    def __init__(self, own: Sequence[Sequence[int]]) -> None:
        self.rows = [[tuple(tokens)] for tokens in own]

    def add(self, image: int, tokens: Sequence[int]) -> int:
        """The number of this sequence among those of the image."""
        if tuple(tokens) not in self.rows[image]:
            self.rows[image].append(tuple(tokens))
        return self.rows[image].index(tuple(tokens))

    def stacked(self, fill: int = 0) -> Tensor:
        """(S, B, L), padded with `fill`; an image with fewer sequences than another repeats its first."""
        count = max(map(len, self.rows))
        full = [[*each, *[each[0]] * (count - len(each))] for each in self.rows]
        flat = padded([each[s] for s in range(count) for each in full], fill=fill)
        return flat.view(count, len(full), -1)


@dataclass(frozen=True)
class Place:
    """Tokens start..stop of one sequence of one image."""

    sequence: int
    start: int
    stop: int


def marks(places: Sequence[Place | None], shape: torch.Size) -> Tensor:
    """(S, B, L), true at the tokens of each image's place; None marks none."""
    found = torch.zeros(shape, dtype=torch.bool)
    for image, place in enumerate(places):
        if place is not None:
            found[place.sequence, image, place.start : place.stop] = True
    return found
