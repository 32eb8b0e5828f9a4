"""What to explain: a target is a callable, output -> (B,) scores. Nothing here knows a task.

B images, T targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.layers import first_tensor

Target = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Index:
    """The score at one index of the output (B, C): the same for all images, or one for each, (B,)."""

    index: int | Tensor
    name: str = ""

    def __call__(self, output: Any) -> Tensor:
        scores = logits(output)
        count = scores.shape[-1]
        if isinstance(self.index, Tensor):
            index = self.index.to(scores.device)
            if index.shape != scores.shape[:1] or bool(((index < 0) | (index >= count)).any()):
                raise UserError(
                    f"targets {self.index.tolist()} do not fit {scores.shape[0]} image(s) with {count} scores each;"
                    f" give one index from 0 to {count - 1} for each image"
                )
            return scores.gather(1, index[:, None])[:, 0]
        if not 0 <= self.index < count:
            raise UserError(f"target {self.index} is out of range; the model has scores 0 to {count - 1}")
        return scores[:, self.index]

    @staticmethod
    def together(targets: Sequence["Index"], output: Any) -> Tensor:
        """The scores (T, B) of several targets, read off the output in one operation where that can be done."""
        scores, indices = logits(output), [target.index for target in targets]
        if all(isinstance(index, int) and 0 <= index < scores.shape[-1] for index in indices):
            return scores[:, indices].T
        return torch.stack([target(output) for target in targets])


@dataclass(frozen=True)
class Negated:
    """Minus a target: its Grad-CAM is the counterfactual, what would lower the score (paper, section 3.4)."""

    target: Target

    @property
    def name(self) -> str:
        return f"not {target_name(self.target)}"

    def __call__(self, output: Any) -> Tensor:
        return -self.target(output)


@dataclass(frozen=True)
class Contrast:
    """Why `this` rather than `other`: the difference of two targets' scores."""

    this: Target
    other: Target

    @property
    def name(self) -> str:
        return f"{target_name(self.this)} rather than {target_name(self.other)}"

    def __call__(self, output: Any) -> Tensor:
        return self.this(output) - self.other(output)


def target_name(target: Target) -> str:
    """A target's `name`, or what it is called in code."""
    name = getattr(target, "name", "") or getattr(target, "__name__", "")
    index = getattr(target, "index", None)
    return str(name or (index if isinstance(index, int) else "") or type(target).__name__)


def as_targets(targets: int | Tensor | Target | Sequence[int | Tensor | Target]) -> tuple[Target, ...]:
    """Targets from what a caller may write: an index, one index for each image, a callable, or a list of these."""
    several = targets if isinstance(targets, Sequence) else [targets]
    if not several:
        raise UserError("no targets given; give at least one index or callable")
    return tuple(_as_target(target) for target in several)


def _as_target(target: Any) -> Target:
    if isinstance(target, bool):
        raise UserError(f"target {target!r} is neither an index nor a callable output -> (B,) scores")
    if hasattr(target, "__index__") and not (isinstance(target, Tensor) and target.dim()):
        return Index(int(target), str(int(target)))
    if isinstance(target, Tensor):
        return Index(target, "one index for each image")
    if callable(target):
        return target
    raise UserError(f"target {target!r} is neither an index nor a callable output -> (B,) scores")


def score_table(targets: Sequence[Target], output: Any, images: int) -> Tensor:
    """The scores of all targets, (T, B); neighbours of a kind that has `together` are read off at once.

    Raises `UserError` for a wrong shape or a score that is not finite.
    """
    rows = []
    for kind, group in groupby(targets, key=type):
        several = list(group)
        if len(several) > 1 and hasattr(kind, "together"):
            rows.append(kind.together(several, output))
        else:
            rows += [_score(target, output, images)[None] for target in several]
    scores = torch.cat(rows)
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).any(1).nonzero()[0])
        raise UserError(
            f"the score of target '{target_name(targets[bad])}' is {scores[bad].tolist()}; check the weights and the"
            " images for NaN and infinity"
        )
    return scores


def _score(target: Target, output: Any, images: int) -> Tensor:
    row = target(output)
    if row.shape != (images,):
        raise UserError(
            f"target '{target_name(target)}' gave scores of shape {tuple(row.shape)}; a target gives one score"
            f" for each image, ({images},)"
        )
    return row


def logits(output: Any) -> Tensor:
    """The (B, C) scores of what a model returned: a tensor, its `.logits` or ["logits"], or a tuple's first."""
    found = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    tensor = found if isinstance(found, Tensor) else first_tensor(output)
    if tensor is None or tensor.dim() != 2:
        shape = "no tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise UserError(
            f"the output has {shape}, not (B, C) scores; give a callable output -> (B,) as target"
        )
    return tensor
