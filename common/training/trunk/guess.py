"""How likely people say each word of a photograph that shows given classes: learned on text alone.

COCO photographs whose boxes are known and whose captions aren't get these as targets of the words: 'plate' where there
is a fork and a pizza. A small network of the classes, taught on captions whose photographs' classes are known.

Letters: n texts, C classes, W words.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.training.loop import Stage, train
from common.training.run import Run
from common.training.trunk.corpus import Texts

BATCH, HIDDEN, RATE = 64, 256, 1e-3
FEWEST = 10  # texts; fewer teach nothing


class Guesser(nn.Module):
    """Logits of words (n,W) from classes (n,C); starts at the words' own shares, whatever the classes."""

    def __init__(self, classes: int, shares: Tensor):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(classes, HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, len(shares))
        )
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(shares.clamp(1e-4, 1 - 1e-4).logit())

    def forward(self, classes: Tensor) -> Tensor:
        return self.layers(classes)

    @torch.no_grad()
    def guess(self, classes: np.ndarray) -> np.ndarray:
        """Probabilities of the words (n,W) of photographs that show `classes` (n,C)."""
        return self.eval()(torch.from_numpy(classes)).sigmoid().numpy()


def train_guesser(texts: Texts, epochs: int, run: Run, seed: int) -> Guesser:
    """A guesser taught on nine tenths of `texts`, watched on the others."""
    shown, said = torch.from_numpy(texts.classes), torch.from_numpy(texts.shares)
    held = torch.arange(len(texts)) % 10 == 0
    torch.manual_seed(seed)
    model = Guesser(shown.shape[1], said[~held].mean(0))
    rows = (~held).nonzero()[:, 0]

    def batches(seed: int) -> Iterator[Tensor]:
        yield from rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].split(BATCH)

    def entropy(some: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(shown[some]), said[some], reduction="sum") / len(some)

    @torch.no_grad()
    def watched() -> dict[str, float]:
        model.eval()
        return {"held_out": float(entropy(held.nonzero()[:, 0]))}

    steps = -(-len(rows) // BATCH)
    groups = [{"params": list(model.parameters()), "lr": RATE}]
    stage = Stage(
        "words of classes", epochs, steps, lambda: groups, batches, lambda some: (entropy(some), {}), watched,
        mode=model.train, average=0.99, warmup=min(100, steps),
    )  # fmt: skip
    train([stage], model, run, seed)
    return model


def guesser_of(texts: Texts, epochs: int, folder: Path, fresh: bool, seed: int) -> Guesser | None:
    """The trained guesser, its run in `folder`; None where there are hardly any texts."""
    if not epochs or len(texts) < FEWEST:
        return None
    run = Run(folder, {"epochs": epochs, "texts": len(texts), "words": texts.shares.shape[1]}, fresh=fresh)
    return train_guesser(texts, epochs, run, seed)
