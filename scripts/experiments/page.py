"""The report of `saywhy reproduce`: one page of HTML that reads without a network and prints, and a JSON file."""

import base64
import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import atomic_paths, write_json, write_text
from scripts.experiments.report import Picture, Row, Section, Table, Widget, count, number

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e24; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { margin-top: 3rem; border-bottom: 1px solid #ccd; padding-bottom: .2rem }
table { border-collapse: collapse; margin: 1.2rem 0 .4rem }
caption { text-align: left; font-weight: 600; padding: .3rem 0 } caption span { font-weight: 400 }
td, th { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #e4e6ee; vertical-align: top }
td:not(:first-child):not(.text) { white-space: nowrap }
th:first-child, td:first-child, .text { text-align: left } thead th { color: #62666f; font-weight: 500 }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption, .note { color: #62666f; font-size: .9rem }
nav ol { columns: 2; column-gap: 4rem; padding-left: 1.5rem; font-size: .9rem } .wide { font-size: .85rem }
.wide td:nth-child(4) { min-width: 11rem }
.banner { background: #fff3d6; border: 1px solid #d9a400; padding: .6rem 1rem } .verdict { font-size: .95rem }
dl { font-size: .85rem; display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: #62666f }
dd { margin: 0; overflow-wrap: anywhere }
@page { margin: 15mm } @media print { body { font-size: 10pt; max-width: none; margin: 0; padding: 0 }
h2, caption { break-after: avoid } tr, figure { break-inside: avoid } thead { display: table-header-group }
img { max-height: 230mm } a { color: inherit; text-decoration: none } }
"""
_ABOUT = (
    "The experiments of Selvaraju et al. (IJCV 2019) beside what we measured: means ± their standard errors. A"
    " published value stands in a row only with the same quantity; where the paper's data was not at hand, the table"
    " names the substitute, and the value is there for orientation. 'Difference' is that of the row from the one that"
    " is named, photograph by photograph, ± its own standard error. Sentences that rank methods are written by one"
    " rule: a difference counts beyond two standard errors, else none was found."
)
QUICK = (
    "A quick run: a handful of photographs each, to see that everything works. The numbers are noise, and nothing is"
    " concluded from them: explanations and comparisons are left out. Run without --quick for the report."
)
# Lines that even a quick run shows.
_TOLD = ("Left out", "Failed")


def write_report(folder: Path, sections: dict[str, Section], about: dict[str, Any]) -> list[Path]:
    """Write `index.html`, with the pictures inside it, and `results.json`; returns their paths."""
    place, figures = folder / "index.html", folder / "results.json"
    record = {name: _record(section, folder) for name, section in sections.items()}
    with atomic_paths(place, figures) as (report, results):
        write_text(report, page(sections, about))
        write_json(results, {"about": about, "sections": record})
    return [place, figures]


def _record(section: Section, folder: Path) -> dict[str, Any]:
    tables = [{**asdict(table), "heading": table.heading, "verdict": table.verdict} for table in section.tables]
    pictures, widgets = ([_shown(each, folder) for each in some] for some in (section.pictures, section.widgets))
    record = {"title": section.title, "tables": tables, "pictures": pictures, "notes": list(section.notes)}
    return {**record, "widgets": widgets} if widgets else record


def _shown(shown: Picture | Widget, folder: Path) -> dict[str, str]:
    file = shown.path.relative_to(folder) if shown.path.is_relative_to(folder) else shown.path.name
    return {"file": str(file), "caption": shown.caption}


def page(sections: Mapping[str, Section], about: Mapping[str, Any]) -> str:
    """The whole page; `about` is the manifest (see docs/results.md)."""
    quick = bool(about.get("quick"))
    titles = {"paper": "The paper's experiments", **{name: each.title for name, each in sections.items()}}
    links = "".join(f'<li><a href="#{_id(name)}">{html.escape(title)}</a></li>' for name, title in titles.items())
    parts = "".join(_section(name, section, quick) for name, section in sections.items())
    banner = f'<p class="banner">{QUICK}</p>' if quick else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Grad-CAM, reproduced</title><style>{STYLE}</style></head>\n<body>"
        f"<h1>Grad-CAM, reproduced</h1>{banner}<p>{_ABOUT}</p>{_facts(about)}"
        f"<nav><ol>{links}</ol></nav>\n{_overview(about.get('paper', ()), sections)}\n{parts}</body></html>\n"
    )


def _facts(about: Mapping[str, Any]) -> str:
    """What the report was made of and by, as a list."""
    facts = {key: str(value) for key, value in about.items() if isinstance(value, (str, float))}
    for key in ("weights", "layers", "versions"):
        if about.get(key):
            facts[key] = "; ".join(f"{name} {value}" for name, value in about[key].items())
    if "seconds" in about:
        minutes = sum(about["seconds"].values()) / 60
        facts["time of this run"] = f"{minutes:.1f} minutes, cells kept from before left out"
    return f"<dl>{''.join(f'<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _overview(rows: Sequence[Mapping[str, str]], sections: Mapping[str, Section]) -> str:
    """All that the paper reports, with ours where it is the same quantity, and how the protocol differs."""
    cells = []
    for row in rows:
        name, place = row["section"], html.escape(row["paper"])
        link = f'<a href="#{_id(name)}">{place}</a>' if name in sections else place
        tables = [t for t in sections[name].tables if t.title.startswith(row["tables"])] if name in sections else []
        ours = "<br>".join(html.escape(line) for table in tables for line in _published(table))
        told = (row["experiment"], row["published"])
        cells.append([link, *map(html.escape, told), ours or "-", html.escape(row["protocol"])])
    heads = ("", "experiment", "published", "ours, of the same quantity", "protocol")
    title = f'<h2 id="paper">The paper\'s experiments</h2>{html_table("", heads, cells, range(5), "wide")}'
    return title if cells else ""


def _published(table: Table) -> list[str]:
    """A line for each row of a table that was published as well."""
    return [
        f"{row.what} {number(row.ours, row.error, table.digits)}, n = {count(row)}"
        for row in table.rows
        if row.published and row.ours is not None
    ]


def html_table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = (), style: str = ""
) -> str:
    """A table of cells that are HTML already; the columns `texts` are flush left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if n in texts else "" for n in range(len(cells))]
        inner = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{inner}</tr>"

    head, body = line("th", heads), "".join(line("td", cells) for cells in rows)
    above = f"<caption>{caption}</caption>" if caption else ""
    return f'<table class="{style}">{above}<thead>{head}</thead><tbody>{body}</tbody></table>'


def _section(name: str, section: Section, quick: bool) -> str:
    label = section.title.partition(":")[0]
    notes = [note for note in section.notes if not quick or note.startswith(_TOLD)]
    tables = [_table(table, label, quick) for table in section.tables]
    parts = [*tables, *map(_note, notes), *map(_figure, section.pictures), *map(_widget, section.widgets)]
    return f'<h2 id="{_id(name)}">{html.escape(section.title)}</h2>{"".join(parts)}\n'


def _table(table: Table, label: str, quick: bool) -> str:
    """A table with the columns that hold anything, what it says, and how it was measured."""
    columns = {
        "": [f"{row.what} ({row.note})" if row.note else row.what for row in table.rows],
        table.measure: [number(row.ours, row.error, table.digits) for row in table.rows],
        "n": list(map(count, table.rows)),
        f"difference from {table.reference}": [_difference(row, table.digits) for row in table.rows],
        "published": [row.published for row in table.rows],
        "model": [row.model for row in table.rows],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [[html.escape(cell) for cell in line] for line in zip(*kept.values(), strict=True)]
    # The section's title says the figure's name already.
    title = table.title.removeprefix(label).lstrip(" ,:") or table.title
    caption = f"{html.escape(title[:1].upper() + title[1:])}<span>; {html.escape(table.source)}</span>"
    texts = [n for n, head in enumerate(kept) if head == "model"]
    shown = html_table(caption, list(map(html.escape, kept)), rows, texts)
    said = "" if quick or not table.verdict else f'<p class="verdict">{html.escape(table.verdict)}</p>'
    return shown + said + "".join(_note(text) for text in (table.elsewhere, table.note) if text and not quick)


def _difference(row: Row, digits: int) -> str:
    return "" if row.difference is None else number(row.difference, row.difference_error, digits, "+")


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _figure(picture: Picture) -> str:
    kind = "png" if picture.path.suffix.lower() == ".png" else "jpeg"
    data = base64.b64encode(picture.path.read_bytes()).decode()
    caption = html.escape(picture.caption)
    image = f'<img alt="{caption}" src="data:image/{kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _widget(widget: Widget) -> str:
    fragment = widget.path.read_text(encoding="utf-8")
    return f"<figure>{fragment}<figcaption>{html.escape(widget.caption)}</figcaption></figure>"


def _id(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
