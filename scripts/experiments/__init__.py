"""The paper's experiments, in the order of the report: the name that `--only` takes, and the file that holds it.

Each file measures, draws, joins the report by its `section(lab)`, and runs by itself:
`python -m scripts.experiments.figure7 --samples PATH`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

EXPERIMENTS = {
    "fig1": "figure1",
    "fig3": "figure3",
    "table1": "table1",
    "fig4": "figure4",
    "pointing": "pointing",
    "discrimination": "discrimination",
    "faithfulness": "faithfulness",
    "insertion": "insertion",
    "sanity": "sanity",
    "fig6": "figure6",
    "fig7": "figure7",
    "fig8": "figure8",
    "fig9": "figure9",
    "fig10": "figure10",
    "fig11": "figure11",
    "fig12": "figure12",
    "vqa": "table_vqa",
    "appendix_b": "appendix_b",
}


def section_of(name: str) -> Callable[[Any], Any]:
    """The function `Lab -> Section` of an experiment; its docstring's first line is the section's title at need."""
    return import_module(f"{__name__}.{EXPERIMENTS[name]}").section
