"""Classifiers of a data set's own classes: the network at hand, fine-tuned on which classes are in a photograph.

As the paper's (and Kolesnikov and Lampert's, and Zhang et al.'s) networks are for VOC and COCO: image-level
labels only, no boxes or masks. Batch normalisation keeps its statistics.

    tuned = fine_tuned(base, ["cat", "dog"], [Labelled(Path("a.jpg"), frozenset({0, 1})), ...], "runs/pets")

B images, C classes.
"""

import contextlib
import copy
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import classification
from classification.classifier import Classifier
from common.errors import MethodError, UserError
from common.gradcam import explain
from common.networks.trunk import feature_map
from common.training.batches import parts
from common.training.loop import Stage, parameter_groups, seed_of, train
from common.training.run import Run

Joined = TypeVar("Joined")


@dataclass(frozen=True)
class Labelled:
    """A photograph and the indices of the classes in it."""

    path: Path
    classes: frozenset[int]


@dataclass(frozen=True)
class Tuning:
    """How a classifier is fine-tuned. With `trunk_rate` 0 all but its new last layer stays as it is.

    What that layer reads is then kept, so that every photograph passes through the network once: minutes on a CPU.
    """

    epochs: int = 4
    batch: int = 16
    trunk_rate: float = 1e-4
    head_rate: float = 2e-3
    seed: int = 0


