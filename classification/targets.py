"""What a classifier is asked about: the logit of a class, before the softmax (paper, section 3).

B images, C classes.
"""

from typing import Any

from torch import Tensor

from common.targets import Index, Undecided, logits


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
