"""What training a captioner and a VQA model share: seeds, resumable stages, a log, averaged weights.

A run is a folder: `log.jsonl` (one record an epoch), `state.pt` (to go on from), `curve.png`. Every epoch
starts from seeds made of (seed, stage, epoch), so a resumed run ends where an uninterrupted one does.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import atomic_path


def seed_everything(*parts: int | str) -> int:
    """Seed Python's, NumPy's and PyTorch's generators from all of `parts`; returns the seed."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def seed_of(*parts: int | str) -> int:
    """A number below 2**32 that is the same for the same parts, on every machine."""
    import zlib

    return zlib.crc32("/".join(map(str, parts)).encode())


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
        self.updates, self.values = state["updates"], state["values"]


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
    mode: Callable[[], None] = field(default=lambda: None)


def parameter_groups(
    module: nn.Module, *pairs: tuple[list[nn.Parameter], float]
) -> Callable[[], list[dict[str, Any]]]:
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


class Run:
    """A training's folder: its log, its state, its picture."""

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any], fresh: bool = False):
        self.folder, self.settings = Path(folder), settings
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make '{folder}': {error.strerror or error}; choose another --out"
            ) from error
        self.log_path, self.state_path = self.folder / "log.jsonl", self.folder / "state.pt"
        if fresh:
            self.log_path.unlink(missing_ok=True)
            self.state_path.unlink(missing_ok=True)

    def log(self, record: dict[str, Any]) -> None:
        line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()})
        try:
            with open(self.log_path, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise UserError(f"cannot write '{self.log_path}': {error.strerror or error}") from error
        print(line, flush=True)

    def records(self) -> list[dict[str, Any]]:
        if not self.log_path.exists():
            return []
        return [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").splitlines() if line]

    def save(self, state: dict[str, Any]) -> None:
        with atomic_path(self.state_path) as temporary:
            torch.save({**state, "settings": self.settings}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The state to go on from, or None. Raises when the run was started with other settings."""
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"'{self.state_path}' cannot be read; delete it or start with --restart"
            ) from error
        changed = [k for k in self.settings if state["settings"].get(k) != self.settings[k]]
        if changed:
            raise UserError(
                f"'{self.folder}' holds a run with {changed[0]} = {state['settings'].get(changed[0])!r}, not "
                f"{self.settings[changed[0]]!r}; name another --out, or start again with --restart"
            )
        return state

    def picture(self) -> None:
        """Draw the log: the loss of each epoch, and each figure that was taken after it."""
        records = [r for r in self.records() if "epoch" in r]
        if records:
            draw_curve(records, self.folder / "curve.png")


def train(stages: list[Stage], module: nn.Module, run: Run, seed: int) -> None:
    """Train `module` through the stages, saving the state after each epoch; go on from a saved state.

    At a stage's end the module is left with the averaged weights, which the next stage starts from.
    """
    state = run.load()
    for number, stage in enumerate(stages):
        if state and number < state["stage"]:
            continue
        optimizer, average = None, None
        first = 0
        if state and number == state["stage"]:
            module.load_state_dict(state["module"])
            first = state["epoch"]
            if first == stage.epochs:
                continue
        stage.mode()
        optimizer = torch.optim.AdamW(stage.parameters(), weight_decay=stage.weight_decay)
        rates = [group["lr"] for group in optimizer.param_groups]
        average = Average(module, stage.average)
        if first and state:
            optimizer.load_state_dict(state["optimizer"])
            average.load(state["average"])
        for epoch in range(first, stage.epochs):
            _epoch(stage, number, epoch, optimizer, rates, average, run, seed)
            if epoch + 1 == stage.epochs:
                average.settle()
            run.save(
                {
                    "stage": number,
                    "epoch": epoch + 1,
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state(),
                }
            )
            run.picture()


def _epoch(
    stage: Stage,
    number: int,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    rates: list[float],
    average: Average,
    run: Run,
    seed: int,
) -> None:
    started = time.time()
    epoch_seed = seed_everything(seed, number, epoch)
    sums: dict[str, float] = {}
    count = 0
    stage.mode()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for i, batch in enumerate(stage.batches(epoch_seed)):
        factor = cosine(epoch * stage.steps + i, stage.epochs * stage.steps, stage.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss, numbers = stage.loss(batch)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {float(loss)} in stage '{stage.name}'; use a smaller learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, stage.clip)
        optimizer.step()
        average.update()
        count += 1
        for name, value in {"loss": float(loss.detach()), **numbers}.items():
            sums[name] = sums.get(name, 0.0) + value
    record: dict[str, Any] = {"stage": stage.name, "epoch": epoch + 1, "of": stage.epochs}
    record.update({name: value / max(count, 1) for name, value in sums.items()})
    record["train_seconds"] = round(time.time() - started, 1)
    if stage.evaluate:
        with average.applied():
            record.update(stage.evaluate())
    record["seconds"] = round(time.time() - started, 1)
    run.log(record)


def draw_curve(records: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Learning curve: one panel for each number in the records, over the epochs of all stages."""
    from matplotlib.figure import Figure

    left_out = {"stage", "epoch", "of", "seconds", "train_seconds"}
    names = list(dict.fromkeys(k for r in records for k in r if k not in left_out))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    stages = list(dict.fromkeys(r["stage"] for r in records))
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        for stage in stages:
            points = [(x + 1, r[name]) for x, r in enumerate(records) if r["stage"] == stage and name in r]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=stage)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
