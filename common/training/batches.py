"""Runs of a sequence, for batches."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in runs of `size`; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
