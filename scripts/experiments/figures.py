"""What the figure scripts share: their arguments, drawing a classifier's figure, and clean errors."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
TWO_CLASSES = SAMPLES / "espresso_and_cat.jpg"  # the sample with two classes in it, and their names
TWO_CLASS_NAMES = ("Egyptian cat", "espresso")


def figure_parser(doc: str | None, out: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every figure: where it is written to, and on which device."""
    parser = argparse.ArgumentParser(
        description=(doc or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", default=out, metavar="FILE", help="picture to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return parser


def classifier_parser(doc: str | None, out: str) -> argparse.ArgumentParser:
    """The arguments of a figure that explains classes on one photograph."""
    parser = figure_parser(doc, out)
    parser.add_argument("--image", default=str(TWO_CLASSES), help="photograph with both classes")
    parser.add_argument(
        "--target", action="append", help=f"class; give two (default: {', '.join(TWO_CLASS_NAMES)})"
    )
    parser.add_argument(
        "--model", default="efficientnet_lite0", help="network; the paper's are vgg16 and resnet50"
    )
    return parser


def draw_classes(args: argparse.Namespace, title: str, methods: Sequence[str], source: str) -> None:
    """Draw and save a figure with one row for each class: the photograph, then a picture of each method."""
    import classification
    from common.draw import Tile, explanation_tiles, fitted, legends_of, panel, save_picture
    from common.images import open_image

    classifier = classification.load(args.model, device=args.device)
    image = open_image(args.image)
    found = classifier.explain(image, args.target or list(TWO_CLASS_NAMES), methods)
    maps = {method: values[:, 0] for method, values in found.maps.items()}
    notes = [f"logit {score:.2f}" for score in found.scores[:, 0].tolist()]
    likely = "; ".join(
        f"{p.label.split(',')[0]} {p.probability:.0%}" for p in classifier.predict(image, top=3)
    )
    drawn = explanation_tiles(image, [name.split(",")[0] for name in found.names], notes, maps)
    tiles = []
    for row in range(len(found.names)):
        tiles.append(Tile(fitted(image), "Photograph", likely))
        tiles += drawn[row * len(methods) : (row + 1) * len(methods)]
    note = f"{classifier.network.name}, layer {classifier.layer}; after {source} of Selvaraju et al."
    save_picture(panel(title, tiles, len(methods) + 1, legends_of(methods), note=note), args.out)
    print(args.out)


def run_figure(main: Callable[[], Any]) -> None:
    """Run `main` as a program: what a user can mend ends in one line and status 2."""
    cli.silence_libraries()
    try:
        main()
    except UserError as problem:
        cli.error(problem)
        sys.exit(cli.FAILED)
