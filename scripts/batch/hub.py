"""Photographs of data sets that `datasets` loads, from the Hub or a folder; offline where they are cached.

    hf:NAME   hf:NAME:SPLIT   hf:NAME,CONFIG:SPLIT    SPLIT as `datasets` reads it, also train[:10%]

A folder may be one that `load_dataset` reads, or that `save_to_disk` wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from common.errors import UserError
from scripts.batch import files, records
from scripts.batch.records import Item, Source

SPAN = 256  # rows of a source


def is_hub(address: str) -> bool:
    return address.startswith("hf:") and not address.startswith("hf://")


def spans(address: str) -> Iterator[Source]:
    """The rows of a data set, `SPAN` at a time. Raises `UserError` where it can't be loaded or has no images."""
    found, _ = _loaded(address)
    for part in range(-(-len(found) // SPAN)):
        rows = min(SPAN, len(found) - part * SPAN)
        yield Source("hf", address, address, rows, found._fingerprint, part)


def items(source: Source) -> Iterator[Item]:
    """The photographs of one span. Raises `UserError` where the data set is not the one it was."""
    found, image = _loaded(source.address)
    if found._fingerprint != source.version:
        raise UserError(f"{source.address} is not the data set that the plan was made with; give another --out")
    for number in range(source.part * SPAN, source.part * SPAN + source.size):
        row = found[number]
        held = row[image]
        if isinstance(held, dict) and held["bytes"] is None and held["path"]:
            row[image] = {"bytes": None, "file": held["path"], "path": os.path.basename(held["path"])}
        yield records.item_of_row(source, row, image, number)


@lru_cache(2)
def _loaded(address: str) -> tuple[Any, str]:
    """(data set, its column of images), with no more columns than are read, and images not decoded."""
    datasets = files.needed("datasets", "hf")
    name, _, split = address.removeprefix("hf:").partition(":")
    name, _, config = name.partition(",")
    try:
        if os.path.exists(os.path.join(name, "state.json")) or os.path.exists(os.path.join(name, "dataset_dict.json")):
            found = datasets.load_from_disk(name)
            found = found[split] if split else found
        else:
            found = datasets.load_dataset(name, config or None, split=split or None)
    except Exception as problem:  # of many kinds, and none of them ours
        reason = " ".join(str(problem).split())[:200]
        raise UserError(
            f"'{address}' cannot be loaded ({type(problem).__name__}: {reason}); check its name and the network"
        ) from None
    if isinstance(found, dict):
        if len(found) != 1:
            first = next(iter(found))
            raise UserError(f"'{address}' has the splits {', '.join(found)}; name one, such as {address}:{first}")
        (found,) = found.values()
    image = _image_column(datasets, found.features, address)
    if isinstance(found.features[image], datasets.Image):
        found = found.cast_column(image, datasets.Image(decode=False))
    return found.select_columns(records.columns(image, found.column_names)), image


def _image_column(datasets: Any, features: Any, address: str) -> str:
    def holds(kind: Any) -> bool:
        return isinstance(kind, datasets.Image) or getattr(kind, "dtype", "") in ("binary", "large_binary")

    return records.image_column([name for name, kind in features.items() if holds(kind)], list(features), address)
