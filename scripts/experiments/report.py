"""What a report of `saywhy reproduce` is made of: sections, their tables with rows, and pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.metrics.comparison import verdict
from common.metrics.grounding import Summary


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured of what, beside what was published of the same quantity.

    `ours` is a mean with its standard error `error` over `n` images (or what the table counts); `left_out`
    more were undefined or broken. `difference` is that from the table's reference row, paired by photograph,
    with its own error.
    """

    what: str
    ours: float | None
    error: float | None = None
    n: int = 0
    published: str = ""
    model: str = ""
    left_out: int = 0
    note: str = ""
    difference: float | None = None
    difference_error: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of one measure on one set of data. `substitute` names data that stands in for the paper's.

    `reference` is the row that the others are compared with; `better` is 'high' or 'low'. `elsewhere` says what
    was published of another quantity than `measure`: that never stands in a row with ours.
    """

    title: str
    data: str
    measure: str
    rows: Sequence[Row]
    substitute: bool = False
    digits: int = 3
    note: str = ""
    reference: str = ""
    better: str = "high"
    elsewhere: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title}; {self.source}"

    @property
    def source(self) -> str:
        return f"substitute: {self.data}" if self.substitute else self.data

    @property
    def verdict(self) -> str:
        """What the paired differences say of the reference row; the only prose that ranks methods."""
        found = {
            row.what: Summary(row.difference, math.nan if row.difference_error is None else row.difference_error, row.n)
            for row in self.rows
            if row.difference is not None
        }
        return verdict(self.reference, found, self.better, self.digits)


@dataclass(frozen=True)
class Picture:
    """A picture's file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Widget:
    """The file of a fragment of HTML, words to click and their maps, and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """What one experiment found."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    widgets: Sequence[Widget] = ()


def row_of(what: str, summary: Any, published: str = "", model: str = "", note: str = "") -> Row:
    """A row from a `common.metrics.grounding.Summary`, or from the dict that JSON made of it.

    None, for a method that is not defined for the network, gives a row that says so.
    """
    if summary is None:
        return Row(what, None, None, 0, published, model, 0, "not defined for this network")
    values = summary if isinstance(summary, dict) else vars(summary)
    mean, error = (_finite(values[key]) for key in ("mean", "error"))
    return Row(what, mean, error, values["n"], published, model, values.get("left_out", 0), note)


def against(row: Row, found: Summary | None) -> Row:
    """The row with its paired difference from the table's reference row."""
    if found is None or not found.n:
        return row
    return replace(row, difference=_finite(found.mean), difference_error=_finite(found.error))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def number(value: float | None, error: float | None, digits: int, sign: str = "") -> str:
    """A value with its standard error, '-' for none."""
    if value is None:
        return "-"
    return f"{value:{sign}.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def count(row: Row) -> str:
    """How many values a row is of, and how many were left out."""
    return f"{row.n} ({row.left_out} left out)" if row.left_out else str(row.n or "")


def text_table(table: Table) -> str:
    """The table for a terminal."""
    compared = f"less {table.reference}" if table.reference else ""
    lines = [table.heading, f"  {'':42}{table.measure:>20} {'n':>6}  {'published':16}{compared}".rstrip()]
    for row in table.rows:
        ours, n = number(row.ours, row.error, table.digits), row.n
        less = "" if row.difference is None else number(row.difference, row.difference_error, table.digits, "+")
        lines.append(f"  {row.what:42.42}{ours:>20} {n:>6}  {row.published or '-':16}{less}".rstrip())
    return "\n".join(lines)
