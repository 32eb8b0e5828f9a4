"""Figure 11 of the paper: do the words of generated captions point at what they name?

    python -m scripts.experiments.figure11 --data flickr8k:PATH        # 1000 dev images: about 5 min on two CPU cores
    python -m scripts.experiments.figure11 --data coco:PATH --set val2014 --limit 1000       # the paper's protocol

For each word of a generated caption that names something with boxes, the largest value of its Grad-CAM
map has to lie in one of them. On Flickr30k Entities a word is grounded by the phrases it heads in
people's captions of the image; on COCO (the published layout: PATH/annotations/instances_SET.json,
PATH/SET) by the 80 classes. The paper: 30.0 % on 1000 COCO images. Writes a bar chart and, beside it, a
JSON file with all figures.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts.commands import evaluate
from scripts.experiments import figures

PUBLISHED = 0.300


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = figures.figure_parser(__doc__, "saywhy-out/figure11.png")
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help="flickr8k:PATH or coco:PATH")
    parser.add_argument("--split", default="dev", help="split of Flickr8k")
    parser.add_argument("--set", default="val2014", help="set of COCO images")
    parser.add_argument("--limit", type=int, default=1000, help="images")
    parser.add_argument(
        "--least", type=int, default=10, help="occurrences that a word needs for a bar of its own"
    )
    parser.add_argument("--model", help="a checkpoint, or hf:PATH_OR_NAME; None is the shipped one")
    parser.add_argument("--beam", type=int, help="beam width; None is the checkpoint's")
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    records, protocol, count = measured(args)
    report(records, protocol, count, args)


def measured(args: argparse.Namespace) -> tuple[list[Any], str, int]:
    """(records of all grounded words, the protocol's name, number of images)."""
    import captioning
    from captioning import grounding

    captioner = captioning.load(args.model, device=args.device, beam=args.beam)
    coco = args.data.startswith("coco:")
    images, case_of = (_coco if coco else _entities)(args, captioner)
    records = []
    for numbers, seen in evaluate.batches(captioner, images, args):
        captions = captioner.caption(seen)
        cases = [case_of(row, n, captions[row]) for row, n in enumerate(numbers)]
        found = grounding.measure(captioner, seen, cases)
        for record in found:
            record.image = numbers[record.image]
        records += found
    return records, "COCO classes" if coco else "Flickr30k Entities", len(images)


def report(records: list[Any], protocol: str, count: int, args: argparse.Namespace) -> None:
    """Print the table, draw the bars, write the figures."""
    from captioning import grounding
    from common.explanation import versions
    from common.files import write_json

    if not records:
        raise UserError("no word of a caption named anything with boxes; give more images with --limit")
    table = grounding.table(records, False, lambda r: r.pointing)
    words = by_word(records, args.least)
    title = (
        f"pointing accuracy of generated words, {protocol}, {count} images (published, COCO: {PUBLISHED:.1%})"
    )
    columns = [name for name in grounding.POINTING if name in table["all"]]
    print("\n".join(evaluate.table_lines(table, columns, title, least=5)))
    print("\n".join(evaluate.table_lines(words, columns, f"words with at least {args.least} occurrences")))
    draw(words, table["all"], protocol, args.out)
    path = Path(args.out).with_suffix(".json")
    figures_ = {"protocol": protocol, "images": count, "published": PUBLISHED, "versions": versions()}
    write_json(path, {**figures_, "types": evaluate._plain(table), "words": evaluate._plain(words)})
    print(args.out, path, sep="\n")


def by_word(records: Sequence[Any], least: int) -> dict[str, Any]:
    """`grounding.table`'s rows for each word that occurs at least `least` times, the most frequent first."""
    from captioning import grounding

    groups: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        groups[record.word].append(record)
    kept = sorted((w for w in groups if len(groups[w]) >= least), key=lambda w: (-len(groups[w]), w))
    return {word: grounding.table(groups[word], False, lambda r: r.pointing)["all"] for word in kept}


def draw(words: dict[str, Any], together: dict[str, Any], protocol: str, path: str) -> None:
    """A bar for each word, the most accurate first, with the centre and the activation energy as marks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from common.files import atomic_path

    shown = dict(sorted(list(words.items())[:40], key=lambda item: -item[1]["gradcam"].mean))
    rows = {"all words": together, **shown}
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.27 * len(rows)), layout="constrained")
    places = range(len(rows))[::-1]
    means, errors = ([getattr(row["gradcam"], part) for row in rows.values()] for part in ("mean", "error"))
    errors = [0 if error != error else error for error in errors]
    colours = ["#30508f", *["#7b9fd4"] * len(shown)]
    axes.barh(list(places), means, xerr=errors, color=colours, ecolor="#555555", label="Grad-CAM of the word")
    for name, mark in (("centre", "|"), ("energy", "x"), ("other word", "o")):
        values = [row[name].mean if name in row else float("nan") for row in rows.values()]
        hollow: dict[str, Any] = {"color": "#c04020"}
        if mark == "o":
            hollow = {"facecolors": "none", "edgecolors": "#c04020"}
        labels = {"centre": "image centre", "energy": "activation energy", "other word": "another word's map"}
        axes.scatter(values, list(places), marker=mark, s=36, zorder=3, label=labels[name], **hollow)
    axes.set_yticks(list(places), [f"{name}  ({row['gradcam'].n})" for name, row in rows.items()])
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    axes.set_xlabel(f"pointing accuracy on {protocol} (words of generated captions; lines: standard error)")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.9 / (1.4 + 0.27 * len(rows)) - 0.03),
        ncols=4,
        frameon=False,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def _entities(args: argparse.Namespace, captioner: Any) -> tuple[list[Any], Any]:
    from captioning import grounding

    images = evaluate.flickr8k_images(args.data, args.split, args.limit)
    folder = evaluate.entities_folder(args.data)
    if folder is None:
        raise UserError(
            f"'{args.data}' has no folder flickr30k_entities with boxes; put it beside the photographs"
        )
    grounded = evaluate.grounded_captions(folder, images)
    nouns = grounding.head_nouns((c for each in grounded for c in each), captioner.network)
    return images, lambda row, n, caption: grounding.generated_case(row, caption, grounded[n], nouns)


def _coco(args: argparse.Namespace, captioner: Any) -> tuple[list[Any], Any]:
    from captioning import grounding
    from data.readers import coco
    from data.words.coco_nouns import CLASS_OF

    folder = Path(args.data.removeprefix("coco:"))
    instances = coco.read_instances(folder / "annotations" / f"instances_{args.set}.json")
    names = [name for name in sorted(instances) if instances[name]][: args.limit]
    images = [_File(folder / args.set / name) for name in names]
    absent = next((image.path for image in images if not image.path.is_file()), None)
    if absent is not None:
        raise UserError(
            f"'{absent}' is listed in instances_{args.set}.json but is not there; give a whole copy of COCO"
        )
    return images, lambda row, n, caption: grounding.class_case(row, caption, instances[names[n]], CLASS_OF)


class _File:
    def __init__(self, path: Path) -> None:
        self.path = path


if __name__ == "__main__":
    figures.run_figure(main)
