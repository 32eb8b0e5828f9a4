"""Figure 3 of the paper: counterfactuals, the regions that would make the network change its mind.

    python -m scripts.experiments.figure3                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure3 --image my.jpg --target boxer --target "tiger cat"

For each class Grad-CAM and the counterfactual, the same with the gradient negated. To expect: what speaks
against one class is where the other one is.
"""

from scripts.experiments.drawing import ClassFigure
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

FIGURE = ClassFigure(
    "figure3",
    ("gradcam", "counterfactual"),
    "Figure 3: what speaks for a class, and against it",
    "For each class Grad-CAM, and the counterfactual: what would make the network change its mind",
)


def section(lab: Lab) -> Section:
    """Figure 3, counterfactuals."""
    return FIGURE.section(lab)


if __name__ == "__main__":
    FIGURE.main(__doc__)
