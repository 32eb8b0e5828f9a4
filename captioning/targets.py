"""What to explain of a caption: sums of word log-probabilities, read off a `common.text.TextOutput`.

The paper explains a caption by its log-likelihood, the sum over its words without the end token, and a word
by its log-probability given the words before it; `common.text.scored` reads the same targets off logits. Words,
phrases and other words are scored as all text is, by `common.text.TextLogLikelihood` and `OtherWordLogLikelihood`.
Letters: S sequences, B images, L tokens.

Where several sequences were read for each image (a caption and what it is contrasted with), the targets here
read the first.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.words.vocabulary import END


@dataclass(frozen=True)
class CaptionLogLikelihood:
    """log p(caption | image): the sum over the caption's words, the end token left out."""

    name: str = "caption"
    end: int = END

    def __call__(self, output: Any) -> Tensor:
        first = output.first()
        return (first.log_probs * (first.mask & (first.tokens != self.end))).sum(-1)


@dataclass(frozen=True)
class EndLogLikelihood:
    """log p(the caption ends here | its words, image); 0 for a caption without an end token."""

    name: str = "end of the caption"
    end: int = END

    def __call__(self, output: Any) -> Tensor:
        first = output.first()
        return (first.log_probs * (first.mask & (first.tokens == self.end))).sum(-1)
