"""What to explain of a caption: sums of word log-probabilities, read off a `CaptionOutput`.

The paper explains a caption by its log-likelihood, the sum over its words without the end token, and a word
by its log-probability given the words before it. Letters: S sequences, B images, L tokens.

An output has `log_probs`, `tokens` and `mask`, each (B, L), or (S, B, L) where several sequences were read
for each image (a caption and what it is contrasted with); all targets here but `PhraseLogLikelihood` with
places of its own read the first sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.targets import Target, target_name
from data.words.vocabulary import END


@dataclass(frozen=True)
class CaptionLogLikelihood:
    """log p(caption | image): the sum over the caption's words, the end token left out."""

    name: str = "caption"
    end: int = END

    def __call__(self, output: Any) -> Tensor:
        log_probs, tokens, mask = _first(output)
        return (log_probs * (mask & (tokens != self.end))).sum(-1)


@dataclass(frozen=True)
class WordLogLikelihood:
    """log p(word | the words before it, image) of the token at `position`, counted from 0; 0 where padded."""

    position: int
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        log_probs, _, mask = _first(output)
        if not 0 <= self.position < log_probs.shape[-1]:
            raise UserError(
                f"word {self.position} of a caption of {log_probs.shape[-1]} tokens; count from 0"
            )
        return log_probs[:, self.position] * mask[:, self.position]


@dataclass(frozen=True, eq=False)
class PhraseLogLikelihood:
    """The sum over some of the tokens: positions, or places (B, L) or (S, B, L), true for each that
    counts.
    """

    places: Sequence[int] | Tensor
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        if isinstance(self.places, Tensor):
            if self.places.shape != output.log_probs.shape:
                raise UserError(
                    f"places {tuple(self.places.shape)} do not fit tokens {tuple(output.log_probs.shape)};"
                    " mark the tokens of the very captions that are read"
                )
            counted = output.log_probs * self.places.to(output.log_probs)
            return counted.sum(-1).sum(0) if counted.dim() == 3 else counted.sum(-1)
        words = [WordLogLikelihood(position)(output) for position in self.places]
        if not words:
            raise UserError("a phrase has at least one word; received none")
        return torch.stack(words).sum(0)


@dataclass(frozen=True)
class EndLogLikelihood:
    """log p(the caption ends here | its words, image); 0 for a caption without an end token."""

    name: str = "end of the caption"
    end: int = END

    def __call__(self, output: Any) -> Tensor:
        log_probs, tokens, mask = _first(output)
        return (log_probs * (mask & (tokens == self.end))).sum(-1)


@dataclass(frozen=True, eq=False)
class OtherWordLogLikelihood:
    """log p(another word | the words before it, image) in the place of a token of the first sequence.

    `positions` and `words` (B,): which token of each image's caption, and the word's number.
    """

    positions: Tensor
    words: Tensor
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        distributions = output.distributions if output.distributions.dim() == 3 else output.distributions[0]
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
        logits = output.distributions - output.distributions.mean(-1, keepdim=True)
        chosen = logits.gather(-1, output.tokens[..., None])[..., 0].masked_fill(~output.mask, 0.0)
        return self.target(replace(output, log_probs=chosen, distributions=logits))


# What a word's score is: its log-probability, as in the paper, or its logit.
SCORES: dict[str, Callable[[Target], Target]] = {"log_probability": lambda target: target, "logit": Centred}


def scored(targets: Sequence[Target], score: str) -> list[Target]:
    """The targets read as `score`, one of `SCORES`; `UserError` for another name."""
    if score not in SCORES:
        raise UserError(f"no score '{score}'; choose from {', '.join(SCORES)}")
    return [SCORES[score](target) for target in targets]


def _first(output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(log_probs, tokens, mask), each (B, L), of the first sequence of each image."""
    parts = (output.log_probs, output.tokens, output.mask)
    return parts if output.log_probs.dim() == 2 else tuple(part[0] for part in parts)  # type: ignore[return-value]
