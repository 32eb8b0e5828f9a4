"""Section 5.1: can classes be told apart by their maps? The grid pointing game stands for the study with people."""

from scripts.experiments.grid import grid_table
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section
from scripts.experiments.run import alone

METHODS = ("guided_gradcam", "deconv_gradcam", "guided", "deconv", "gradcam")
PEOPLE = {"guided_gradcam": "61.23 %", "guided": "44.44 %", "deconv_gradcam": "60.37 %", "deconv": "53.33 %"}


def section(lab: Lab) -> Section:
    """5.1, class discrimination: the grid pointing game as a machine's proxy."""
    lab = lab.on("samples")
    table = grid_table(lab, "5.1, class discrimination", METHODS, PEOPLE, 2)
    note = (
        "Published: the share of answers in which people named the explained one of two categories; a guess is right"
        " half of the time, on a mosaic of four a quarter of a map is where it belongs. The proxy puts Deconvolution,"
        " whose map hardly depends on the class, below Guided Backprop; people did not."
    )
    return Section("5.1: can classes be told apart by their maps?", [table], notes=[note])


if __name__ == "__main__":
    alone("discrimination", __doc__)
