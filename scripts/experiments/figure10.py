"""Figure 10 of the paper: explanations of captions, and how much of a phrase's map lies in its boxes.

    python -m scripts.experiments.figure10                                   # the pictures: about 10 s on two CPU cores
    python -m scripts.experiments.figure10 --data densecap:PATH --limit 1000    # and the table, by the paper's protocol
    python -m scripts.experiments.figure10 --data flickr8k:PATH --limit 300       # phrases of people's captions: 10 min

The pictures: the bundled photographs (or --images) with the model's caption, the caption's Grad-CAM and Guided
Grad-CAM. The table: mean activation inside over outside the boxes of regions, whose captions are each explained as a
caption of its own, five an image: those of DenseCap's output (the surest), of Visual Genome, or phrases of people's
captions with boxes (Flickr30k Entities; both drawn by chance). Of the latter a second table is of phrases in the
context of their caption. Beside it stand the paper's values, of neuraltalk2 on COCO with DenseCap's regions: uniform
1.0, Guided Backprop 2.32, Grad-CAM 3.27, Guided Grad-CAM 6.38.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from captioning import grounding
from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.errors import UserError
from common.images import open_image
from data.readers import flickr8k, regions
from data.records import DescribedImage, Region
from scripts.console import whole
from scripts.experiments.drawing import SAMPLES, clickable_captions, figure_parser, save_figure
from scripts.experiments.grounded import bar_of, read_grounded
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.maps import LABELS
from scripts.experiments.report import Row, Section, Table, against, row_of
from scripts.experiments.run import run_program
from scripts.experiments.scenes import DEV

METHODS = ("guided", "gradcam", "guided_gradcam")
PUBLISHED = {"guided": "2.32 ± 0.08", "gradcam": "3.27 ± 0.18", "guided_gradcam": "6.38 ± 0.99"}
SHOWN = ("gradcam", "guided_gradcam")
OTHER = ("guided", "gradcam")  # measured in the boxes of another phrase as well
SETS = {
    "densecap": "region captions by DenseCap",
    "visualgenome": "Visual Genome's region captions",
    "flickr8k": f"phrases of people's captions, {DEV}",
}
EACH = 5  # regions of an image
RULE = (
    "Mean activation inside over outside the boxes. A map of zeros favours no place and counts as uniform, 1. Of a map"
    " with nothing outside the ratio is infinite: left out of the mean, counted as left out, and the largest in the"
    " median. The means are ruled by a few maps with next to nothing outside, so read the medians."
)
Item = tuple[Path, Sequence[Any]]  # a photograph and the cases (captioning.grounding.Case) to explain on it


def described(kind: str, folder: Path, split: str, limit: int) -> list[DescribedImage]:
    """Photographs with captions of their regions, from one of `SETS`. Raises `UserError` for another kind."""
    if kind == "densecap":
        return regions.read_densecap(folder, limit).items
    if kind == "visualgenome":
        return regions.read_visual_genome(folder, limit).items
    if kind != "flickr8k":
        raise UserError(f"data '{kind}' is of no known kind; give {', '.join(f'{name}:PATH' for name in SETS)}")
    return [DescribedImage(image.path, _phrases(captions)) for image, captions in _grounded(folder, split, limit)]


def _grounded(folder: Path, split: str, limit: int) -> Iterator[tuple[Any, Any]]:
    return zip(*read_grounded(folder, split, limit), strict=True)


def _phrases(captions: Sequence[Any]) -> tuple[Region, ...]:
    """The phrases with boxes of the captions of an image, each text once."""
    known = {" ".join(p.words): p.boxes for caption in captions for p in caption.phrases if p.boxes}
    return tuple(Region(text, boxes) for text, boxes in known.items())


def as_captions(network: Any, kind: str, images: Iterable[DescribedImage]) -> Iterator[Item]:
    """Five regions of each image, each a case of its own; what has no word that the model knows is left out."""
    for number, image in enumerate(images):
        first = kind == "densecap" or len(image.regions) <= EACH
        chosen = image.regions[:EACH] if first else random.Random(number).sample(image.regions, EACH)
        texts = [(network.read(region.text), region) for region in chosen]
        yield (
            image.path,
            [
                grounding.Case(0, text, (), (grounding.Span(0, len(text.words), region.text, "", region.boxes),))
                for text, region in texts
                if set(text.words) - set(text.unknown)
            ],
        )


def in_context(network: Any, folder: Path, split: str, limit: int) -> Iterator[Item]:
    """The phrases with boxes in the first of people's captions of each image, the caption read as a whole."""
    for image, captions in _grounded(folder, split, limit):
        cases = grounding.human_cases(0, captions, network, limit=1)
        yield image.path, [case for case in cases if case.phrases]


