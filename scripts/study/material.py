"""What a study shows: photographs, each in several ways ('cells'), and lists in which a person sees each once.

A photograph is shown to a person in one of its C cells (method by category, method by side). Lists follow a Latin
square: over C lists each photograph is seen in every cell, and each list has every cell equally often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from common.draw import save_picture
from common.errors import MethodError, UserError
from scripts import console as cli

SIDE = 480  # pixels of a picture's longer side
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Asked:
    """What a study is to be made of."""

    photos: Path
    methods: tuple[str, ...]
    models: tuple[str, ...]  # one network; for trust the strong and the weak one
    work: Path  # where fine-tuned networks are kept
    count: int = 48
    split: str = "val"
    train: int = 6000
    seed: int = 0
    device: str = "cpu"

    @property
    def practice(self) -> int:
        """Photographs to practise on: each method is met, at least two photographs."""
        return max(2, len(self.methods))

    @property
    def needed(self) -> int:
        """How many photographs are needed at all."""
        return self.count + self.practice


@dataclass(frozen=True)
class Cell:
    """One way to show a photograph: pictures (their files' names), what is said above, what can be answered.

    `truth` goes into the key alone; `feedback` is said after an answer in practice, where `right` is known.
    """

    method: str
    images: tuple[str, ...]
    options: tuple[str, ...]
    truth: dict[str, Any]
    about: str = ""
    feedback: str = ""


@dataclass(frozen=True)
class Shown:
    """A photograph in all its cells, the same ones in the same order for each photograph of a study."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Material:
    """What one kind of study gives to the building of its folder."""

    shown: list[Shown]
    practice: list[Shown]  # of one cell each
    networks: list[dict[str, str]]
    source: str  # the photographs, in words
    notes: list[str] = field(default_factory=list)


def readable(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
    """What `make` makes of each item, as long as more is asked for; of a photograph that can't be read is told."""
    for item in items:
        try:
            yield make(item)
        except MethodError:  # of the network, not of the photograph
            raise
        except UserError as problem:
            cli.report(f"left out: {problem}")


def practised(shown: Shown, number: int, methods: Sequence[str]) -> Shown:
    """The cell of a photograph that is practised on: over all numbers each method is met, and each answer is right.

    An empty picture teaches nothing; another one of the method is taken, where there is one.
    """
    cells = [cell for cell in shown.cells if cell.method == methods[number % len(methods)]]
    turned = cells[number % len(cells) :] + cells[: number % len(cells)]
    return Shown(shown.name, (next((cell for cell in turned if not cell.truth.get("empty")), turned[0]),))


class Pictures:
    """The folder of a study's pictures. Their names are drawn at random, and the files say nothing but pixels."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(f"names {seed}")
        folder.mkdir(parents=True, exist_ok=True)

    def name(self) -> str:
        """A name that says nothing."""
        return f"{self.random.getrandbits(64):016x}"

    def add(self, picture: Image.Image) -> str:
        """Keep a picture; returns its file's name."""
        name = f"{self.name()}.jpg"
        pixels = Image.frombytes("RGB", picture.size, picture.convert("RGB").tobytes())
        save_picture(pixels, self.folder / name, quality=88)
        return name


def latin_lists(photographs: int, cells: int, seed: int) -> list[list[int]]:
    """lists[l][p]: the cell in which list l shows photograph p.

    >>> [sorted(column) for column in zip(*latin_lists(4, 2, 0))]
    [[0, 1], [0, 1], [0, 1], [0, 1]]
    """
    places = list(range(photographs))
    random.Random(f"lists {seed}").shuffle(places)
    return [[(place + number) % cells for place in places] for number in range(cells)]


def drawn(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in the order in which a study takes them."""
    return random.Random(f"photographs {seed}").sample(list(items), len(items))


def balanced(asked: Asked, known: int, cells: int, what: str) -> int:
    """How many photographs a study takes of those known: a multiple of its cells, so that lists are balanced.

    Raises `UserError` where there are too few for one list of each cell.
    """
    most = min(asked.count, known - asked.practice) // cells * cells
    if most < cells:
        needed = cells + asked.practice
        raise UserError(
            f"{known} photographs {what}; {needed} are needed at least ({asked.practice} to practise on, {cells} for"
            f" lists that are balanced; --count is {asked.count}); give more photographs, a larger --count or fewer"
            " --methods"
        )
    return most
