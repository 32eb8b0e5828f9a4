"""What a classifier is asked about: the logit of a class, before the softmax (paper, section 3), or its probability.

B images, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.errors import UserError
from common.formulas import wide
from common.targets import Index, Target, Undecided, decided, logits, target_name


class ClassLogit(Index):
    """The logit of a class: the same for all images, or one class for each image, index (B,)."""


class TopLogit(Undecided):
    """The logit of the class that each image gets first, so that an explanation of the prediction needs no pass of
    its own to make it. The class is decided anew by every output that it reads, once by an explanation."""

    name = "top prediction"

    def decided(self, output: Any) -> ClassLogit:
        return ClassLogit(logits(output).detach().argmax(1), self.name)

    def __call__(self, output: Any) -> Tensor:
        return self.decided(output)(output)


@dataclass(frozen=True)
class LogProbability(Undecided):
    """A target read off log-probabilities instead of logits, in nats.

    A probability falls as other classes become likelier, so that its counterfactual (paper, section 3.4) shows what
    speaks for these, such as the other thing in the photograph; that of the logit shows what speaks against the class
    alone, wherever no class is.
    """

    target: Target

    @property
    def name(self) -> str:
        return target_name(self.target)

    def decided(self, output: Any) -> Target:
        return LogProbability(decided(self.target, output))

    def __call__(self, output: Any) -> Tensor:
        return self.target(wide(logits(output)).log_softmax(1))


# What a class's score is: its logit, as in the paper, or its log-probability.
SCORES: dict[str, Callable[[Target], Target]] = {"logit": lambda target: target, "log_probability": LogProbability}


def scored(targets: Sequence[Target], score: str) -> list[Target]:
    """The targets read as `score`, one of `SCORES`; `UserError` for another name."""
    if score not in SCORES:
        raise UserError(f"no score '{score}'; choose from {', '.join(SCORES)}")
    return [SCORES[score](target) for target in targets]
