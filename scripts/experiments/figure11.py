"""Figure 11 of the paper: do the words of captions point at what they name?

    python -m scripts.experiments.figure11 --data flickr8k:PATH        # 1000 dev images: about 6 min on two CPU cores
    python -m scripts.experiments.figure11 --data coco:PATH --limit 1000                     # the paper's protocol

For each word of a caption that names something that people located, the largest value of its Grad-CAM map has to lie on
it. Words are read in people's captions, as published, and in the model's own. On COCO (PATH/annotations, PATH/val2014
or a division of the copy's own) a word is grounded by the 80 classes, by their masks where the copy has outlines, else
by their boxes; on Flickr30k Entities by the phrases that it heads in people's captions, by their boxes. Photographs are
drawn by chance, with a seed. Each word is explained by its log-probability, as in the paper, and by its logit. The half
of the words that come most from the picture is measured apart, where the model can say which. The paper: 30.0 % on the
masks of 1000 COCO images. Writes a bar chart and, beside it, a JSON file with all figures.
"""

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from captioning import grounding
from common.errors import UserError
from data.readers import coco
from scripts.console import whole
from scripts.experiments.compared import compared
from scripts.experiments.drawing import SAMPLES, clickable_captions, figure_parser, picture_of, pyplot, save_figure
from scripts.experiments.grounded import (
    WHOSE,
    Truth,
    classes_truth,
    entities_truth,
    flickr8k_folder,
    plain,
    read_cases,
    read_grounded,
    table_lines,
)
from scripts.experiments.lab import Lab, measured
from scripts.experiments.paper import WORDS as COUNT
from scripts.experiments.report import Picture, Section, Table
from scripts.experiments.run import run_program
from scripts.experiments.word_maps import words_picture

PUBLISHED = 0.300
CLICKED = ("kitten.jpg", "giraffes.jpg", "mariachi.jpg")  # samples whose words are shown
SCORES = ("log_probability", "logit")
METHODS = ("gradcam", "hirescam")
OF_LOGIT = " of the logit"
LABELS = {
    "gradcam": "Grad-CAM of the word's log-probability",
    f"gradcam{OF_LOGIT}": "Grad-CAM of the word's logit",
    "hirescam": "HiResCAM of the word's log-probability",
    f"hirescam{OF_LOGIT}": "HiResCAM of the word's logit",
    "other word": "another word's map",
    "wrong word": "a wrong word's map",
    "energy": "activation energy, whatever the word",
    "centre": "centre of the image",
    "random": "a random point",
}
WORDS = {"human": "words of people's captions", "generated": "words of the model's own captions"}
DRAWN = 0  # the seed that photographs are drawn with


def truth_of(captioner: Any, kind: str, folder: Path, split: str, limit: int) -> Truth:
    """What grounds the words of captions of photographs, drawn by chance, of a split of 'coco' or 'flickr8k'.

    Of COCO's photographs those with captions by people come first.
    """
    if kind == "flickr8k":
        return entities_truth(captioner.network, *read_grounded(folder, split, limit, DRAWN))
    pairs = coco.read_held_out(folder) if split == "val" else coco.read_split(folder, split)
    mixed = random.Random(DRAWN).sample(pairs, len(pairs))
    return classes_truth(captioner.network, sorted(mixed, key=lambda pair: not pair[0].captions)[:limit])


def measure(captioner: Any, truth: Truth, batch: int = 16, quiet: bool = True) -> dict[str, list[Any]]:
    """The records of all grounded words, of people's captions ('human') and the model's own ('generated')."""
    records: dict[str, list[Any]] = {whose: [] for whose in WORDS}
    for numbers, seen, _, cases in read_cases(captioner, truth, batch, quiet):
        for whose, these in cases.items():
            words = [replace(case, phrases=()) for case in these]
            found = [grounding.measure(captioner, seen, words, score, METHODS) for score in SCORES]
            both = [_joined(*pair) for pair in zip(*found, strict=True)]
            records[whose] += [replace(record, image=numbers[record.image]) for record in both]
    if not any(records.values()):
        raise UserError("no word of a caption named anything with boxes; give more images with --limit")
    return records


def _joined(record: Any, of_logit: Any) -> Any:
    """A word's record with where its maps of the logit point as well."""
    more = {f"{name}{OF_LOGIT}": of_logit.pointing[name] for name in METHODS}
    return replace(record, pointing={**record.pointing, **more})


