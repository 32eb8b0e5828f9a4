"""Figure 10 of the paper: explanations of captions, and how much of a phrase's map lies in its boxes.

    python -m scripts.experiments.figure10                                   # the pictures: about 10 s on two CPU cores
    python -m scripts.experiments.figure10 --data flickr8k:PATH --limit 300  # and the table: about 10 min

The pictures: the bundled photographs (or --images) with the model's caption, the caption's Grad-CAM and
Guided Grad-CAM. The table: mean activation inside over outside the boxes of phrases (Flickr30k Entities,
phrases read in people's captions), with standard errors over images, beside the paper's values, which are
of another model on other data (neuraltalk2, COCO, region captions): uniform 1.0, Guided Backprop 2.32,
Grad-CAM 3.27, Guided Grad-CAM 6.38.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts.commands import evaluate
from scripts.experiments import figures

METHODS = ("guided", "gradcam", "guided_gradcam")
PUBLISHED = {"guided": (2.32, 0.08), "gradcam": (3.27, 0.18), "guided_gradcam": (6.38, 0.99)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures and, where data is given, measure and print the table."""
    parser = figures.figure_parser(__doc__, "saywhy-out/figure10.png")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="photographs; None are the bundled ones")
    parser.add_argument(
        "--data", metavar="KIND:PATH", help="flickr8k:PATH with flickr30k_entities, for the table"
    )
    parser.add_argument("--split", default="dev", help="split of the data")
    parser.add_argument("--limit", type=int, default=300, help="images that the table is made of")
    parser.add_argument("--model", help="a checkpoint, or hf:PATH_OR_NAME; None is the shipped one")
    parser.add_argument("--batch", type=int, default=8, help="images at once")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    import captioning

    captioner = captioning.load(args.model, device=args.device)
    draw(captioner, args)
    if args.data:
        report(measured(captioner, args), args)


def draw(captioner: Any, args: argparse.Namespace) -> None:
    """A row for each photograph: itself with its caption, Grad-CAM, Guided Grad-CAM."""
    from common.draw import METHOD_LABELS, Tile, draw_map, fitted, legends_of, panel, save_picture
    from common.images import open_image

    files = args.images or sorted(
        file for file in figures.SAMPLES.iterdir() if file.suffix in (".jpg", ".png")
    )
    if not files:
        raise UserError(f"no photographs in '{figures.SAMPLES}'; name some with --images")
    tiles, shown = [], ("gradcam", "guided_gradcam")
    for file in files:
        image = open_image(file)
        seen = captioner.see(image)
        caption = captioner.caption(seen)
        found = captioner.explain(seen, caption, methods=shown)
        tiles.append(Tile(fitted(image), caption.text, f"log p {found.scores[0, 0]:.2f}"))
        tiles += [
            Tile(draw_map(m, fitted(image), found.maps[m][0, 0]), METHOD_LABELS[m], "the whole caption")
            for m in shown
        ]
    note = f"{captioner.name}, after figure 10a of Selvaraju et al."
    save_picture(
        panel("What in the image the caption speaks of", tiles, 3, legends_of(shown), note=note), args.out
    )
    print(args.out)


def measured(captioner: Any, args: argparse.Namespace) -> list[tuple[int, dict[str, float]]]:
    """(image, ratio by method) of each phrase with boxes in the first of people's captions of each image."""
    from captioning import grounding

    images = evaluate.flickr8k_images(args.data, args.split, args.limit)
    folder = evaluate.entities_folder(args.data)
    if folder is None:
        raise UserError(
            f"'{args.data}' has no folder flickr30k_entities with boxes; put it beside the photographs"
        )
    grounded = evaluate.grounded_captions(folder, images)
    rows = []
    for numbers, seen in evaluate.batches(captioner, images, args):
        for row, number in enumerate(numbers):
            for case in grounding.human_cases(row, grounded[number], captioner.network, limit=1):
                if case.phrases:
                    ratios = grounding.phrase_ratios(captioner, seen, case, METHODS)
                    rows += [(number, ratio) for ratio in ratios]
    return rows


def report(rows: Sequence[tuple[int, dict[str, float]]], args: argparse.Namespace) -> None:
    """Print the table and write it beside the picture."""
    from common.draw import METHOD_LABELS
    from common.explanation import versions
    from common.files import write_json
    from common.metrics.grounding import summary

    found = {m: summary([ratios[m] for _, ratios in rows], [image for image, _ in rows]) for m in METHODS}
    print(f"mean activation inside over outside the boxes, {len(rows)} phrases (± standard error)")
    print(f"  {'':18}{'here':26}median   published")
    print(f"  {'uniform':18}{'1':26}1        1")
    for method, s in found.items():
        mean, error = PUBLISHED[method]
        here = f"{s.mean:.2f} ± {s.error:.2f} (n = {s.n})"
        print(f"  {METHOD_LABELS[method]:18}{here:26}{s.median:<9.2f}{mean} ± {error}")
    path = Path(args.out).with_suffix(".json")
    table = {m: dict(vars(s)) for m, s in found.items()}
    write_json(path, {"phrases": len(rows), "ratios": table, "published": PUBLISHED, "versions": versions()})
    print(path)


if __name__ == "__main__":
    figures.run_figure(main)
