"""saywhy show: a row that `saywhy batch` wrote, as the panel that the command for one photograph draws.

saywhy show maps/ photo.jpg --out panel.png
"""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

from common.errors import UserError
from scripts import console as cli


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    about = "Draw a row that `saywhy batch` wrote as the panel that the command for one photograph draws."
    parser = subparsers.add_parser("show", help="draw what a batch found of a photograph", description=about)
    parser.add_argument("folder", metavar="DIR", help="the folder that the batch wrote to")
    parser.add_argument("key", metavar="PHOTO", help="the photograph's key, or the end of it, such as its name")
    parser.add_argument("--question", metavar="TEXT", help="which question, where several were asked about it")
    parser.add_argument("--image", metavar="FILE", help="the photograph, where it does not lie where it did")
    parser.add_argument("--out", default="panel.png", metavar="FILE", help="the picture (default: %(default)s)")
    cli.add_scale_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw the panel."""
    from common.draw import save_picture
    from scripts.batch.files import read_bytes
    from scripts.batch.find import found_row, photograph

    row, about = found_row(args.folder, args.key, args.question)
    if row["error"] is not None:
        raise UserError(f"of '{row['key']}' there is only an error: {row['error']}")
    data = read_bytes(args.image) if args.image else photograph(args.folder, about["shard"], row["number"])
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise UserError(f"'{row['key']}' is not the photograph that was explained: its bytes have changed")
    save_picture(panel_of(row, about, data, args.scale), args.out)
    print(args.out)
    return cli.OK


def panel_of(row: dict[str, Any], about: dict[str, Any], data: bytes, scale: str = "visual") -> Any:
    """The panel of a row, given its photograph's bytes."""
    from common.explanation import Explanation
    from common.images import Preprocessing, decoded_image
    from scripts.batch.find import provenance

    image, model = decoded_image(data, row["key"]), about["model"]
    explanation = Explanation.from_row(row, provenance(row, about))
    listed = [(choice["text"], choice["probability"]) for choice in row["choices"] or ()]
    record = {"task": about["task"], "model": model["name"], "prediction": row["text"], **cli.explained(explanation)}
    if about["task"] == "classify":
        from scripts.commands.classify import draw as draw_classes

        return draw_classes(image, model["name"], Preprocessing.from_dict(model["preprocessing"]), listed, explanation)
    if about["task"] == "vqa":
        from scripts.commands.vqa import draw as draw_answers

        answers = [{"answer": text, "probability": probability} for text, probability in listed]
        writes = model["preprocessing"] is None  # chat models, which read photographs as they are
        record = {**record, "question": row["question"], "predictions": answers, "written": writes}
        return draw_answers(image, record, explanation)
    from scripts.commands.caption import draw as draw_caption

    words = {"tokens": row["words"], "log_probabilities": row["log_probabilities"], "unknown": row["unknown"]}
    record = {**record, **words, "caption": row["text"], "score": about["asked"]["score"]}
    return draw_caption(image, record, explanation, "the model's own caption", scale)
