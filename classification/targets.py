"""What a classifier is asked about: the logit of a class, before the softmax (paper, section 3).

B images, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from common.targets import Index, logits


class ClassLogit(Index):
    """The logit of a class: the same for all images, or one class for each image, index (B,)."""


@dataclass(eq=False)
class TopLogit:
    """The logit of the class that each image gets first, decided in the first pass and kept from then on.

    So an explanation of the prediction needs no pass of its own to make the prediction. `describe` names a
    class; `indices` (B,) is there after the first pass.
    """

    describe: Callable[[int], str] = str
    indices: Tensor | None = field(default=None, init=False)

    def __call__(self, output: Any) -> Tensor:
        if self.indices is None:
            self.indices = logits(output).detach().argmax(1)
        return Index(self.indices)(output)

    @property
    def name(self) -> str:
        if self.indices is not None and len(self.indices) == 1:
            return self.describe(int(self.indices))
        return "top prediction"
