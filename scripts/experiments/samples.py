"""The ImageNet photographs at hand, one for each of some classes, and what the classifier says of them.

Files are named `n01440764_tench.JPEG`: the WordNet id, then the class's name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError
from scripts.experiments.lab import Lab, spread

NAME = "ImageNet samples (one photograph a class)"
_FILE = re.compile(r"(n\d{8})_.*\.(jpe?g|png)", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """A photograph, its class, and the class and probability that the classifier gives it."""

    path: Path
    label: int
    predicted: int
    probability: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


def samples(lab: Lab) -> tuple[list[Sample], int]:
    """All samples with predictions, by file name, and how many files could not be read."""
    folder = lab.need("samples")
    files = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    if not files:
        raise UserError(f"no photograph named like n01440764_tench.JPEG in '{folder}'")
    cell = lab.cell("samples", lambda: {"rows": [_predicted(lab, file) for file in files]}, files=len(files))
    rows = [row for row in cell["rows"] if row is not None]
    found = [Sample(folder / name, label, best, chance) for name, label, best, chance in rows]
    return found, len(cell["rows"]) - len(found)


def _predicted(lab: Lab, path: Path) -> Any:
    try:
        label = lab.classifier.labels.find(path.name.partition("_")[0])
        (best,) = lab.classifier.predict(path, top=1)
    except UserError:
        return None
    return path.name, label, best.index, best.probability


def right_samples(lab: Lab, count: int | None = None) -> list[Sample]:
    """Samples that the classifier gets right, `count` of them spread over all."""
    found = [sample for sample in samples(lab)[0] if sample.right]
    return found if count is None else spread(found, count)


def pixels(lab: Lab, chosen: list[Sample]) -> Tensor:
    """The network's input (B, 3, H, W) for some samples."""
    return lab.classifier.images([sample.path for sample in chosen])
