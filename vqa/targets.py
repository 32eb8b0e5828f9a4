"""What to explain of an answer: its score before the softmax, read off the model's output (B, N)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.targets import logits


@dataclass(frozen=True)
class AnswerScore:
    """The pre-softmax score (B,) of the answer with number `index` (paper, section 8.2)."""

    index: int
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        scores = logits(output)
        if not 0 <= self.index < scores.shape[-1]:
            raise UserError(
                f"answer {self.index} is out of range; the model has answers 0 to {scores.shape[-1] - 1}"
            )
        return scores[:, self.index]

    @staticmethod
    def together(targets: Sequence[AnswerScore], output: Any) -> Tensor:
        """The scores (T, B) of several answers, read off the output in one operation."""
        numbers = [target.index for target in targets]
        if all(0 <= number < logits(output).shape[-1] for number in numbers):
            return logits(output)[:, numbers].T
        return torch.stack([target(output) for target in targets])
