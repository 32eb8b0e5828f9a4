"""The report of `saywhy reproduce`: sections with tables and pictures, as one HTML file and as JSON."""

import base64
import html
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.files import atomic_path, write_json


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured of what, beside what was published.

    `ours` is a mean with its standard error `error` over `n` images (or what the table counts); `left_out`
    more were undefined or broken.
    """

    what: str
    ours: float | None
    error: float | None = None
    n: int = 0
    published: str = ""
    model: str = ""
    left_out: int = 0
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of one measure on one set of data. `substitute` names data that stands in for the paper's."""

    title: str
    data: str
    measure: str
    rows: Sequence[Row]
    substitute: bool = False
    digits: int = 3
    note: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title}; {_data(self)}"


@dataclass(frozen=True)
class Picture:
    """A picture's file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """What one experiment found."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def row_of(what: str, summary: Any, published: str = "", model: str = "", note: str = "") -> Row:
    """A row from a `common.metrics.grounding.Summary`, or from the dict that JSON made of it.

    None, for a method that is not defined for the network, gives a row that says so.
    """
    if summary is None:
        return Row(what, None, None, 0, published, model, 0, "not defined for this network")
    values = summary if isinstance(summary, dict) else vars(summary)
    mean, error = (
        float(values[key]) if values[key] is not None and math.isfinite(values[key]) else None
        for key in ("mean", "error")
    )
    return Row(what, mean, error, values["n"], published, model, values.get("left_out", 0), note)


def write_report(folder: Path, sections: dict[str, Section], about: dict[str, Any]) -> list[Path]:
    """Write `index.html`, with the pictures inside it, and `results.json`; returns their paths."""
    page, figures = folder / "index.html", folder / "results.json"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(sections, about), encoding="utf-8")
    record = {name: _record(section, folder) for name, section in sections.items()}
    write_json(figures, {"sections": record, "about": about})
    return [page, figures]


def _record(section: Section, folder: Path) -> dict[str, Any]:
    tables = [{**asdict(table), "heading": table.heading} for table in section.tables]
    files = [p.path.relative_to(folder) if p.path.is_relative_to(folder) else p.path.name for p in section.pictures]
    pictures = [{"file": str(f), "caption": p.caption} for f, p in zip(files, section.pictures, strict=True)]
    return {"title": section.title, "tables": tables, "pictures": pictures, "notes": list(section.notes)}


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e24; max-width: 62rem; margin: 2rem auto; padding: 0
1rem } h1 { font-size: 1.7rem } h2 { margin-top: 3rem; border-bottom: 1px solid #ccd; padding-bottom: .2rem }
table { border-collapse: collapse; margin: .8rem 0 } caption { text-align: left; font-weight: 600; padding:
.3rem 0 } th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e4e6ee }
th:first-child, td:first-child, .text { text-align: left } thead th { color: #62666f; font-weight: 500 }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption, .note { color: #62666f;
font-size: .9rem } nav ol { columns: 2; padding-left: 1.5rem; font-size: .9rem } .wide { font-size: .85rem }
td, th { vertical-align: top }
"""


_ABOUT = (
    "The experiments of Selvaraju et al. (IJCV 2019) beside what we measured. Values are means with their standard"
    " errors. Where the paper's data was not at hand, the table's title names the substitute, and the published value"
    " stands there for orientation, not for comparison."
)


def _page(sections: dict[str, Section], about: dict[str, Any]) -> str:
    titles = {_id(name): html.escape(section.title) for name, section in sections.items()}
    links = "".join(f'<li><a href="#{place}">{title}</a></li>' for place, title in titles.items())
    parts = "".join(_section(name, section) for name, section in sections.items())
    simple = {key: value for key, value in about.items() if isinstance(value, (str, int, float))}
    if "versions" in about:
        simple["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    if "seconds" in about:
        minutes = sum(about["seconds"].values()) / 60
        simple["time of this run"] = f"{minutes:.1f} minutes, cells kept from before left out"
    facts = html.escape("; ".join(f"{key}: {value}" for key, value in simple.items()))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Grad-CAM, reproduced</title><style>{_STYLE}</style></head>\n<body>"
        f'<h1>Grad-CAM, reproduced</h1><p>{_ABOUT}</p><p class="note">{facts}</p>'
        f"<nav><ol>{links}</ol></nav>\n{_overview(sections)}\n{parts}</body></html>\n"
    )


def _overview(sections: dict[str, Section]) -> str:
    """All that was published, measured or not, in one table."""
    rows = []
    for name, table in ((name, table) for name, section in sections.items() for table in section.tables):
        for row in table.rows:
            if row.published and row.model:
                error = "" if row.error is None else f" ± {row.error:.{table.digits}f}"
                ours = f"{_number(row.ours, table.digits)}{error} {table.measure}"
                cells = (row.what, row.published, ours, _count(row), row.model, _data(table))
                link = f'<a href="#{_id(name)}">{html.escape(table.title)}</a>'
                rows.append([link, *map(html.escape, cells)])
    heads = ("", "of", "published", "ours", "n", "model", "data")
    title = "What was published, and what we measured"
    return _html_table(title, heads, rows, texts=(0, 1, 2, 5, 6), style="wide") if rows else ""


def _html_table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = (), style: str = ""
) -> str:
    """A table of cells that are HTML already; the columns `texts` are flush left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if n in texts else "" for n in range(len(cells))]
        inner = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{inner}</tr>"

    head, body = line("th", heads), "".join(line("td", cells) for cells in rows)
    return f'<table class="{style}"><caption>{caption}</caption><thead>{head}</thead><tbody>{body}</tbody></table>'


def _section(name: str, section: Section) -> str:
    parts = [*map(_table, section.tables), *map(_note, section.notes), *map(_figure, section.pictures)]
    return f'<h2 id="{_id(name)}">{html.escape(section.title)}</h2>{"".join(parts)}\n'


def _table(table: Table) -> str:
    heads = ("", table.measure, "standard error", "n", "published", "model")
    rows = [
        [
            f"{row.what} ({row.note})" if row.note else row.what,
            *(_number(value, table.digits) for value in (row.ours, row.error)),
            *(_count(row), row.published or "-", row.model),
        ]
        for row in table.rows
    ]
    cells = [list(map(html.escape, row)) for row in rows]
    shown = _html_table(html.escape(table.heading), list(map(html.escape, heads)), cells)
    return shown + (_note(table.note) if table.note else "")


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _data(table: Table) -> str:
    return f"substitute: {table.data}" if table.substitute else table.data


def _count(row: Row) -> str:
    return f"{row.n} ({row.left_out} left out)" if row.left_out else str(row.n or "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _figure(picture: Picture) -> str:
    kind = "png" if picture.path.suffix.lower() == ".png" else "jpeg"
    data = base64.b64encode(picture.path.read_bytes()).decode()
    caption = html.escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _id(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def text_table(table: Table) -> str:
    """The table for a terminal."""
    lines = [table.heading, f"  {'':42}{table.measure:>14} {'error':>8} {'n':>6}  published"]
    for row in table.rows:
        numbers = f"{_number(row.ours, table.digits):>14} {_number(row.error, table.digits):>8}"
        lines.append(f"  {row.what:42.42}{numbers} {row.n:>6}  {row.published or '-'}")
    return "\n".join(lines)
