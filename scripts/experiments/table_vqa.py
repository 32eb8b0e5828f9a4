"""Section 8.2 of the paper: rank correlations of VQA maps with occlusion maps and with human attention.

    python -m scripts.experiments.table_vqa --data cocoqa:PATH/coco                        # about 3 min on one CPU core
    python -m scripts.experiments.table_vqa --data vqa2:PATH/vqa --hat PATH/vqahat_val      # human attention as well

To expect: Grad-CAM above Guided Backprop and above the gradient-free map. Published (VGG-16, VQA v1):
Grad-CAM 0.60 ± 0.038, Guided Backprop 0.42 ± 0.038; with human attention 0.136 over 1374 pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts.experiments.figures import run_figure

ROWS = {
    "gradcam": "Grad-CAM",
    "guided": "Guided Backprop",
    "guided_gradcam": "Guided Grad-CAM",
    "activation": "gradient-free",
}


# Section 8.2, by measure and method: VGG-16 on VQA v1.
PUBLISHED = {
    "occlusion": {"gradcam": "0.60 ± 0.038", "guided": "0.42 ± 0.038"},
    "human attention": {"gradcam": "0.136 (1374 pairs)"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table; write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="KIND:PATH",
        help="question sets; see saywhy evaluate vqa",
    )
    parser.add_argument("--split", default="val", help="split of the sets (default: %(default)s)")
    parser.add_argument(
        "--questions", type=int, default=250, metavar="N", help="questions of each set (default: %(default)s)"
    )
    parser.add_argument("--hat", metavar="DIR", help="VQA-HAT: a folder of PNGs named by question id")
    parser.add_argument(
        "--model", metavar="NAME", help="a checkpoint, or hf:PATH_OR_NAME (default: the shipped one)"
    )
    parser.add_argument("--out", default="saywhy-out/table_vqa.json", metavar="FILE", help="JSON to write")
    args = parser.parse_args(arguments)
    if args.questions < 1:
        raise UserError(f"--questions is {args.questions}; give at least 1")
    tables = measure(args)
    _print(tables)
    print(args.out)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Set -> measure -> method -> mean, error, n."""
    import warnings

    import vqa
    from common.files import write_json
    from data.derived.question_sets import QuestionSet
    from scripts.commands.evaluate_vqa import _plain
    from vqa import grounding as truth

    warnings.simplefilter("ignore")
    answerer = vqa.load(args.model)
    tables: dict[str, Any] = {}
    for text in args.data:
        one = QuestionSet.parse(text)
        questions = one.read(args.split)
        tables[one.kind] = {
            "occlusion": truth.occlusion_correlation(answerer, truth.sample(questions, args.questions))
        }
        if args.hat:
            tables[one.kind]["human attention"] = truth.attention_correlation(
                answerer, attention_pairs(args.hat, questions)
            )
    plain = _plain(tables)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {"tables": plain, "published": PUBLISHED})
    return plain


def attention_pairs(folder: str | Path, questions: list[Any]) -> list[tuple[Any, Any]]:
    """Questions with the attention map (14, 14) of each, of those that have one in a VQA-HAT folder.

    Raises `UserError` when there is none.
    """
    from data.readers.vqahat import find_vqahat, read_attention

    files = find_vqahat(folder)
    pairs = [(q, read_attention(files[q.id], (14, 14))) for q in questions if q.id in files]
    if not pairs:
        raise UserError(
            f"none of the {len(files)} attention maps in {folder} belongs to one of the {len(questions)}"
            " questions"
        )
    return pairs


def _print(tables: dict[str, Any]) -> None:
    for name, measures in tables.items():
        for what, rows in measures.items():
            print(f"{name}: rank correlation with {what} maps")
            print(f"  {'':<18}{'ours':>6}   {'error':>5}  {'n':>5}  published")
            for key, row in rows.items():
                published = PUBLISHED[what].get(key, "-")
                mean, error = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("mean", "error"))
                ours = f"{mean:>6} ± {error:<5}  {row['n']:>5}"
                print(f"  {ROWS.get(key, key):<18}{ours}  {published}")


if __name__ == "__main__":
    run_figure(main)
