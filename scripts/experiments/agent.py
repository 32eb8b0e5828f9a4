"""A policy on pixels: a small convolutional network that says what to do and what a state is worth, and its training.

It is taught by who knows the way (`doorkey`): of states drawn at random from every layout, cross-entropy with the best
actions, shared out evenly where there are several, and the squared error of the value, 0.95 ** (steps to the goal).

Letters: B states, A actions, H,W picture, h,w map.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.training.loop import Stage, seed_everything, train
from common.training.run import Run
from scripts.experiments.doorkey import ACTIONS, CELL, Layout, State, World, layouts

DISCOUNT = 0.95
NAMES = tuple(ACTIONS)
LAYER = "maps.8"  # the last map, after its ReLU


class PolicyOutput(NamedTuple):
    """`logits` (B,A), the actions' before the softmax, and the state's `value` (B,)."""

    logits: Tensor
    value: Tensor


class Policy(nn.Module):
    """Pictures (B,3,H,W) in [0, 1] -> `PolicyOutput`. The last map has a position for each cell of the world."""

    def __init__(self, side: int = 8, width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, width, CELL // 2, stride=CELL // 2), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(width * side * side, hidden), nn.ReLU())
        self.action, self.value = nn.Linear(hidden, len(ACTIONS)), nn.Linear(hidden, 1)
        for layer in (*self.maps, *self.hidden):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # else differences fade from layer to layer

    def forward(self, pictures: Tensor) -> PolicyOutput:
        read = self.hidden(self.maps(pictures))
        return PolicyOutput(self.action(read), self.value(read)[:, 0])


@dataclass(frozen=True)
class Lessons:
    """Pictures (B,H,W,3), bytes, the best actions' shares (B,A) and values (B,), and the `places` of the layouts."""

    pictures: np.ndarray
    best: np.ndarray
    values: np.ndarray
    places: frozenset[Any]


def lessons(world: World, count: int, each: int, seed: int = 1) -> Lessons:
    """`each` states of each of `count` layouts, drawn at random, and what is best there."""
    rng = random.Random(seed)
    rows: list[tuple[np.ndarray, list[float], float]] = []
    places = set()
    for layout in layouts(world, count, 0):
        places.add(layout.places)
        steps = layout.steps()
        known = sorted(state for state in steps if steps[state])
        for state in rng.sample(known, min(each, len(known))):
            shares = best_actions(layout, state, steps)
            rows.append((world.picture(layout, state), shares, DISCOUNT ** steps[state]))
    pictures, best, values = zip(*rows, strict=True)
    return Lessons(np.stack(pictures), np.array(best, np.float32), np.array(values, np.float32), frozenset(places))


def best_actions(layout: Layout, state: State, steps: dict[State, int]) -> list[float]:
    """The shares (A) of the actions that bring the agent a step nearer to the goal; they sum to 1."""
    nearer = [float(steps[layout.after(state, action)] < steps[state]) for action in ACTIONS]
    return [share / sum(nearer) for share in nearer]


def as_images(pictures: np.ndarray) -> Tensor:
    """Bytes (B,H,W,3) as the policy reads them: (B,3,H,W) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def taught(
    known: Lessons, folder: str | Path, side: int, epochs: int, batch: int = 64, seed: int = 1, rate: float = 1e-3
) -> Policy:
    """A policy trained on lessons, in `folder`: a run that was stopped goes on, one that is done is read again."""
    seed_everything(seed)
    policy = Policy(side)
    count = len(known.pictures)

    def batches(shuffle: int) -> Any:
        order = np.random.default_rng(shuffle).permutation(count)
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            yield as_images(known.pictures[rows]), *map(torch.from_numpy, (known.best[rows], known.values[rows]))

    def loss(given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        pictures, best, values = given
        output = policy(pictures)
        errors = F.cross_entropy(output.logits, best), F.mse_loss(output.value, values)
        chosen = best.gather(1, output.logits.argmax(1, keepdim=True)) > 0
        return errors[0] + errors[1], {"value_error": float(errors[1].detach()), "best": float(chosen.float().mean())}

    steps = -(-count // batch)
    stage = Stage(
        "policy", epochs, steps, lambda: [{"params": list(policy.parameters()), "lr": rate}], batches, loss,
        average=0.99, warmup=20, mode=policy.train,
    )  # fmt: skip
    settings = {
        "side": side,
        "count": count,
        "seed": seed,
        "epochs": epochs,
        "batch": batch,
        "rate": rate,
        "cell": CELL,
    }
    train([stage], policy, Run(folder, settings), seed)
    return policy.eval().requires_grad_(False)
