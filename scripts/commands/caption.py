"""saywhy caption: what a photograph shows, in words, and why each word was said."""

import argparse
import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli

COLUMNS, WIDTH = 6, 150  # the words' maps in a row, and pixels of each


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
        default="logit",
        choices=("logit", "log_probability"),
        help="what is explained of each word: its logit, or its log-probability as in the paper (default: %(default)s)",
    )
    parser.add_argument("--end", action="store_true", help="explain why the caption ends where it does, as well")
    parser.add_argument("--beam", type=int, metavar="N", help="beam width (default: the checkpoint's)")
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="further captions to list (default: %(default)s)"
    )
    parser.add_argument("--no-explain", action="store_true", help="captions only; no files are written")
    cli.add_model_arguments(parser)
    cli.add_chat_arguments(parser, prompt=True)
    cli.add_method_arguments(parser)
    cli.add_scale_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Caption and explain each image; returns the exit status."""
    import captioning
    from common.images import image_files, open_image

    methods = cli.methods_of(args)
    _check(args)
    cli.device_of(args)
    folder = None if args.no_explain else cli.output_folder(args)
    captioner = captioning.load(
        args.model, device=args.device, layer=args.layer, beam=args.beam, **cli.chat_options(args)
    )
    given = [] if args.caption is None else [args.caption]
    _check_texts(captioner, [*given, *args.phrases, *args.contrast])

    def caption_one(file: Path) -> cli.Outcome:
        image = open_image(file)
        encoded = captioner.encode(image)
        written = captioner.caption(encoded, alternatives=args.alternatives)
        line = f"{file}: {written.text} (log p {written.total:.2f})"
        line += "".join(f"\n  or: {other.text} (log p {other.total:.2f})" for other in written.alternatives)
        line += _table_lines(written) if args.caption is None else ""
        said = {"task": "caption", "image": str(file), "model": captioner.name, **_said(written)}
        if folder is None:
            return cli.Outcome(said, line)
        explained = written if args.caption is None else captioner.score(encoded, args.caption)
        explanation = captioner.explain(
            encoded, explained, args.phrases, args.contrast, methods, end=args.end, score=args.score,
            occlusion_options=cli.occlusion_options(args),
        )  # fmt: skip
        if args.caption is not None:
            line += f"\n  given: {explained.text} (log p {explained.total:.2f}){_table_lines(explained)}"
        # `prediction` is the model's own caption, `caption` the explained one, to whose words belong `tokens`,
        # `log_probabilities` and the NPZ's `heatmaps[1:]`, in order.
        record = {
            **said, "caption": explained.text, **_of_words(explained), "unknown": list(explained.read.unknown),
            "score": explanation.provenance["score"], **cli.explained(explanation),
        }  # fmt: skip
        whose = "the model's own caption" if args.caption is None else "a given caption"
        picture = draw(image, record, explanation, whose, args.scale)
        page = cli.page_of(args, explanation, f"{file.name}: {explained.text}", _notes(record, explanation))
        return cli.Outcome(record, line, explanation, picture, page)

    return cli.run_each([(file,) for file in image_files(args.images)], caption_one, args, folder)


def _table_lines(caption: Any) -> str:
    return "".join(f"\n  {row}" for row in word_table(caption))


def word_table(caption: Any, width: int = 100) -> list[str]:
    """What comes from the picture, word by word: lines of at most so many letters; none where the model can't say."""
    rows = [
        ("", caption.words),
        ("log p", [f"{value:.2f}" for value in caption.log_probabilities]),
        ("from the picture", [f"{round(value, 2) + 0.0:+.2f}" for value in caption.visual]),
    ]
    columns = [[max(map(len, cells)), *cells] for cells in zip(*(cells for _, cells in rows), strict=False)]
    lines: list[list[str]] = []
    for wide, *cells in columns:
        if not lines or len(lines[-1][0]) + 2 + wide > width:
            lines.append([f"{name:16}" for name, _ in rows])
        lines[-1] = [f"{line}  {cell:>{wide}}" for line, cell in zip(lines[-1], cells, strict=True)]
    return [line for each in lines for line in each]


