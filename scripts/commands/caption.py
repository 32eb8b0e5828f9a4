"""saywhy caption: what a photograph shows, in words, and why each word was said."""

import argparse
import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli

COLUMNS = 6


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "caption",
        help="caption a photograph and explain every word",
        description="Caption each photograph and show why: for the caption, each word, and phrases you name.",
    )
    cli.add_image_arguments(parser)
    parser.add_argument("--caption", metavar="TEXT", help="explain this caption instead of the model's own")
    parser.add_argument(
        "--phrase", action="append", default=[], metavar="TEXT", dest="phrases",
        help="explain this phrase as well; repeatable",
    )  # fmt: skip
    cli.add_contrast_argument(parser, "the phrase (without phrases: the caption)")
    parser.add_argument(
        "--score",
        default="log_probability",
        choices=("log_probability", "logit"),
        help="what is explained of each word: its log-probability, as in the paper, or its logit",
    )
    parser.add_argument("--end", action="store_true", help="explain why the caption ends where it does, as well")
    parser.add_argument("--beam", type=int, metavar="N", help="beam width (default: the checkpoint's)")
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="further captions to list (default: %(default)s)"
    )
    parser.add_argument("--no-explain", action="store_true", help="captions only; no files are written")
    cli.add_model_arguments(parser)
    cli.add_method_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Caption and explain each image; returns the exit status."""
    import captioning
    from common.images import image_files, open_image

    methods = cli.methods_of(args)
    _check(args)
    cli.device_of(args)
    folder = None if args.no_explain else cli.output_folder(args)
    captioner = captioning.load(args.model, device=args.device, layer=args.layer, beam=args.beam)
    given = [] if args.caption is None else [args.caption]
    _check_texts(captioner, [*given, *args.phrases, *args.contrast])

    def caption_one(file: Path) -> cli.Outcome:
        image = open_image(file)
        encoded = captioner.encode(image)
        written = captioner.caption(encoded, alternatives=args.alternatives)
        line = f"{file}: {written.text} (log p {written.total:.2f})"
        line += "".join(f"\n  or: {other.text} (log p {other.total:.2f})" for other in written.alternatives)
        said = {"task": "caption", "image": str(file), "model": captioner.name, **_said(written)}
        if folder is None:
            return cli.Outcome(said, line)
        explained = written if args.caption is None else captioner.score(encoded, args.caption)
        explanation = captioner.explain(
            encoded, explained, args.phrases, args.contrast, methods, end=args.end, score=args.score,
            occlusion_options=cli.occlusion_options(args),
        )  # fmt: skip
        # `prediction` is the model's own caption, `caption` the explained one, to whose words belong `tokens`,
        # `log_probabilities` and the NPZ's `heatmaps[1:]`, in order.
        record = {
            **said, "caption": explained.text, **_of_words(explained), "unknown": list(explained.read.unknown),
            "score": explanation.provenance["score"], **cli.explained(explanation),
        }  # fmt: skip
        whose = "the model's own caption" if args.caption is None else "a given caption"
        return cli.Outcome(record, line, explanation, draw(image, record, explanation, whose))

    return cli.run_each([(file,) for file in image_files(args.images)], caption_one, args, folder)


def draw(image: Any, record: dict[str, Any], explanation: Any, whose: str) -> Any:
    """The panel of one image: the photograph, the caption's map, and a small map for each word in order."""
    from PIL import Image

    from common.draw import METHOD_LABELS, PAPER, Tile, draw_map, fitted, legends_of, panel, score_notes, tile_row

    shown = fitted(image)
    maps = {method: values[:, 0] for method, values in explanation.maps.items()}
    count, unit = len(record["tokens"]), "log p" if record["score"] == "log_probability" else record["score"]
    notes = [
        _word_note(word, value, record["unknown"])
        for word, value in zip(record["tokens"], record["log_probabilities"], strict=True)
    ]
    notes += score_notes(explanation, unit)[1 + count :]
    several = len(maps) > 1
    whole = f"log p {sum(record['log_probabilities']):.2f} (its words' sum)"
    top, tiles = [Tile(shown, "Photograph", whose)], []
    for method, values in maps.items():
        label = METHOD_LABELS[method]
        top.append(Tile(draw_map(method, shown, values[0]), f"{label}: the whole caption", whole))
        for name, note, map_ in zip(explanation.names[1:], notes, values[1:], strict=True):
            note = note if bool(map_.any()) else f"{note}; nothing raises it"
            note = f"{label}; {note}" if several else note
            tiles.append(Tile(draw_map(method, shown, map_), name, note))
        # Each method's words begin on a row of their own.
        tiles += [Tile(Image.new("RGB", shown.size, PAPER), "")] * (-len(tiles) % COLUMNS if several else 0)
    about = f"{record['model']}, layer {record['layer']}; log p: log-probability given image and words before"
    about += "" if unit == "log p" else f"; the maps are of the words' {unit}s"
    return panel(
        f"“{record['caption']}”", tiles, columns=COLUMNS, width=150, legends=legends_of(list(maps)), note=about,
        above=lambda width: tile_row(top, 312 if len(top) > 2 else 474),
    )  # fmt: skip


def _word_note(word: str, log_probability: float, unknown: list[str]) -> str:
    share = math.exp(log_probability)
    chance = f"{share:.0%}" if share >= 0.01 else "<1%"
    return f"log p {log_probability:.2f} ({chance})" + ("; unknown word" if word in unknown else "")


def _check(args: argparse.Namespace) -> None:
    if args.no_explain and (args.caption is not None or args.phrases or args.contrast or args.end):
        raise UserError("--no-explain writes captions only; leave out --caption, --phrase, --contrast and --end")
    if args.contrast and args.phrases and len(args.contrast) not in (1, len(args.phrases)):
        raise UserError(f"{len(args.contrast)} --contrast for {len(args.phrases)} --phrase; give one for all or each")
    if args.beam is not None and args.beam < 1:
        raise UserError(f"--beam is {args.beam}; give a width of at least 1")
    if args.alternatives < 0:
        raise UserError(f"--alternatives is {args.alternatives}; give 0 or more")


def _check_texts(captioner: Any, texts: list[str]) -> None:
    """Read every text once before any image: errors end the run, unknown words are named."""
    import warnings

    from common.text import unknown_words

    for text in texts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = captioner.read(text)
        if read.unknown:
            cli.report(f"warning: {unknown_words(read)}")


def _said(caption: Any) -> dict[str, Any]:
    """The model's own caption, with the next best ones."""
    others = [{"caption": other.text, **_of_words(other)} for other in caption.alternatives]
    return {"prediction": caption.text, **_of_words(caption), "alternatives": others}


def _of_words(caption: Any) -> dict[str, Any]:
    return {
        "tokens": list(caption.words),
        "log_probabilities": list(caption.log_probabilities),
        "log_probability": caption.total,
    }