def by_type(records: Sequence[Any]) -> dict[str, Any]:
    """Pointing accuracy by type of word, with all types together under 'all'."""
    return grounding.table(records, False, lambda r: r.pointing)


def by_word(records: Sequence[Any], least: int) -> dict[str, Any]:
    """The same for each word that occurs at least `least` times, the most frequent first."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        groups[record.word].append(record)
    kept = sorted((w for w in groups if len(groups[w]) >= least), key=lambda w: (-len(groups[w]), w))
    return {word: by_type(groups[word])["all"] for word in kept}


def by_photograph(records: Sequence[Any]) -> dict[str, Any]:
    """Pointing accuracy by map, the values kept by photograph, for paired differences (`lab.measured`)."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for record in records:
        groups[record.image].append(record)

    def hits(number: int, these: Sequence[Any]) -> dict[str, list[float]]:
        return {name: [record.pointing.get(name, math.nan) for record in these] for name in LABELS}

    return measured(list(groups.values()), hits, LABELS)


def draw(words: Mapping[str, Any], together: Mapping[str, Any], protocol: str) -> Image.Image:
    """A bar for each word, the most accurate first, with the centre and the activation energy as marks."""
    shown = dict(sorted(list(words.items())[:40], key=lambda item: -item[1]["gradcam"]["mean"]))
    rows = {"all words": together, **shown}
    height = 1.4 + 0.27 * len(rows)
    figure, axes = pyplot().subplots(figsize=(8, height), layout="constrained")
    places = list(range(len(rows))[::-1])
    means, errors = ([row["gradcam"][key] or 0 for row in rows.values()] for key in ("mean", "error"))
    colors = ["#30508f", *["#7b9fd4"] * len(shown)]
    axes.barh(places, means, xerr=errors, ecolor="#555555", color=colors, label="Grad-CAM of the word")
    filled, hollow = {"color": "#c04020"}, {"facecolors": "none", "edgecolors": "#c04020"}
    for name, mark, style in (("centre", "|", filled), ("energy", "x", filled), ("other word", "o", hollow)):
        values = [_mean(row.get(name)) for row in rows.values()]
        axes.scatter(values, places, marker=mark, s=36, zorder=3, label=LABELS[name].partition(",")[0], **style)
    axes.set_yticks(places, [f"{name}  ({row['gradcam']['n']})" for name, row in rows.items()])
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    axes.set_xlabel(f"pointing accuracy on {protocol} (lines: standard error)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9 / height - 0.03), ncols=4, frameon=False)
    return picture_of(figure, 130)


def _mean(found: Any) -> float:
    return math.nan if not found or found["mean"] is None else found["mean"]


def section(lab: Lab) -> Section:
    """Figure 11, words of captions point at things."""
    lab.facade("captioner")
    on_coco = "coco" in lab.data and coco.has_instances(lab.data["coco"])
    kinds = [kind for kind in ("coco", "flickr8k") if (on_coco if kind == "coco" else kind in lab.data)]
    tables, pictures = list[Table](), list[Picture]()
    for kind in kinds or ["flickr8k"]:
        bound = lab.on(kind)
        cell = measured_on(bound, kind)
        tables += tables_of(cell)
        pictures += pictures_of(bound, kind, cell)
    shown = clickable_captions(lab, "figure11", [str(SAMPLES / name) for name in CLICKED], ("gradcam",))
    return Section("Figure 11: words of captions", tables, pictures, widgets=shown)


def _truth(lab: Lab, kind: str) -> Truth:
    split = "val" if kind == "coco" else "dev"
    return truth_of(lab.facade("captioner"), kind, lab.need(kind), split, lab.count(*COUNT))


def measured_on(lab: Lab, kind: str) -> dict[str, Any]:
    """The cell of one kind of data: by whose words and which part of them, and by word, of people's where there are."""

    def work() -> dict[str, Any]:
        truth = _truth(lab, kind)
        records = {whose: these for whose, these in measure(lab.facade("captioner"), truth).items() if these}
        parts = {whose: grounding.parts(these) for whose, these in records.items()}
        kept = {
            whose: {part: by_photograph(these[part]) for part in ("all", grounding.VISUAL_HALF) if part in these}
            for whose, these in parts.items()
        }
        words = plain(by_word(next(iter(records.values())), 10))
        return {"parts": kept, "words": words, "protocol": truth.protocol, "images": len(truth.images)}

    about = {"limit": lab.count(*COUNT), "mark": lab.mark("captioner"), "scores": SCORES}
    return lab.cell(f"figure11-{kind}", work, **about)


def tables_of(cell: Mapping[str, Any]) -> list[Table]:
    """Where words point: of people's captions, of the half of them that owes the picture most, of the model's own."""
    on_masks = "masks" in cell["protocol"]
    note = (
        "The map of a word of a caption, read up to there, has to be largest on what the word names. n counts words,"
        " the errors are over photographs, drawn by chance. 'Another word': of the same caption; 'a wrong word':"
        " one that nobody said of the photograph, in its place."
    )
    elsewhere = f"Published, on the masks of COCO's 80 classes, Show and Tell: {PUBLISHED:.1%} of people's words."
    tables = []
    for whose, parts in cell["parts"].items():
        for part, found in parts.items():
            title = f"Figure 11, {WORDS[whose]}{'' if part == 'all' else ', the half that owes the picture most'}"
            same = on_masks and whose == "human" and part == "all"
            rows = compared(LABELS, found, "gradcam", "captioner", {"gradcam": "30.0 %"} if same else {})
            data = f"{cell['protocol']}, {cell['images']} photographs"
            told = "" if same or part != "all" or whose != "human" else elsewhere
            of = {"reference": LABELS["gradcam"], "elsewhere": told}
            tables.append(
                Table(title, data, "pointing accuracy", rows, not on_masks, 3, note if told or same else "", **of)
            )
    return tables


def pictures_of(lab: Lab, kind: str, cell: Mapping[str, Any]) -> list[Picture]:
    """Maps of words over the photographs, and a bar for each word."""
    mark, captioner = lab.mark("captioner"), lab.facade("captioner")
    limit = lab.count(*COUNT)
    caption = (
        f"Maps of words of people's captions, {cell['protocol']}: outlined what the word names, a cross where the map"
        " of its log-probability is largest"
    )
    drawn = partial(words_picture, captioner, lambda: _truth(lab, kind))
    shown = [lab.picture(f"figure11-{kind}-maps", caption, drawn, mark=mark, limit=limit)]
    whose, parts = next(iter(cell["parts"].items()))
    if cell["words"]:
        bars = partial(draw, cell["words"], parts["all"], cell["protocol"])
        caption = f"Where each of {WORDS[whose]} points, {cell['protocol']}; in brackets how often it occurs"
        shown.append(lab.picture(f"figure11-{kind}-words", caption, bars, mark=mark, limit=limit))
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    import captioning

    parser = figure_parser(__doc__, "saywhy-out/figure11.png")
    add = parser.add_argument
    add("--data", required=True, metavar="KIND:PATH", help="flickr8k:PATH or coco:PATH")
    add("--split", help="split of the data (default: Flickr8k's dev, COCO's val)")
    add("--limit", type=whole(), default=1000, help="images")
    add("--least", type=whole(), default=10, help="occurrences that a word needs for a bar of its own")
    add("--beam", type=whole(1, 64), help="beam width (default: the checkpoint's)")
    add("--batch", type=whole(), default=16, help="images at once")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    captioner = captioning.load(args.model, device=args.device, beam=args.beam)
    if args.data.startswith("coco:"):
        truth = truth_of(captioner, "coco", Path(args.data.removeprefix("coco:")), args.split or "val", args.limit)
    else:
        truth = truth_of(captioner, "flickr8k", flickr8k_folder(args.data), args.split or "dev", args.limit)
    _tell(measure(captioner, truth, args.batch, args.quiet), truth, args)


def _tell(records: dict[str, list[Any]], truth: Truth, args: argparse.Namespace) -> None:
    """Print the tables, draw the bars of words of the model's captions (of people's, where it named nothing), write."""
    figures: dict[str, Any] = {"protocol": truth.protocol, "images": len(truth.images), "published": PUBLISHED}
    for whose, found in records.items():
        table, words = by_type(found), by_word(found, args.least)
        title = (
            f"pointing accuracy of {WHOSE[whose]}, {truth.protocol}, {len(truth.images)} images"
            f" (published, COCO's masks: {PUBLISHED:.1%})"
        )
        columns = [name for name in LABELS if name in table["all"]]
        if not columns:
            continue
        print("\n".join(table_lines(table, columns, title, least=5)))
        print("\n".join(table_lines(words, columns, f"words with at least {args.least} occurrences")))
        figures[whose] = {"types": plain(table), "words": plain(words)}
    shown = figures["generated" if records["generated"] else "human"]
    picture = draw(shown["words"], shown["types"]["all"], truth.protocol)
    save_figure(picture, args.out, figures)


if __name__ == "__main__":
    run_program(main)