def draw(image: Any, record: dict[str, Any], explanation: Any, whose: str, scale: str = "visual") -> Any:
    """The panel of one image: the photograph, the caption's map, and a small map for each word in order.

    `scale` 'visual' draws a word's map as strong as the word comes from the picture, 'own' all alike.
    """
    from common.draw import METHOD_LABELS, Tile, draw_map, fitted, legends_of, panel, tile_row
    from common.panels import drawn_strengths

    shown, small, count = fitted(image), fitted(image, 2 * WIDTH), len(record["tokens"])
    maps = {method: values[:, 0] for method, values in explanation.maps.items()}
    strong = drawn_strengths(explanation, scale, slice(1, 1 + count))[1:]
    notes = _notes(record, explanation)
    top, tiles = [Tile(shown, "Photograph", whose)], list[Any]()
    for method, values in maps.items():
        label = METHOD_LABELS[method]
        top.append(Tile(draw_map(method, shown, values[0]), f"{label}: the whole caption", notes[0]))
        for name, note, map_, strength in zip(explanation.names[1:], notes[1:], values[1:], strong, strict=True):
            note = note if bool(map_.any()) else f"{note}; nothing raises it"
            note = f"{label}; {note}" if len(maps) > 1 else note
            tiles.append(Tile(draw_map(method, small, map_, strength), name, note))
        # Each method's words begin on a row of their own.
        tiles += [_blank(shown)] * (-len(tiles) % COLUMNS if len(maps) > 1 else 0)
    by_picture = scale == "visual" and explanation.visual is not None
    return panel(
        f"“{record['caption']}”", tiles, columns=COLUMNS, width=WIDTH, legends=legends_of(list(maps), by_picture),
        note=_about(record, explanation), above=lambda width: tile_row(top, 312 if len(top) > 2 else 474),
    )  # fmt: skip


def _blank(picture: Any) -> Any:
    from PIL import Image

    from common.draw import PAPER, Tile

    return Tile(Image.new("RGB", picture.size, PAPER), "")


def _about(record: dict[str, Any], explanation: Any) -> str:
    """What stands below the panel's heading: the model, and what its numbers are."""
    about = f"{record['model']}, layer {record['layer']}; log p: log-probability given image and words before"
    if explanation.visual is not None:
        about += "; picture: that less the log-probability without the image, so what the word owes to the picture"
    return about + ("" if _unit(record) == "log p" else f"; the maps are of the words' {_unit(record)}s")


def _unit(record: dict[str, Any]) -> str:
    return "log p" if record["score"] == "log_probability" else record["score"]


def _notes(record: dict[str, Any], explanation: Any) -> list[str]:
    """A note for each target: the caption, its words, and what else was asked for."""
    from common.panels import score_notes, visual_note

    words = range(len(record["tokens"]))
    notes = [f"log p {sum(record['log_probabilities']):.2f} (its words' sum)"]
    notes += [_word_note(record["tokens"][n], record["log_probabilities"][n], record["unknown"]) for n in words]
    if explanation.visual is not None:
        visual = explanation.visual[:, 0].tolist()
        notes = [f"{note}; {visual_note(value)}" for note, value in zip(notes, visual, strict=False)]
    return notes + score_notes(explanation, _unit(record))[len(notes) :]


def _word_note(word: str, log_probability: float, unknown: list[str]) -> str:
    share = math.exp(log_probability)
    chance = f"{share:.0%}" if share >= 0.01 else "<1%"
    return f"log p {log_probability:.2f} ({chance})" + ("; unknown word" if word in unknown else "")


def _check(args: argparse.Namespace) -> None:
    if args.no_explain and (args.caption is not None or args.phrases or args.contrast or args.end or args.html):
        others = "--caption, --phrase, --contrast, --end and --html"
        raise UserError(f"--no-explain writes captions only; leave out {others}")
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
        **({"visual": list(caption.visual)} if caption.visual else {}),
        "log_probability": caption.total,
    }
