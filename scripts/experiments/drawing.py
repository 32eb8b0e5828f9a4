"""What figures share: the bundled photographs, a row of maps for each class, a chart of lines, their arguments."""

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

import classification
from common.draw import Tile, fitted, legends_of, panel, save_picture
from common.explanation import versions
from common.files import atomic_paths, write_json
from common.images import open_image
from common.panels import explanation_tiles
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section, Widget
from scripts.experiments.run import run_program

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
TWO_CLASSES = SAMPLES / "drums_and_guitar.jpg"  # the sample with two classes in it, and their names
TWO_CLASS_NAMES = ("electric guitar", "drum")
MODEL_HELP = "a checkpoint, or hf:PATH_OR_NAME for transformers (default: the shipped one)"


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = "(default" in (action.help or "") or action.default in (None, False)
        return action.help if told else super()._get_help_string(action)


def figure_parser(
    doc: str | None, out: str, model_help: str = MODEL_HELP, model: str | None = None
) -> argparse.ArgumentParser:
    """A parser with the arguments of every figure: where it is written to, of which model, on which device."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0], formatter_class=_Help)
    parser.add_argument("--out", default=out, metavar="FILE", help="picture to write")
    parser.add_argument("--model", default=model, help=model_help)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return parser


def save_figure(picture: Image.Image, out: str, figures: dict[str, Any] | None = None) -> None:
    """Write a picture, and beside it as JSON what was measured; print their names."""
    files = [Path(out)] if figures is None else [Path(out), Path(out).with_suffix(".json")]
    with atomic_paths(*files) as (drawn, *measured):
        save_picture(picture, drawn)
        for file in measured:
            write_json(file, {**(figures or {}), "versions": versions()})
    print(*files, sep="\n")


@dataclass(frozen=True)
class ClassFigure:
    """A figure that explains classes on one photograph: a row for each, the photograph and each method's picture."""

    name: str
    methods: Sequence[str]
    title: str
    caption: str

    def draw(self, classifier: Any, image: Image.Image, targets: Sequence[str]) -> Image.Image:
        found = classifier.explain(image, list(targets), methods=self.methods)
        likely = "; ".join(f"{p.label.split(',')[0]} {p.probability:.0%}" for p in classifier.predict(image, top=3))
        names = [name.split(",")[0] for name in found.names]
        tiles, columns = explanation_tiles(Tile(fitted(image), "Photograph", likely), found, "logit", names)
        what, _, about = self.title.partition(": ")
        note = f"{classifier.network.name}, layer {classifier.layer}; after {what.lower()} of Selvaraju et al."
        return panel(about.capitalize(), tiles, columns, legends_of(self.methods), note=note)

    def section(self, lab: Lab) -> Section:
        """The figure of the bundled photograph."""

        def drawn() -> Image.Image:
            return self.draw(lab.classifier, open_image(TWO_CLASSES), TWO_CLASS_NAMES)

        def explained() -> Any:
            return lab.classifier.explain(TWO_CLASSES, list(TWO_CLASS_NAMES), methods=self.methods)

        shown = lab.widget(f"{self.name}-words", "The same to click: choose a class and a method", explained)
        return Section(self.title, pictures=[lab.picture(self.name, self.caption, drawn)], widgets=[shown])

    def main(self, doc: str | None) -> None:
        """Draw what the arguments say."""
        model = "network; the paper's are vgg16 and resnet50"
        parser = figure_parser(doc, f"saywhy-out/{self.name}.png", model, "efficientnet_lite0")
        image, names = "photograph with both classes (default: a bundled one)", ", ".join(TWO_CLASS_NAMES)
        parser.add_argument("--image", default=str(TWO_CLASSES), help=image)
        parser.add_argument("--target", action="append", help=f"class; give two (default: {names})")
        args = parser.parse_args()

        def drawn() -> None:
            classifier = classification.load(args.model, device=args.device)
            save_figure(self.draw(classifier, open_image(args.image), args.target or TWO_CLASS_NAMES), args.out)

        run_program(drawn)


def clickable_captions(lab: Lab, name: str, files: Sequence[str], methods: Sequence[str]) -> list[Widget]:
    """The captions of photographs, each word to click."""
    captioner, mark = lab.facade("captioner"), lab.mark("captioner")
    return [
        lab.widget(
            f"{name}-{Path(file).stem}",
            "A caption to click: each word paints its own map",
            partial(captioner.explain, file, methods=methods),
            mark=mark,
            file=file,
        )
        for file in files
    ]


def line_chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]], x: str, y: str) -> Image.Image:
    """A chart of named lines; undefined values leave gaps."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
    for name, (xs, ys) in lines.items():
        known = [float("nan") if value is None else value for value in ys]
        axes.plot(xs, known, marker="o", ms=3.5, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return picture_of(figure, 120)


def pyplot() -> Any:
    """Matplotlib's pyplot, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def picture_of(figure: Any, dpi: int) -> Image.Image:
    """A Matplotlib figure as a picture; the figure is closed."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi)
    pyplot().close(figure)
    return Image.open(stream)
