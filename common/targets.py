"""What to explain: a target is a callable, output -> (B,) scores. Nothing here knows a task.

B images, T targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.layers import first_tensor

Target = Callable[[Any], Tensor]
Targets = int | Tensor | Target | Sequence[int | Tensor | Target]


class Undecided:
    """A target that reads off the output itself what it is about, such as the class with the largest score.

    Of an image that is covered, or a map without a channel, that may be something else. So an explanation decides
    it once, by the plain output: `decided(output)` is the target that stays with it.
    """

    def decided(self, output: Any) -> Target:
        raise NotImplementedError


def decided(target: Target, output: Any) -> Target:
    """The target as it is, or as the output decides it (see `Undecided`)."""
    return target.decided(output) if isinstance(target, Undecided) else target


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
class Negated(Undecided):
    """Minus a target: its Grad-CAM is the counterfactual, what would lower the score (paper, section 3.4)."""

    target: Any  # an index or a target

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _as_target(self.target))

    @property
    def name(self) -> str:
        return f"not {target_name(self.target)}"

    def decided(self, output: Any) -> Target:
        return Negated(decided(self.target, output))

    def __call__(self, output: Any) -> Tensor:
        return -self.target(output)


@dataclass(frozen=True)
class Contrast(Undecided):
    """Why `this` rather than `other`: the difference of two targets' scores.

    >>> Contrast(281, 285)(torch.arange(1000.0)[None])  # indices, or targets of any kind
    tensor([-4.])
    """

    this: Any  # an index or a target
    other: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "this", _as_target(self.this))
        object.__setattr__(self, "other", _as_target(self.other))

    @property
    def name(self) -> str:
        return f"{target_name(self.this)} rather than {target_name(self.other)}"

    def decided(self, output: Any) -> Target:
        return Contrast(decided(self.this, output), decided(self.other, output))

    def __call__(self, output: Any) -> Tensor:
        return self.this(output) - self.other(output)


@dataclass(frozen=True)
class Finer(Undecided):
    """What tells a class from those most like it: its logit less `strength` times a mean of theirs.

    Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation (CVPR 2025):
    explained by any CAM method, what the classes share goes and what is the class's own stays. The others are
    `others`, or in each image the `count` classes whose logits are nearest to this one's. Their mean is weighted
    by their probabilities, as in the authors' code.

    >>> round(Finer(0, others=(1, 2))(torch.tensor([[3.0, 2.0, 2.0, 9.0]])).item(), 4)
    1.0
    """

    index: int
    others: Sequence[int] | Tensor = ()  # numbers, or (B, n), those of each image
    count: int = 3
    strength: float = 1.0

    @property
    def name(self) -> str:
        given = () if isinstance(self.others, Tensor) else self.others
        return f"{self.index} rather than {', '.join(map(str, given)) or f'the {self.count} nearest'}"

    def decided(self, output: Any) -> Target:
        return self if len(self.others) else replace(self, others=self._nearest(logits(output).detach()))

    def __call__(self, output: Any) -> Tensor:
        this, scores = Index(self.index)(output), logits(output)
        if not len(self.others):
            others = scores.gather(1, self._nearest(scores.detach()))
        elif isinstance(self.others, Tensor):
            others = scores.gather(1, self.others)
        else:
            others = torch.stack([Index(other)(output) for other in self.others], 1)
        return this - self.strength * (others.softmax(1) * others).sum(1)

    def _nearest(self, scores: Tensor) -> Tensor:
        """The classes (B, count) with the logits nearest to this one's, itself left out."""
        away = (scores - scores[:, self.index, None]).abs()
        away[:, self.index] = torch.inf
        return away.topk(min(self.count, scores.shape[1] - 1), largest=False).indices


def target_name(target: Target) -> str:
    """A target's `name`, or what it is called in code."""
    name = getattr(target, "name", "") or getattr(target, "__name__", "")
    index = getattr(target, "index", None)
    return str(name or (index if isinstance(index, int) else "") or type(target).__name__)


def as_targets(targets: Any) -> tuple[Target, ...]:
    """Targets from what a caller may write: an index, one index for each image, a callable, or any number of these.

    An array or tensor (B,) of whole numbers is one index for each image; a list of numbers is several targets.
    """
    single = isinstance(targets, (str, Tensor, np.ndarray)) or callable(targets)
    several = list(targets) if isinstance(targets, Iterable) and not single else [targets]
    if not several:
        raise UserError("no targets given; give at least one index or callable")
    return tuple(_as_target(target) for target in several)


def _as_target(target: Any) -> Target:
    if callable(target):
        return target
    if isinstance(target, np.ndarray) and target.dtype.kind in "iubfc":
        target = torch.from_numpy(target)
    if isinstance(target, Tensor):
        return _index_of(target)
    if hasattr(target, "__index__") and not isinstance(target, (bool, np.ndarray)):
        return Index(int(target), str(int(target)))
    raise UserError(f"target {target!r} is neither an index nor a callable output -> (B,) scores")


def _index_of(values: Tensor) -> Index:
    if values.dim() > 1 or values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise UserError(
            f"a target of shape {tuple(values.shape)} and {values.dtype}; indices are whole numbers: give one,"
            " or one for each image, (B,), or a callable output -> (B,) scores"
        )
    if values.dim() == 0:
        return Index(int(values), str(int(values)))
    return Index(values.long(), "one index for each image")


def score_table(targets: Sequence[Target], output: Any, images: int, differentiable: bool = False) -> Tensor:
    """The scores of all targets, (T, B); neighbours of a kind that has `together` are read off at once.

    Raises `UserError` for what is no score of each image, for one that is not finite and, where it has to be
    `differentiable`, for one without a gradient.
    """
    rows = []
    for kind, group in groupby(targets, key=type):
        several = list(group)
        if len(several) > 1 and hasattr(kind, "together"):
            rows.append(kind.together(several, output))
        else:
            rows += [_score(target, output, images, differentiable)[None] for target in several]
    scores = torch.cat(rows)
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).any(1).nonzero()[0])
        raise UserError(
            f"the score of target '{target_name(targets[bad])}' is {scores[bad].tolist()}; check the weights and the"
            " images for NaN and infinity"
        )
    return scores


def _score(target: Target, output: Any, images: int, differentiable: bool) -> Tensor:
    row = target(output)
    if not isinstance(row, Tensor) or row.shape != (images,) or not row.is_floating_point():
        given = f"scores of shape {tuple(row.shape)} and {row.dtype}" if isinstance(row, Tensor) else repr(row)[:80]
        raise UserError(
            f"target '{target_name(target)}' gave {given}; a target gives one real number for each image, a tensor"
            f" ({images},)"
        )
    if differentiable and not row.requires_grad:
        raise UserError(
            f"target '{target_name(target)}' does not depend on the explained layer, by a gradient; name a layer on"
            " its way to the output, or leave the target out"
        )
    return row


def logits(output: Any) -> Tensor:
    """The (B, C) scores of what a model returned: a tensor, `.logits` or ["logits"] of it, or a tuple's first."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensor = found if isinstance(found, Tensor) else first_tensor(output)
    if tensor is None or tensor.dim() != 2:
        shape = "no tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise UserError(f"the output has {shape}, not (B, C) scores; give a callable output -> (B,) as target")
    return tensor
