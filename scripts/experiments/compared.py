"""Rows of one table, each with its difference from one of them, photograph by photograph."""

from collections.abc import Mapping
from typing import Any

from scripts.experiments.lab import paired
from scripts.experiments.report import Row, against, row_of


def compared(
    labels: Mapping[str, str],
    cells: Mapping[str, Any],
    reference: str,
    model: str = "",
    published: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each of `labels` (key -> what it is) from results of `lab.measured` by key; None is not defined."""
    first = cells.get(reference)
    rows = []
    for key, what in labels.items():
        row, cell = row_of(what, cells.get(key), (published or {}).get(key, ""), model), cells.get(key)
        rows.append(against(row, paired(cell, first)) if key != reference and cell and first else row)
    return rows
