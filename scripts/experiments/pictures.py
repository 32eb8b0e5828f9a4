"""Figures 1 and 3 joined to the report, and the line chart that several experiments draw."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.experiments.lab import Lab
from scripts.experiments.report import Section


def figure1(lab: Lab) -> Section:
    """Figure 1, one photograph and two classes."""
    from scripts.experiments.figure1 import METHODS

    caption = "A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion"
    return _section(lab, "figure1", "Figure 1: one photograph, two classes", METHODS, "figure 1", caption)


def figure3(lab: Lab) -> Section:
    """Figure 3, counterfactuals."""
    from scripts.experiments.figure3 import METHODS

    caption = "For each class Grad-CAM, and the counterfactual: what would make the network change its mind"
    return _section(
        lab, "figure3", "Figure 3: what speaks for a class, and against it", METHODS, "figure 3", caption
    )


def _section(lab: Lab, name: str, title: str, methods: Sequence[str], source: str, caption: str) -> Section:
    def draw() -> Any:
        from PIL import Image

        from scripts.experiments.figures import TWO_CLASSES, draw_classes

        file = lab.out / "cells" / f"{name}.png"
        args = argparse.Namespace(
            image=str(TWO_CLASSES), target=None, model=lab.model, device=lab.device, out=str(file)
        )
        with contextlib.redirect_stdout(io.StringIO()):
            draw_classes(args, title, methods, source)
        with Image.open(file) as picture:
            drawn = picture.convert("RGB")
        file.unlink()
        return drawn

    return Section(title, pictures=[lab.picture(name, caption, draw)])


def line_chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]], x: str, y: str) -> Any:
    """A chart (Pillow image) of named lines; undefined values leave gaps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
    for name, (xs, ys) in lines.items():
        axes.plot(
            xs, [float("nan") if value is None else value for value in ys], marker="o", ms=3.5, label=name
        )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120)
    plt.close(figure)
    return Image.open(stream)
