"""Training in stages: seeds, averaged weights, and a loop that goes on where it was stopped.

Every epoch starts from seeds made of (seed, stage, epoch), so a resumed run ends where an uninterrupted one does.
"""

import math
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.training.run import Run


def seed_everything(*parts: int | str) -> int:
    """Seed Python's, NumPy's and PyTorch's generators from all of `parts`; returns the seed."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def seed_of(*parts: int | str) -> int:
    """A number below 2**32 that is the same for the same parts, on every machine."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def fold_of(image_id: str, folds: int) -> int:
    """The part of so many that a photograph is in when trunks are trained on the others: by its id alone."""
    return seed_of("fold", image_id) % folds


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    """Learning-rate factor: linear from 0 to 1 over `warmup` steps, then a half cosine to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class Average:
    """Exponential moving average of a module's floating parameters (Polyak averaging).

    The decay grows from 0.1 to `decay` with the number of updates, so that early weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.module, self.decay, self.updates = module, decay, 0
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.values[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with averaged weights; its own come back at the end, whatever happens."""
        own = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        try:
            self._copy(self.values)
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(values[name])

    def settle(self) -> None:
        """Leave the module with the averaged weights."""
        self._copy(self.values)

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)  # from whatever device it was saved on


@dataclass
class Stage:
    """One part of a training: what to optimise, for how many epochs, on which batches.

    `parameters()` gives optimiser groups ({"params": ..., "lr": ...}); `batches(seed)` yields an epoch's
    batches, `steps` of them; `loss(batch)` returns the loss and numbers for the log; `evaluate()` is called
    after an epoch with the averaged weights in place.
    """

    name: str
    epochs: int
    steps: int
    parameters: Callable[[], list[dict[str, Any]]]
    batches: Callable[[int], Iterable[Any]]
    loss: Callable[[Any], tuple[Tensor, dict[str, float]]]
    evaluate: Callable[[], dict[str, float]] | None = None
    weight_decay: float = 0.01
    average: float = 0.999
    clip: float = 5.0
    warmup: int = 100
    mode: Callable[[], object] = field(default=lambda: None)


def parameter_groups(module: nn.Module, *pairs: tuple[list[nn.Parameter], float]) -> Callable[[], list[dict[str, Any]]]:
    """For `Stage.parameters`: optimiser groups of (parameters, learning rate); the rest of `module` is frozen."""

    def make() -> list[dict[str, Any]]:
        chosen = {id(p) for parameters, _ in pairs for p in parameters}
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        return [{"params": parameters, "lr": rate} for parameters, rate in pairs if parameters]

    return make


def show_progress(what: str, every: int = 480) -> Callable[[int, int], None]:
    """A callback (done, total) that prints a line now and then, and one at the end."""

    def show(done: int, total: int) -> None:
        if done == total or done % every == 0:
            print(f"{what}: {done}/{total}", flush=True)

    return show


def train(stages: Sequence[Stage], module: nn.Module, run: Run, seed: int) -> None:
    """Train `module` through the stages, saving the state after each epoch; go on from a saved state.

    At a stage's end the module is left with the averaged weights, which the next stage starts from.
    """
    state = run.load()
    for number, stage in enumerate(stages):
        reached = state if state and number == state["stage"] else None
        if reached:
            module.load_state_dict(reached["module"])
        first = reached["epoch"] if reached else 0
        if (state and number < state["stage"]) or first >= stage.epochs:
            continue
        training = _Training(stage, module)
        if reached:
            training.load(reached)
        for epoch in range(first, stage.epochs):
            record = training.epoch(epoch, seed_everything(seed, number, epoch))
            run.log({"stage": stage.name, "epoch": epoch + 1, "of": stage.epochs, **record})
            if epoch + 1 == stage.epochs:
                training.average.settle()
            run.save({"stage": number, "epoch": epoch + 1, **training.state()})
            run.picture()


class _Training:
    """A stage in training: the module, its optimiser and its averaged weights."""

    def __init__(self, stage: Stage, module: nn.Module):
        stage.mode()
        self.stage, self.module = stage, module
        self.optimizer = torch.optim.AdamW(stage.parameters(), weight_decay=stage.weight_decay)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = Average(module, stage.average)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load(state["average"])

    def epoch(self, epoch: int, seed: int) -> dict[str, float]:
        """One epoch, and the evaluation after it: means over the steps, figures, and seconds, for the log."""
        started = time.time()
        sums: dict[str, float] = defaultdict(float)
        count = 0
        self.stage.mode()
        for count, batch in enumerate(self.stage.batches(seed), 1):
            for name, value in self._step(batch, epoch * self.stage.steps + count - 1).items():
                sums[name] += value
        record = {name: value / max(count, 1) for name, value in sums.items()}
        record["train_seconds"] = round(time.time() - started, 1)
        if self.stage.evaluate:
            with self.average.applied():
                record.update(self.stage.evaluate())
        return {**record, "seconds": round(time.time() - started, 1)}

    def _step(self, batch: Any, step: int) -> dict[str, float]:
        stage = self.stage
        factor = cosine(step, stage.epochs * stage.steps, stage.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        loss, numbers = stage.loss(batch)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {float(loss.detach())} in stage '{stage.name}'; use a smaller learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, stage.clip)
        self.optimizer.step()
        self.average.update()
        return {"loss": float(loss.detach()), **numbers}
