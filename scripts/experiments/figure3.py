"""Figure 3 of the paper: counterfactuals, the regions that would make the network change its mind.

    python -m scripts.experiments.figure3                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure3 --image my.jpg --target boxer --target "tiger cat"

For each class Grad-CAM and the counterfactual, the same with the gradient negated. To expect: what speaks
against one class is where the other one is.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from common.images import open_image
from scripts.experiments.drawing import TWO_CLASS_NAMES, TWO_CLASSES, class_figure, class_rows
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

METHODS = ("gradcam", "counterfactual")
TITLE = "Figure 3: what speaks for a class, and against it"
CAPTION = "For each class Grad-CAM, and the counterfactual: what would make the network change its mind"


def draw(classifier: Any, image: Image.Image, targets: Sequence[str]) -> Image.Image:
    """A row for each class."""
    return class_rows(classifier, image, targets, METHODS, TITLE)


def section(lab: Lab) -> Section:
    """Figure 3, counterfactuals."""
    shown = lab.picture(
        "figure3", CAPTION, lambda: draw(lab.classifier, open_image(TWO_CLASSES), TWO_CLASS_NAMES)
    )
    return Section(TITLE, pictures=[shown])


if __name__ == "__main__":
    class_figure(__doc__, "saywhy-out/figure3.png", draw)