def fine_tuned(
    base: Classifier,
    names: Sequence[str],
    images: Sequence[Labelled],
    run: str | os.PathLike[str],
    pooled: bool = False,
    tuning: Tuning | None = None,
) -> Classifier:
    """A classifier of `names`, one score each (a sigmoid's logit), trained once and kept in a folder `<run>-...`.

    With `pooled`, the network's own head gives way to average pooling and one linear layer, as CAM needs.
    Broken photographs are left out, and said on standard error. Raises `UserError` when nothing is left.
    """
    tuning = tuning or Tuning()
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed)
        module, head = _pooled(base, len(names)) if pooled else with_classes(base.network.module, len(names))
    module.to(base.network.blank().device)

    def join(numbers: Sequence[int], items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        inputs = torch.cat(list(items))
        return inputs, class_marks(images, numbers, len(names)).float().to(inputs.device)

    def pixels(number: int) -> Tensor:
        return base.images(images[number].path)

    frozen = not tuning.trunk_rate
    kept = functools.cache(lambda number: layer_inputs(module, head, pixels(number)))
    batches = ReadableBatches(images, tuning.batch, kept if frozen else pixels, join)
    trained = head if frozen else module

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return F.binary_cross_entropy_with_logits(trained(batch[0]), batch[1]), {}

    known = {id(p) for p in head.parameters()}
    rest = [p for p in module.parameters() if id(p) not in known and not frozen]
    groups = parameter_groups(module, (rest, tuning.trunk_rate), (list(head.parameters()), tuning.head_rate))
    stage = Stage("labels", tuning.epochs, batches.steps, groups, batches, loss, warmup=batches.steps // 4)
    stage.mode = lambda: (module.eval(), None)[1]  # keeps batch normalisation's statistics
    about = {"model": base.network.name, "classes": list(names), "pooled": pooled, **asdict(tuning)}
    train_once(stage, module, run, {**about, "images": photographs_mark(images)}, tuning.seed)
    batches.tell(run)
    return classification.load(
        module.eval().requires_grad_(False),
        labels=list(names),
        layer=f"trunk.{base.layer}" if pooled else base.layer,
        preprocessing=base.preprocessing,
    )


def layer_inputs(module: nn.Module, layer: nn.Module, pixels: Tensor) -> Tensor:
    """What a layer of a network reads when the network looks at images (B, 3, H, W); no graph, no hook stays."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            module.eval()(pixels)
    finally:
        hook.remove()
    return seen[-1]


def has_cam(classifier: Classifier) -> bool:
    """Whether the head is average pooling and one linear layer, so that CAM is defined."""
    try:
        explain(classifier.explainable, classifier.network.blank(), [0], methods="cam")
    except MethodError:
        return False
    return True


def with_classes(module: nn.Module, count: int) -> tuple[nn.Module, nn.Module]:
    """A copy of a network whose last linear layer is a new one with `count` outputs; and that layer.

    Raises `UserError` for a network without one.
    """
    module = copy.deepcopy(module)
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"{type(module).__name__} has no linear layer to fine-tune; choose another --model")
    name, last = linear[-1]
    parent, _, own = name.rpartition(".")
    head = nn.Linear(last.in_features, count)
    setattr(module.get_submodule(parent), own, head)
    return module, head


class Pooled(nn.Module):
    """A network's feature map, averaged, and one linear layer: the head that CAM needs."""

    def __init__(self, trunk: nn.Module, layer: str, channels: int, classes: int):
        super().__init__()
        self.trunk, self.layer = trunk, layer
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(feature_map(self.trunk, self.layer, images).mean((-2, -1)))


def _pooled(base: Classifier, count: int) -> tuple[nn.Module, nn.Module]:
    trunk = copy.deepcopy(base.network.module)
    with torch.no_grad():
        channels = feature_map(trunk, base.layer, base.network.blank()).shape[1]
    module = Pooled(trunk, base.layer, channels, count)
    return module, module.fc


class ReadableBatches(Generic[Joined]):
    """Shuffled batches of photographs; those that cannot be read are left out, and each of them noted once.

    `read(n)` gives photograph n or raises `UserError`; `join` makes a batch of several, given with their numbers.
    """

    def __init__(
        self,
        images: Sequence[Labelled],
        size: int,
        read: Callable[[int], Tensor],
        join: Callable[[Sequence[int], Sequence[Tensor]], Joined],
    ):
        self.count, self.size, self.read, self.join = len(images), size, read, join
        self.problems: dict[int, str] = {}
        if not images:
            raise UserError("no photograph with a class to train on")

    @property
    def steps(self) -> int:
        return -(-self.count // self.size)

    def __call__(self, seed: int) -> Iterator[Joined]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed)).tolist()
        for numbers in parts(order, self.size):
            known = {number: item for number in numbers if (item := self._readable(number)) is not None}
            if known:
                yield self.join(list(known), list(known.values()))
        if len(self.problems) == self.count:
            raise UserError(next(iter(self.problems.values())))

    def _readable(self, number: int) -> Tensor | None:
        try:
            return None if number in self.problems else self.read(number)
        except UserError as problem:
            self.problems[number] = str(problem)
            return None

    def tell(self, run: str | os.PathLike[str]) -> None:
        """Say what was left out."""
        if self.problems:
            first = next(iter(self.problems.values()))
            count, what = len(self.problems), Path(run).name
            print(f"{what}: {count} photographs could not be trained on; the first: {first}", file=sys.stderr)


def train_once(
    stage: Stage, module: nn.Module, run: str | os.PathLike[str], settings: dict[str, Any], seed: int
) -> None:
    """Train in a folder of these settings' own, going on where it was stopped; its log goes to standard error."""
    place = Path(f"{os.fspath(run)}-{seed_of(json.dumps(settings, sort_keys=True)):08x}")
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng():
        train([stage], module, Run(place, settings), seed)


def photographs_mark(images: Sequence[Labelled]) -> int:
    """A number that tells these photographs with these labels from others."""
    return seed_of(*(f"{item.path.name}:{sorted(item.classes)}" for item in images))


def class_marks(images: Sequence[Labelled], numbers: Sequence[int], classes: int) -> Tensor:
    """(B, C), true for the classes that are in each of these photographs."""
    marks = torch.zeros(len(numbers), classes, dtype=torch.bool)
    for row, number in enumerate(numbers):
        marks[row, sorted(images[number].classes)] = True
    return marks
