"""saywhy evaluate: how good a model is, and how well its explanations lie on what they name.

saywhy evaluate captioner --data flickr8k:PATH --split dev
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli
from scripts.commands.evaluate_vqa import add_vqa_parser

PUBLISHED_RATIOS = {"uniform": 1.0, "Guided Backprop": 2.32, "Grad-CAM": 3.27, "Guided Grad-CAM": 6.38}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand with one parser for each model that can be evaluated."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a captioner or a VQA model",
        description="Measure a model and its explanations.",
    )
    models = parser.add_subparsers(dest="evaluate_model", metavar="MODEL", required=True)
    for add in MODELS.values():
        add(models)


def add_run_arguments(parser: argparse.ArgumentParser, data: str) -> None:
    """Arguments that every evaluation has: data, split, a limit for trials, where the figures go."""
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help=data)
    parser.add_argument("--split", default="dev", help="split of the data (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images, for a trial")
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="images at once (default: %(default)s)"
    )
    cli.add_output_arguments(parser)


def _captioner(models: Any) -> None:
    parser = models.add_parser(
        "captioner",
        help="caption metrics and grounding",
        description="Caption metrics, and where the words' maps point: on boxes that people drew.",
    )
    add_run_arguments(
        parser, "flickr8k:PATH, the folder with Flickr8k_text, the photographs and flickr30k_entities"
    )
    cli.add_model_arguments(parser)
    parser.add_argument("--beam", type=int, metavar="N", help="beam width (default: the checkpoint's)")
    parser.add_argument(
        "--metrics", default="BLEU,ROUGE-L,CIDEr", metavar="A,B",
        help="comma-separated: BLEU, ROUGE-L, CIDEr, and with Java METEOR, SPICE (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--score", default="log_probability", choices=("log_probability", "logit"),
        help="what is explained of each word: its log-probability, as in the paper, or its logit",
    )  # fmt: skip
    parser.add_argument(
        "--human-captions", type=int, default=1, metavar="N",
        help="captions by people, of each image, whose words are located (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-grounding", action="store_true", help="caption metrics only")
    parser.set_defaults(run=run_captioner)


def run_captioner(args: argparse.Namespace) -> int:
    """Caption every image of the split, score the captions, locate the words; returns the exit status."""
    import captioning
    from captioning import metrics
    from common.explanation import versions
    from common.files import write_json

    cli.device_of(args)
    if args.batch < 1 or args.human_captions < 1 or (args.limit is not None and args.limit < 1):
        raise UserError("--batch, --human-captions and --limit are at least 1")
    names = metric_names(args.metrics)
    captioner = captioning.load(args.model, device=args.device, layer=args.layer, beam=args.beam)
    images = flickr8k_images(args.data, args.split, args.limit)
    entities = None if args.no_grounding else entities_folder(args.data)
    folder = cli.output_folder(args)
    said, records = _measured(captioner, images, entities, args)
    figures = metrics.evaluate(said, [image.tokens for image in images], names)
    result: dict[str, Any] = {
        "task": "evaluate captioner", "model": captioner.name, "weights": captioner.network.source,
        "layer": captioner.layer or captioner.network.layer, "score": args.score,
        "beam": captioner.beam, "split": args.split,
        "images": len(images), "captions": figures, "human_captions": args.human_captions,
        "grounding": {kind: grounding_figures(found) for kind, found in records.items() if found},
        "versions": versions(),
    }  # fmt: skip
    path = folder / f"captioner-{args.split}.json"
    write_json(path, result)
    _print(result, records, path, args)
    return cli.OK


def _measured(
    captioner: Any, images: Sequence[Any], entities: Path | None, args: argparse.Namespace
) -> tuple[list[list[str]], dict[str, list[Any]]]:
    """The words of each image's caption, and the records of words located in people's captions and in these."""
    from captioning import grounding

    said: list[list[str]] = []
    records: dict[str, list[Any]] = {"human": [], "generated": []}
    grounded = grounded_captions(entities, images)
    network = captioner.network
    nouns = grounding.head_nouns((c for each in grounded for c in each), network)
    for numbers, seen in batches(captioner, images, args):
        captions = captioner.caption(seen)
        said += [list(caption.words) for caption in captions]
        if entities is None:
            continue
        cases: dict[str, list[Any]] = {"human": [], "generated": []}
        for row, n in enumerate(numbers):
            cases["human"] += grounding.human_cases(row, grounded[n], network, nouns, args.human_captions)
            cases["generated"].append(grounding.generated_case(row, captions[row], grounded[n], nouns))
        for kind, each in cases.items():
            found = grounding.measure(captioner, seen, each, args.score)
            for record in found:
                record.image = numbers[record.image]
            records[kind] += found
    return said, records


def metric_names(text: str) -> list[str]:
    """Names of caption metrics from what the user wrote; `UserError` for one that is none."""
    from captioning.metrics import METRICS

    by_name = {name.casefold(): name for name in METRICS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name.casefold() not in by_name]
    if unknown or not names:
        raise UserError(
            f"no caption metric '{unknown[0] if unknown else text}'; choose from {', '.join(METRICS)}"
        )
    return [by_name[name.casefold()] for name in names]


def flickr8k_images(data: str, split: str, limit: int | None = None) -> list[Any]:
    """The images of `flickr8k:PATH`."""
    from data.readers import flickr8k

    return flickr8k.read(flickr8k_folder(data), split)[:limit]


def flickr8k_folder(data: str) -> Path:
    """PATH of `flickr8k:PATH`; `UserError` for another kind of data."""
    kind, colon, path = data.partition(":")
    if not colon or kind != "flickr8k":
        raise UserError(f"data '{data}' is of no known kind; give flickr8k:PATH")
    return Path(path)


def entities_folder(data: str) -> Path | None:
    """The folder of Flickr30k Entities beside the photographs; says so where there is none."""
    folder = flickr8k_folder(data) / "flickr30k_entities"
    if not (folder / "Sentences").is_dir():
        cli.report(f"no boxes in '{folder}': captions are scored, words are not located")
        return None
    return folder


def grounded_captions(entities: Path | None, images: Sequence[Any]) -> list[list[Any]]:
    """The captions of each image with their phrases and boxes; empty lists without Entities."""
    from data.readers import entities as reader

    return [reader.read(entities, image.name) if entities else [] for image in images]


def batches(
    captioner: Any, images: Sequence[Any], args: argparse.Namespace
) -> Iterator[tuple[list[int], Any]]:
    """(numbers of the images, the images as the captioner sees them), with a progress bar."""
    import sys

    from tqdm import tqdm

    quiet = args.quiet or not sys.stderr.isatty()
    with tqdm(total=len(images), disable=quiet, unit="image", file=sys.stderr) as bar:
        for start in range(0, len(images), args.batch):
            numbers = list(range(start, min(start + args.batch, len(images))))
            yield numbers, captioner.see([images[n].path for n in numbers])
            bar.update(len(numbers))


def grounding_figures(records: Sequence[Any]) -> dict[str, Any]:
    """All tables of some records, as JSON can hold them."""
    from captioning import grounding

    measures: dict[str, Callable[[Any], dict[str, float]]] = {
        "pointing": lambda r: r.pointing,
        "inside_outside": lambda r: r.ratio,
        "energy_inside": lambda r: r.energy,
    }
    kinds = {"words": False, "phrases": True}
    return {
        kind: {name: _plain(grounding.table(records, is_phrase, of)) for name, of in measures.items()}
        for kind, is_phrase in kinds.items()
        if any(record.is_phrase == is_phrase for record in records)
    }


def table_lines(table: dict[str, Any], columns: Sequence[str], title: str, least: int = 1) -> list[str]:
    """A table of `grounding.table` as lines of text: a row for each type, mean and standard error in each
    cell.
    """
    cells = [["", "n", *columns]]
    for kind, row in table.items():
        first = row.get(columns[0])
        if first is None or first.n < least:
            continue
        values = [row[name] if name in row and row[name].n else None for name in columns]
        cells.append(
            [kind, str(first.n), *("-" if v is None else f"{v.mean:.3f} ± {v.error:.3f}" for v in values)]
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        title,
        *("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells),
    ]


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return round(value, 5) if value == value else None

    return {
        kind: {
            name: {
                "mean": number(s.mean),
                "error": number(s.error),
                "median": number(s.median),
                "n": s.n,
                "left_out": s.left_out,
            }
            for name, s in row.items()
        }
        for kind, row in table.items()
    }


def _print(
    result: dict[str, Any], records: dict[str, list[Any]], path: Path, args: argparse.Namespace
) -> None:
    import json

    from captioning import grounding

    if args.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    figures = "  ".join(f"{name} {value:.4f}" for name, value in result["captions"].items())
    print(f"{result['images']} images, beam {result['beam']}: {figures}")
    for kind, whose in (
        ("human", "words of people's captions"),
        ("generated", "words of the model's own captions"),
    ):
        if not records[kind]:
            continue
        pointing = grounding.table(records[kind], False, lambda r: r.pointing)
        lines = table_lines(
            pointing, grounding.POINTING, f"pointing accuracy, {whose} (mean ± standard error)"
        )
        for other in ("centre", "energy", "other word", "wrong word"):
            d = grounding.paired(records[kind], "gradcam", other)
            lines.append(f"  Grad-CAM less {other}: {d.mean:+.3f} ± {d.error:.3f} (n = {d.n})")
        print("\n".join(lines))
    if records["human"]:
        ratios = grounding.table(records["human"], True, lambda r: r.ratio)
        published = ", ".join(f"{name} {value}" for name, value in PUBLISHED_RATIOS.items())
        title = (
            f"mean activation inside over outside the boxes of phrases (published, other data: {published})"
        )
        print("\n".join(table_lines(ratios, ("gradcam", "centre", "energy"), title)))
    if not args.quiet:
        print(f"  {path}")


MODELS: dict[str, Callable[[Any], None]] = {"captioner": _captioner, "vqa": add_vqa_parser}