def measure(captioner: Any, items: Iterable[Item], methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Ratios by method, summarised over the phrases of all cases, errors over images."""

    def ratios(number: int, item: Item) -> dict[str, list[float]]:
        path, cases = item
        seen = captioner.encode([path])
        found = [each for case in cases for each in grounding.phrase_ratios(captioner, seen, case, methods)]
        return {name: [each[name] for each in found] for name in methods}

    return measured(items, ratios, methods)


def moved(items: Iterable[Item]) -> Iterator[Item]:
    """The same with the boxes of each image's next phrase that has others; without boxes where there is none."""
    for path, cases in items:
        boxes = [span.boxes for case in cases for span in case.phrases]
        turned = [[*boxes[n + 1 :], *boxes[:n]] for n in range(len(boxes))]
        following = iter([next((b for b in those if b != own), ()) for own, those in zip(boxes, turned, strict=True)])
        yield path, [replace(c, phrases=tuple(replace(s, boxes=next(following)) for s in c.phrases)) for c in cases]


def draw(captioner: Any, files: Sequence[Any]) -> Image.Image:
    """A row for each photograph: itself with its caption, Grad-CAM, Guided Grad-CAM."""
    tiles = []
    for file in files:
        image = open_image(file)
        seen = captioner.encode(image)
        caption = captioner.caption(seen)
        found = captioner.explain(seen, caption, methods=SHOWN, score="log_probability")
        tiles.append(Tile(fitted(image), caption.text, f"log p {found.scores[0, 0]:.2f}"))
        drawn = {m: draw_map(m, fitted(image), found.maps[m][0, 0]) for m in SHOWN}
        tiles += [Tile(picture, LABELS[m], "the whole caption") for m, picture in drawn.items()]
    note = f"{captioner.name}, after figure 10a of Selvaraju et al."
    return panel("What in the image the caption speaks of", tiles, 3, legends_of(SHOWN), note=note)


def section(lab: Lab) -> Section:
    """Figure 10, captions."""
    kinds = [kind for kind in SETS if kind in lab.data and kind != "flickr8k"]
    tables = [own_table(lab.on(kind), kind) for kind in kinds or ["flickr8k"]]
    if "flickr8k" in lab.data:
        tables.append(context_table(lab.on("flickr8k")))
    mark, captioner = lab.mark("captioner"), lab.facade("captioner")
    files = _shown(lab)
    shown = "Captions of photographs that the captioner was not trained on, and what in them they speak of"
    drawn = lab.picture("figure10", shown, partial(draw, captioner, files), mark=mark, files=files)
    words = clickable_captions(lab, "figure10", files[:3], SHOWN)
    return Section("Figure 10: captions", tables, [drawn], [RULE], words)


def _shown(lab: Lab) -> list[str]:
    """Five photographs of Flickr8k's dev split; the bundled ones without it."""
    if "flickr8k" not in lab.data:
        return [str(path) for path in sorted(SAMPLES.glob("*.jpg"))]
    known = flickr8k.read(lab.need("flickr8k"), "dev")
    return [str(image.path) for image in known[:: max(1, len(known) // 5)][:5]]


def own_table(lab: Lab, kind: str) -> Table:
    """Figure 10b by the paper's protocol: each phrase is a caption of its own."""
    captioner = lab.facade("captioner")

    def items(count: int) -> Iterator[Item]:
        return as_captions(captioner.network, kind, described(kind, lab.need(kind), "dev", count))

    note = (
        "Each caption of a region is explained as a caption of its own, five an image. Published: neuraltalk2 on COCO"
        " with DenseCap's regions."
    )
    own = kind != "densecap"
    return _table(lab, f"figure10-{kind}", "phrases as captions", SETS[kind], items, note, PUBLISHED, own)


def context_table(lab: Lab) -> Table:
    """The same of phrases in the context of their caption, which the paper has not."""
    network = lab.facade("captioner").network
    items = partial(in_context, network, lab.need("flickr8k"), "dev")
    note = "The phrases of one caption of each image, the caption read as a whole: not in the paper."
    return _table(lab, "figure10-context", "phrases in the context of their caption", DEV, items, note, {}, True)


def _table(
    lab: Lab, name: str, what: str, data: str, items: Any, note: str, published: dict[str, str], substitute: bool
) -> Table:
    mark, captioner, limit, fewer = lab.mark("captioner"), lab.facade("captioner"), lab.count(100, 5), lab.count(50, 5)
    own = lab.cell(name, lambda: measure(captioner, items(limit)), limit=limit, mark=mark)
    measure_other = partial(measure, captioner, methods=OTHER)
    other = lab.cell(f"{name}-other", lambda: measure_other(moved(items(fewer))), limit=fewer, mark=mark)
    rows, first = [Row("uniform", 1.0, None, 0, "1.0" if published else "")], own["gradcam"]
    measures = [(LABELS[m], found, published.get(m, "")) for m, found in own.items()]
    measures += [(f"{LABELS[m]}, boxes of another phrase", found, "") for m, found in other.items()]
    for label, found, shown in measures:
        median = "" if found["median"] is None else f"median {found['median']:.2f}"
        row = row_of(label, found, shown, "captioner", median)
        rows.append(row if found is first else against(row, paired(found, first)))
    title, gradcam = f"Figure 10b, {what}", LABELS["gradcam"]
    return Table(title, data, "inside / outside", rows, substitute, 2, note, gradcam)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures and, where data is given, measure, print and write the tables."""
    import captioning

    parser = figure_parser(__doc__, "saywhy-out/figure10.png")
    add = parser.add_argument
    add("--images", nargs="+", metavar="FILE", help="photographs (default: the bundled ones)")
    kinds = ", ".join(f"{kind}:PATH" for kind in SETS)
    add("--data", metavar="KIND:PATH", help=f"for the table: {kinds} (with flickr30k_entities)")
    add("--split", default="dev", help="split of Flickr8k")
    add("--limit", type=whole(), default=300, help="images that the table is made of")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    captioner = captioning.load(args.model, device=args.device)
    figures = None
    if args.data:
        kind, _, folder = args.data.partition(":")
        images = described(kind, Path(folder), args.split, args.limit)
        own = as_captions(captioner.network, kind, images)
        tables = {"phrases as captions": measure(captioner, _watched(own, len(images), args.quiet))}
        if kind == "flickr8k":
            context = in_context(captioner.network, Path(folder), args.split, args.limit)
            tables["phrases in context"] = measure(captioner, _watched(context, len(images), args.quiet))
        _print(tables)
        figures = {"data": kind, "tables": tables, "published": PUBLISHED, "rule": RULE}
    save_figure(draw(captioner, args.images or sorted(SAMPLES.glob("*.jpg"))), args.out, figures)


def _watched(items: Iterable[Item], count: int, quiet: bool) -> Iterator[Item]:
    with bar_of(count, "image", quiet) as bar:
        for item in items:
            yield item
            bar.update()


def _print(tables: dict[str, Any]) -> None:
    for name, ratios in tables.items():
        published = PUBLISHED if name == "phrases as captions" else {}
        print(f"{name}: mean activation inside over outside the boxes (± standard error)")
        print(f"  {'':18}{'here':26}{'median':9}published")
        print(f"  {'uniform':18}{'1':26}{'1':9}{'1' if published else '-'}")
        for method, s in ratios.items():
            here = f"{s['mean']:.2f} ± {s['error']:.2f} (n = {s['n']})" if math.isfinite(s["error"]) else "-"
            print(f"  {LABELS[method]:18}{here:26}{s['median']:<9.2f}{published.get(method, '-')}")


if __name__ == "__main__":
    run_program(main)
