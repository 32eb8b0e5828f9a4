"""Photographs by class and by an attribute that may be confounded with it, from folders CLASS/ATTRIBUTE: figure 8."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from data.readers.boxes import read_boxes

SUFFIXES = (".jpg", ".jpeg", ".png")
Kind = tuple[str, str]  # class, attribute


def read_kinds(folder: str, least: int = 2) -> dict[Kind, list[Path]]:
    """Photographs by class and attribute. Raises `UserError` when there are not two classes, or at least `least`."""
    root = Path(folder)
    found: dict[Kind, list[Path]] = {}
    for place in sorted(root.glob("*/*")) if root.is_dir() else []:
        files = sorted(file for file in place.glob("*") if file.suffix.lower() in SUFFIXES)
        if files:
            found[(place.parent.name, place.name)] = files
    classes = {name for name, _ in found}
    if not least <= len(classes) <= 2:
        given = ", ".join(sorted(classes)) or "none"
        raise UserError(f"'{folder}' has the classes: {given}; expected two, as CLASS/ATTRIBUTE/*.jpg")
    return found


def rebalanced(
    kinds: dict[Kind, list[Path]], more: dict[Kind, list[Path]] | None = None, seed: int = 0
) -> dict[Kind, list[Path]]:
    """As many photographs of each class as before, of its attributes equally many (paper, section 6.3).

    What a kind lacks comes from `more`; what is lacking then is made up by repeating its photographs, so that the set
    stays as large. Raises `UserError` for a kind without any photograph.
    """
    known = {kind: [*kinds.get(kind, []), *(more or {}).get(kind, [])] for kind in {**kinds, **(more or {})}}
    classes, attributes = (sorted({kind[place] for kind in known}) for place in (0, 1))
    absent = {(c, a) for c in classes for a in attributes} - set(known)
    if absent:
        raise UserError(f"no photograph of {listed(absent)}; a few of each kind are needed to rebalance")
    rng, found = random.Random(seed), {}
    for c in classes:
        total = sum(len(files) for kind, files in kinds.items() if kind[0] == c)
        for place, a in enumerate(attributes):
            wanted = total // len(attributes) + (place < total % len(attributes))
            found[c, a] = sorted(_drawn(kinds.get((c, a), []), (more or {}).get((c, a), []), wanted, rng))
    return found


def _drawn(own: list[Path], more: list[Path], wanted: int, rng: random.Random) -> list[Path]:
    """`wanted` photographs: of one's own, then of those added, then all of them again."""
    mixed = [*rng.sample(own, len(own)), *rng.sample(more, len(more))]
    return [mixed[n % len(mixed)] for n in range(wanted)]


def kind_labels(kind: Kind, count: int, classes: Sequence[str]) -> Tensor:
    """Labels (count,) of photographs of one kind: the place of their class."""
    return torch.full((count,), float(classes.index(kind[0])))


def nuisance_boxes(path: str) -> dict[str, list[Any]]:
    """All boxes of each photograph, by its stem."""
    known, _ = read_boxes(path)
    return {stem: [b for boxes in classes.values() for b in boxes] for stem, classes in known.items()}


def listed(kinds: set[Kind]) -> str:
    return ", ".join("/".join(kind) for kind in sorted(kinds))
