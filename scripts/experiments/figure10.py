"""Figure 10 of the paper: explanations of captions, and how much of a phrase's map lies in its boxes.

    python -m scripts.experiments.figure10                                   # the pictures: about 10 s on two CPU cores
    python -m scripts.experiments.figure10 --data flickr8k:PATH --limit 300  # and the table: about 10 min

The pictures: the bundled photographs (or --images) with the model's caption, the caption's Grad-CAM and Guided
Grad-CAM. The table: mean activation inside over outside the boxes of phrases (Flickr30k Entities, phrases read in
people's captions), with standard errors over images, beside the paper's values, which are of another model on other
data (neuraltalk2, COCO, region captions): uniform 1.0, Guided Backprop 2.32, Grad-CAM 3.27, Guided Grad-CAM 6.38.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from captioning import grounding
from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.images import open_image
from data.readers import flickr8k
from scripts.experiments.drawing import SAMPLES, figure_parser, save_figure
from scripts.experiments.grounded import batches, flickr8k_folder, read_grounded
from scripts.experiments.lab import Lab, measured
from scripts.experiments.maps import LABELS
from scripts.experiments.report import Row, Section, Table, row_of
from scripts.experiments.run import run_program
from scripts.experiments.scenes import DEV

METHODS = ("guided", "gradcam", "guided_gradcam")
PUBLISHED = {"guided": "2.32 ± 0.08", "gradcam": "3.27 ± 0.18", "guided_gradcam": "6.38 ± 0.99"}
SHOWN = ("gradcam", "guided_gradcam")
OTHER = ("guided", "gradcam")  # measured in the boxes of another phrase as well


def measure(captioner: Any, folder: Path, split: str, limit: int, batch: int = 8, quiet: bool = True) -> dict[str, Any]:
    """Ratios by method, summarised over the phrases with boxes in the first of people's captions of each image."""
    images, grounded = read_grounded(folder, split, limit)
    seen_rows = (
        (seen, row, grounded[n])
        for numbers, seen in batches(captioner, images, batch, quiet)
        for row, n in enumerate(numbers)
    )

    def ratios(number: int, item: tuple[Any, int, Any]) -> dict[str, list[float]]:
        seen, row, captions = item
        cases = grounding.human_cases(row, captions, captioner.network, limit=1)
        return _ratios(captioner, seen, [case for case in cases if case.phrases], METHODS)

    found = measured(seen_rows, ratios, METHODS)
    return {"phrases": found["guided"]["n"] + found["guided"]["left_out"], "ratios": found}


def _ratios(captioner: Any, seen: Any, cases: Sequence[Any], methods: Sequence[str]) -> dict[str, list[float]]:
    found = [each for case in cases for each in grounding.phrase_ratios(captioner, seen, case, methods)]
    return {name: [each[name] for each in found] for name in methods}


def other_phrases(captioner: Any, folder: Path, limit: int) -> dict[str, Any]:
    """The ratios of each phrase's map in the boxes of the next phrase of the same caption, summarised."""

    def ratios(number: int, item: tuple[Any, Any]) -> dict[str, list[float]]:
        image, captions = item
        moved = []
        for case in grounding.human_cases(0, captions, captioner.network, limit=1):
            following = [*case.phrases[1:], *case.phrases[:1]]
            phrases = [replace(a, boxes=b.boxes) for a, b in zip(case.phrases, following, strict=True)]
            moved += [replace(case, phrases=tuple(phrases))] if len(phrases) > 1 else []
        return _ratios(captioner, captioner.encode([image.path]), moved, OTHER)

    return measured(zip(*read_grounded(folder, "dev", limit), strict=True), ratios, OTHER)


def draw(captioner: Any, files: Sequence[Any]) -> Image.Image:
    """A row for each photograph: itself with its caption, Grad-CAM, Guided Grad-CAM."""
    tiles = []
    for file in files:
        image = open_image(file)
        seen = captioner.encode(image)
        caption = captioner.caption(seen)
        found = captioner.explain(seen, caption, methods=SHOWN)
        tiles.append(Tile(fitted(image), caption.text, f"log p {found.scores[0, 0]:.2f}"))
        drawn = {m: draw_map(m, fitted(image), found.maps[m][0, 0]) for m in SHOWN}
        tiles += [Tile(picture, LABELS[m], "the whole caption") for m, picture in drawn.items()]
    note = f"{captioner.name}, after figure 10a of Selvaraju et al."
    return panel("What in the image the caption speaks of", tiles, 3, legends_of(SHOWN), note=note)


