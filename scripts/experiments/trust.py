"""Section 5.2, trust: named as left out, since it asks people and nothing that a machine measures answers for them."""

from scripts.experiments.lab import Lab
from scripts.experiments.report import Section
from scripts.experiments.run import alone

NOTE = (
    "Left out: 54 people said which of two networks they trust more, on a scale from -2 to +2, after seeing the maps of"
    " a VGG-16 (79.09 mAP on VOC) and of an AlexNet (69.20) where both say the same right class. Published: +1.27 for"
    " the VGG-16 with Guided Grad-CAM, +1.00 with Guided Backprop. What people trust is a fact about people; no measure"
    " of maps stands for it, so none is given."
)


def section(lab: Lab) -> Section:
    """5.2, trust, left out."""
    return Section("5.2: which network do people trust?", notes=[NOTE])


if __name__ == "__main__":
    alone("trust", __doc__)
