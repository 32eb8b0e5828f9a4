"""The paper's experiments, in the order of the report: the name that `--only` takes, and the file that holds it.

Each file measures, draws, joins the report by its `section(lab)`, and runs by itself:
`python -m scripts.experiments.figure7 --samples PATH`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

_ORDER = (
    "fig1 fig3 table1 fig4 pointing discrimination faithfulness insertion sanity fig6 fig7 fig8 fig9 fig10 fig11"
    " fig12 vqa appendix_b"
).split()
# fig7 is in figure7.py, and so on.
EXPERIMENTS = {name: "table_vqa" if name == "vqa" else name.replace("fig", "figure") for name in _ORDER}


def section_of(name: str) -> Callable[[Any], Any]:
    """The function `Lab -> Section` of an experiment; its docstring's first line is the section's title at need."""
    return import_module(f"{__name__}.{EXPERIMENTS[name]}").section