def section(lab: Lab) -> Section:
    """Figure 10, captions."""
    folder, limit, fewer = lab.need("flickr8k"), lab.count(100, 5), lab.count(50, 5)
    mark, captioner = lab.mark("captioner"), lab.facade("captioner")
    known = flickr8k.read(folder, "dev")
    files = [str(image.path) for image in known[:: max(1, len(known) // 5)][:5]]
    shown = "Captions of photographs that the captioner was not trained on, and what in them they speak of"
    drawn = lab.picture("figure10", shown, partial(draw, captioner, files), mark=mark, files=files)
    table, others = (
        partial(measure, captioner, folder, "dev", limit),
        partial(other_phrases, captioner, folder, fewer),
    )
    cell = lab.cell("figure10-table", table, limit=limit, mark=mark)
    other = lab.cell("figure10-other", others, limit=fewer, mark=mark)
    rows = [Row("uniform", 1.0, None, 0, "1.0")]
    measures = [(LABELS[m], r, PUBLISHED[m]) for m, r in cell["ratios"].items()]
    measures += [(f"{LABELS[m]}, boxes of another phrase", r, "") for m, r in other.items()]
    for what, r, published in measures:
        median = "" if r["median"] is None else f"median {r['median']:.2f}"
        rows.append(row_of(what, r, published, "captioner", median))
    note = (
        "Mean activation inside over outside a phrase's boxes. Published: neuraltalk2, COCO region captions. Maps that"
        " are zero everywhere have no ratio and are left out. The means are ruled by a few maps with next to nothing"
        " outside, so read the medians."
    ) + _why(cell["ratios"], other)
    phrases = Table("Figure 10b, phrases of captions", DEV, "inside / outside", rows, True, 2, note)
    return Section("Figure 10: captions", [phrases], [drawn])


def _why(ratios: dict[str, Any], other: dict[str, Any]) -> str:
    """Why phrases' Grad-CAM stays below Guided Backprop, against the paper; nothing where it does not."""
    own = {name: ratios[name]["median"] for name in other}
    wrong = {name: found["median"] for name, found in other.items()}
    if None in (*own.values(), *wrong.values()) or own["gradcam"] >= own["guided"]:
        return ""
    return (
        f" By the medians Grad-CAM ({own['gradcam']:.2f}) is below Guided Backprop ({own['guided']:.2f}), against the"
        f" paper's order. But in the boxes of another phrase of the caption its median is {wrong['guided']:.2f}: it"
        f" shows people and dogs whatever is asked; Grad-CAM falls to {wrong['gradcam']:.2f} there."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures and, where data is given, measure, print and write the table."""
    import captioning

    parser = figure_parser(__doc__, "saywhy-out/figure10.png")
    add = parser.add_argument
    add("--images", nargs="+", metavar="FILE", help="photographs (default: the bundled ones)")
    add("--data", metavar="KIND:PATH", help="flickr8k:PATH with flickr30k_entities, for the table")
    add("--split", default="dev", help="split of the data")
    add("--limit", type=int, default=300, help="images that the table is made of")
    add("--batch", type=int, default=8, help="images at once")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    captioner = captioning.load(args.model, device=args.device)
    figures = None
    if args.data:
        folder = flickr8k_folder(args.data)
        found = measure(captioner, folder, args.split, args.limit, args.batch, args.quiet)
        _print(found)
        figures = {**found, "published": PUBLISHED}
    save_figure(draw(captioner, args.images or sorted(SAMPLES.glob("*.jpg"))), args.out, figures)


def _print(found: dict[str, Any]) -> None:
    print(f"mean activation inside over outside the boxes, {found['phrases']} phrases (± standard error)")
    print(f"  {'':18}{'here':26}median   published")
    print(f"  {'uniform':18}{'1':26}1        1")
    for method, s in found["ratios"].items():
        here = f"{s['mean']:.2f} ± {s['error']:.2f} (n = {s['n']})"
        print(f"  {LABELS[method]:18}{here:26}{s['median']:<9.2f}{PUBLISHED[method]}")


if __name__ == "__main__":
    run_program(main)
