"""A trunk in training: its one stage, its losses and its figures.

Letters: B images, n photographs, E concepts, C of them counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.loop import Stage, fold_of, parameter_groups, seed_everything
from common.training.run import Run
from common.training.trunk.corpus import Corpus
from common.training.trunk.figures import figures
from common.training.trunk.loader import Batch, Loader
from common.training.trunk.settings import Settings
from common.training.trunks import save_seeing_trunk

SCALE = 0.3  # of ImageNet's classes' weights: logits of a thousand-way softmax are larger than those of yes or no
IMAGENET = 1000  # classes
LARGEST = 12  # a larger number of things is taught as this one


class Training:
    """A trunk in training on the photographs of a corpus, without those of `fold` where one is given."""

    def __init__(self, corpus: Corpus, loader: Loader, settings: Settings, fold: int | None = None):
        self.corpus, self.loader, self.settings, self.fold = corpus, loader, settings, fold
        self.device = loader.device
        seed_everything(settings.seed, settings.trunk)
        trunk = load_trunk(settings.trunk)
        self.pretrained = trunk.pretrained
        self.model = SeeingTrunk.of(trunk, corpus.names, corpus.counted)
        base = loader.targets.part(corpus.numbers("train")).base()
        start_evidence(self.model, base, corpus.imagenet, trunk.classifier)
        self.model.to(memory_format=torch.channels_last).to(self.device)  # type: ignore[call-overload]
        self.tail = trunk.split(settings.train_blocks)[1]

    def numbers(self, fold: int | None = None) -> list[int]:
        """The training photographs, by their number in the corpus: those of a fold, or all.

        A photograph's fold goes by its id alone.
        """
        found = self.corpus.numbers("train")
        if fold is None:
            return found
        ids = [self.corpus.photographs[n].image_id for n in found]
        return [n for n, name in zip(found, ids, strict=True) if fold_of(name, self.settings.folds) == fold]

    def stage(self) -> Stage:
        """The one stage: all photographs that aren't of the fold left out, each in a random view."""
        s = self.settings
        left_out = set() if self.fold is None else set(self.numbers(self.fold))
        numbers = [n for n in self.numbers() if n not in left_out]
        steps = -(-len(numbers) // s.batch)
        groups = (
            (list(self.tail.parameters()), s.trunk_rate),
            (list(self.model.evidence.parameters()), s.evidence_rate),
        )
        return Stage(
            "trunk" if self.fold is None else f"fold {self.fold + 1} of {s.folds}",
            s.trunk_epochs,
            steps,
            parameter_groups(self.model, *groups),
            partial(self.loader.epoch, numbers, views=s.views),
            self.loss,
            self.watched,
            weight_decay=s.weight_decay,
            average=s.average,
            warmup=min(50, steps),
            mode=self.mode,
        )

    def mode(self) -> None:
        """Train mode; a pretrained network keeps its batch norms as they were trained on ImageNet."""
        self.model.train()
        if self.pretrained:
            self.model.network.eval()

    def summary(self, stored: Tensor) -> Tensor:
        """Stored features (B,..) -> what is told of the photographs (B,E+C); channels are dropped in training."""
        maps = F.dropout2d(self.tail(stored), self.settings.feature_dropout, self.model.training)
        return self.model.summary(maps)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of classes and words, Poisson's loss of counts: summed, averaged over photographs."""
        logits, numbers = self.model.evidence.split(self.summary(batch.features))
        each = F.binary_cross_entropy_with_logits(logits, batch.values, reduction="none") * batch.weights
        classes, words = (part.sum() / len(each) for part in each.split(_sizes(self.model), 1))
        counts = count_loss(numbers, batch.counts)
        loss = classes + self.settings.word_weight * words + self.settings.count_weight * counts
        return loss, {"classes": classes.item(), "words": words.item(), "counts": counts.item()}

    @torch.no_grad()
    def summaries(self, numbers: Sequence[int], view: int = 0) -> np.ndarray:
        """What the trunk tells of photographs (n,E+C) in one view."""
        self.model.eval()
        return torch.cat([self.summary(b.features) for b in self.loader.plain(numbers, view)]).cpu().numpy()

    def held(self) -> dict[str, list[int]]:
        """The photographs that nothing is trained on, by family; those kept for their captions apart."""
        photographs, held = self.corpus.photographs, self.corpus.numbers("val", "captions")
        captioned = self.loader.targets.weights[:, self.corpus.counted :].min(1, initial=1) >= 1
        kept = {photographs[n].family for n in held if photographs[n].split == "captions"}
        found: dict[str, list[int]] = {}
        for n in held:
            if photographs[n].split == "val":
                found.setdefault(photographs[n].family, []).append(n)
            if photographs[n].family in kept and captioned[n]:
                found.setdefault(f"{photographs[n].family}_captions", []).append(n)
        return found

    def measured(self, draws: int = 0) -> dict[str, tuple[float, float, int]]:
        """Each figure of the held photographs: value, standard error, n."""
        found, held = {}, self.held()
        for family, numbers in held.items():
            made = figures(self.summaries(numbers), self.loader.targets.part(numbers), draws)
            if f"{family}_captions" in held:
                made.pop("words", None)  # of few
            found.update({f"{family}_{name}": figure for name, figure in made.items()})
        return found

    def watched(self) -> dict[str, float]:
        return {f"val_{name}": value for name, (value, _, _) in self.measured().items()}

    def save(self, path: Path, run: Run) -> Path:
        """Write the trunk, with the mean of what it tells of its training photographs and its figures."""
        typical = self.summaries(self.numbers()).mean(0)
        self.model.evidence.typical.copy_(torch.from_numpy(typical))
        found = self.measured(draws=100)
        run.log({"final": True, **{name: value for name, (value, _, _) in found.items()}})
        return save_seeing_trunk(path, self.model, self.described(found))

    def described(self, found: dict[str, tuple[float, float, int]]) -> dict[str, Any]:
        """The checkpoint's configuration."""
        rounded = {
            name: {"value": round(value, 4), "standard_error": round(error, 4), "n": n}
            for name, (value, error, n) in found.items()
        }
        trained = Counter(p.family for p in self.corpus.photographs if p.split == "train")
        return {
            "network": self.settings.trunk,
            "settings": asdict(self.settings),
            "trained_on": dict(trained),
            "texts": len(self.corpus.texts),
            "figures": rounded,
        }


@torch.no_grad()
def start_evidence(
    trunk: SeeingTrunk, base: np.ndarray, imagenet: Sequence[Sequence[int]], classifier: nn.Linear | None
) -> None:
    """Set the evidence to the concepts' shares `base` (E,), and to the weights of ImageNet's classes.

    A concept that is the name of classes (`imagenet`: their numbers for each concept) starts at the mean of their
    weights in `classifier` (1000 classes, or None), less the mean of all.
    """
    layer = trunk.evidence.classifier
    cast(Tensor, layer.bias).copy_(torch.from_numpy(base).clamp(1e-4, 1 - 1e-4).logit())
    if classifier is None or classifier.out_features != IMAGENET:
        return
    for number, classes in enumerate(imagenet):
        if classes:
            row = classifier.weight[list(classes)].mean(0) - classifier.weight.mean(0)
            layer.weight[number, :, 0, 0] = SCALE * row


def count_loss(numbers: Tensor, counts: Tensor) -> Tensor:
    """Poisson's negative log-likelihood of counts (B,C), -1 where not known, given expected numbers: a photograph's."""
    true = counts.clamp(0, LARGEST).to(numbers)
    return ((numbers - true * (numbers + 1e-6).log()) * (counts >= 0)).sum() / len(numbers)


def _sizes(trunk: SeeingTrunk) -> list[int]:
    """The number of classes and of words among the concepts."""
    return [trunk.evidence.counted, len(trunk.evidence.words) - trunk.evidence.counted]
