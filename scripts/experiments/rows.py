"""The rows of a report that its README shows, as a table of Markdown.

    python -m scripts.experiments.rows report/results.json

A table of the report that is not there gives no row; every value is as `results.json` has it.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import UserError
from data.readers.files import read_json
from scripts.experiments.report import number
from scripts.experiments.run import run_program

HEAD = ("experiment, data", "method", "published", "ours", "less the first", "n")
REJECT = ", threshold on the class's score"
# What is shown: (section, what a table's title starts with, its rows by what they start with, '' for all of them).
SHOWN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("table1", "Table 1, top", ("",)),
    ("table1", "Table 1, box", ("Grad-CAM", "c-MWP", "Backprop", "Occlusion", "activation", "a fixed", "the whole")),
    ("table1", "Grid game", ("Grad-CAM", "c-MWP", "Backprop", "chance")),
    ("fig4", "Figure 4, seeds alone", ("",)),
    ("fig4", "Figure 4, weakly", ("",)),
    ("fig4", "Figure 4, seeds against", ("",)),
    ("pointing", "4.3, pointing game with", ("Grad-CAM", "c-MWP", f"centre of the photograph{REJECT}", "reject")),
    ("discrimination", "5.1", ("Guided Grad-CAM", "Guided Backprop", "Grad-CAM", "a guess", "chance")),
    ("faithfulness", "5.3, faithfulness", ("Guided Grad-CAM", "Grad-CAM", "c-MWP", "Guided Backprop", "occlusion of")),
    ("fig7", "Figure 7, adversarial", ("",)),
    ("fig7", "Figure 7, peak", ("",)),
    ("fig8", "Figure 8, accuracy, balanced", ("",)),
    ("fig8", "Figure 8, the evidence on the surroundings around", ("",)),
    ("fig9", "Figure 9, words", ("named units", "all of these")),
    ("fig9", "Figure 9, what units", ("",)),
    ("fig10", "Figure 10b, phrases as", ("",)),
    ("fig11", "Figure 11, words of people's captions", ("",)),
    ("vqa", "8.2, VQA maps", ("",)),
    ("vqa", "8.2, Grad-CAM, by", ("",)),
    ("sanity", "Sanity", ("",)),
    ("appendix_b", "Appendix B, variants", ("",)),
)


def lines(sections: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of each row, those of one table after the other; a table's name stands in its first row."""
    for name, title, kept in SHOWN:
        tables = sections.get(name, {}).get("tables", [])
        for table in (table for table in tables if table["title"].startswith(title)):
            first = table["heading"]
            for row in table["rows"]:
                if row["n"] + (row["ours"] is not None) and row["what"].startswith(kept):
                    yield (first, *_cells(table, row))
                    first = ""


def _cells(table: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, ...]:
    digits, unit = table["digits"], " %" if table["measure"].endswith("(%)") else ""
    ours, less = number(row["ours"], row["error"], digits), row["difference"]
    what = f"{row['what']} ({row['note']})" if row["note"] else row["what"]
    compared = "" if less is None else number(less, row["difference_error"], digits, "+")
    return what, row["published"], f"{ours}{unit}", compared, str(row["n"] or "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("results", help="the results.json of a report")
    path = parser.parse_args().results
    found = read_json(path)
    if not isinstance(found, dict) or "sections" not in found:
        raise UserError(f"{path} is no report; give the results.json that `saywhy reproduce` wrote")
    for cells in (HEAD, ("---",) * len(HEAD), *lines(found["sections"])):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run_program(main)
