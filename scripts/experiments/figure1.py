"""Figure 1 of the paper: one photograph, two classes, and what each method sees of them.

    python -m scripts.experiments.figure1                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure1 --image my.jpg --target boxer --target "tiger cat" --model vgg16

A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion. To expect: Grad-CAM
and Guided Grad-CAM on the named thing in each row; Guided Backprop much the same in both.
"""

from scripts.experiments.drawing import ClassFigure
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

FIGURE = ClassFigure(
    "figure1",
    ("guided", "gradcam", "guided_gradcam", "occlusion"),
    "Figure 1: one photograph, two classes",
    "A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion",
)


def section(lab: Lab) -> Section:
    """Figure 1, one photograph and two classes."""
    return FIGURE.section(lab)


if __name__ == "__main__":
    FIGURE.main(__doc__)
