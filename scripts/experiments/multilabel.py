"""Classifiers of a data set's own classes: the network at hand, fine-tuned on which classes are in a photograph.

As the paper's (and Kolesnikov and Lampert's, and Zhang et al.'s) networks are for VOC and COCO: image-level
labels only, no boxes or masks. Batch normalisation keeps its statistics.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import classification
from classification.classifier import Classifier
from common.errors import MethodError, UserError
from common.gradcam import explain
from common.networks.trunk import feature_map
from common.training.loop import Run, Stage, parameter_groups, seed_of, train
from scripts import console as cli
from scripts.experiments.lab import Lab


@dataclass(frozen=True)
class Labelled:
    """A photograph and the indices of the classes in it."""

    path: Path
    classes: frozenset[int]


@dataclass(frozen=True)
class Tuning:
    """How a classifier is fine-tuned."""

    epochs: int = 4
    batch: int = 16
    trunk_rate: float = 1e-4
    head_rate: float = 2e-3
    seed: int = 0


def plain_classifier(lab: Lab) -> Classifier:
    """The lab's classifier with its weights as they were trained, not folded for speed."""
    known: Classifier = lab.classifier
    return classification.load(lab.model, device=lab.device) if known.changes else known


def fine_tuned(
    lab: Lab,
    name: str,
    names: Sequence[str],
    images: Sequence[Labelled],
    pooled: bool = False,
    tuning: Tuning | None = None,
) -> Classifier:
    """A classifier of `names`, one score each (a sigmoid's logit), trained once and kept in `runs/`.

    With `pooled`, the network's own head gives way to average pooling and one linear layer, as CAM needs.
    Broken photographs are left out, and said. Raises `UserError` when nothing is left to train on.
    """
    tuning = tuning or Tuning()
    base = plain_classifier(lab)
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed)
        module, head = _pooled(base, len(names)) if pooled else with_classes(base.network.module, len(names))
    module.to(base.network.blank().device)
    settings = {"model": lab.model, "classes": list(names), "pooled": pooled, **asdict(tuning)}
    settings["images"] = seed_of(*(f"{item.path.name}:{sorted(item.classes)}" for item in images))
    batches = Batches(base, images, len(names), tuning.batch)

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return F.binary_cross_entropy_with_logits(module(batch[0]), batch[1]), {}

    head_parameters = list(head.parameters())
    known = {id(p) for p in head_parameters}
    rest = [p for p in module.parameters() if id(p) not in known]

    def keep_statistics() -> None:
        module.eval()

    groups = parameter_groups(module, (rest, tuning.trunk_rate), (head_parameters, tuning.head_rate))
    stage = Stage(
        "labels",
        tuning.epochs,
        batches.steps,
        groups,
        batches,
        loss,
        warmup=batches.steps // 4,
        mode=keep_statistics,
    )
    run_stages([stage], module, lab.out / "runs", name, settings, tuning.seed)
    batches.tell(name)
    layer = f"trunk.{base.layer}" if pooled else base.layer
    return classification.load(
        module.eval().requires_grad_(False), labels=list(names), layer=layer, preprocessing=base.preprocessing
    )


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


class Batches:
    """Shuffled batches (images (B, 3, H, W), labels (B, C) of 0 and 1); what cannot be read is left out."""

    def __init__(self, classifier: Classifier, images: Sequence[Labelled], classes: int, size: int):
        self.classifier, self.images, self.classes, self.size = classifier, list(images), classes, size
        self.problems: dict[Path, str] = {}
        if not self.images:
            raise UserError("no photograph to train on")

    @property
    def steps(self) -> int:
        return -(-len(self.images) // self.size)

    def __call__(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed)).tolist()
        for start in range(0, len(order), self.size):
            pairs = [self._read(self.images[place]) for place in order[start : start + self.size]]
            known = [pair for pair in pairs if pair is not None]
            if known:
                yield torch.cat([image for image, _ in known]), torch.stack([label for _, label in known])
        if len(self.problems) == len(self.images):
            raise UserError(next(iter(self.problems.values())))

    def _read(self, item: Labelled) -> tuple[Tensor, Tensor] | None:
        if item.path in self.problems:
            return None
        try:
            image = self.classifier.images(item.path)
        except UserError as problem:
            self.problems[item.path] = str(problem)
            return None
        label = torch.zeros(self.classes, device=image.device)
        label[sorted(item.classes)] = 1
        return image, label

    def tell(self, what: str) -> None:
        """Say what was left out."""
        if self.problems:
            first = next(iter(self.problems.values()))
            cli.report(
                f"{what}: {len(self.problems)} photographs could not be trained on; the first: {first}"
            )


def run_stages(
    stages: list[Stage], module: nn.Module, folder: Path, name: str, settings: dict[str, Any], seed: int
) -> Path:
    """Train in a folder of these settings' own, going on where it was stopped; its log goes to standard error."""
    place = folder / f"{name}-{seed_of(json.dumps(settings, sort_keys=True)):08x}"
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng():
        train(stages, module, Run(place, settings), seed)
    return place
