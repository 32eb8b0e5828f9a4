"""Figure 1 of the paper: one photograph, two classes, and what each method sees of them.

    python -m scripts.experiments.figure1                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure1 --image my.jpg --target boxer --target "tiger cat" --model vgg16

A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion. To expect: Grad-CAM
and Guided Grad-CAM on the named thing in each row; Guided Backprop much the same in both.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from common.images import open_image
from scripts.experiments.drawing import TWO_CLASS_NAMES, TWO_CLASSES, class_figure, class_rows
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

METHODS = ("guided", "gradcam", "guided_gradcam", "occlusion")
TITLE = "Figure 1: one photograph, two classes"
CAPTION = "A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion"


def draw(classifier: Any, image: Image.Image, targets: Sequence[str]) -> Image.Image:
    """A row for each class."""
    return class_rows(classifier, image, targets, METHODS, TITLE)


def section(lab: Lab) -> Section:
    """Figure 1, one photograph and two classes."""
    shown = lab.picture(
        "figure1", CAPTION, lambda: draw(lab.classifier, open_image(TWO_CLASSES), TWO_CLASS_NAMES)
    )
    return Section(TITLE, pictures=[shown])


if __name__ == "__main__":
    class_figure(__doc__, "saywhy-out/figure1.png", draw)
