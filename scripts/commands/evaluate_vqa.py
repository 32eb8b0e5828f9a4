"""saywhy evaluate vqa: accuracy beside baselines, and how true the maps are.

saywhy evaluate vqa --data vqa2:PATH --split val
saywhy evaluate vqa --data derived:FLICKR8K --split val --maps 250 --baselines
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import UserError
from scripts import console as cli


def add_vqa_parser(models: Any) -> None:
    """Add the parser of `saywhy evaluate vqa`."""
    parser = models.add_parser(
        "vqa",
        help="accuracy by question type, and the truth of the maps",
        description="Accuracy by question type, and with --maps how true the maps of the answers are.",
    )
    parser.add_argument(
        "--data", required=True, action="append", metavar="KIND:PATH",
        help="vqa2:PATH, vqa:PATH, cocoqa:PATH, derived:FLICKR8K, file:QUESTIONS, easyvqa; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="val", help="train, val, or a split by the set's own name (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N questions of each set, drawn with seed 0"
    )
    cli.add_model_arguments(parser)
    parser.add_argument(
        "--baselines", action="store_true", help="commonest answers of the training split beside it"
    )
    parser.add_argument(
        "--maps", type=int, default=0, metavar="N",
        help="measure the maps of N questions of each set: occlusion, boxes, swapped questions (default: none)",
    )  # fmt: skip
    cli.add_output_arguments(parser)
    parser.set_defaults(run=run_vqa)


def run_vqa(args: argparse.Namespace) -> int:
    """Answer every question of the split, score the answers, measure the maps; returns the exit status."""
    import vqa
    from common.explanation import versions
    from common.files import write_json
    from data.derived.question_sets import QuestionSet

    cli.device_of(args)
    if args.maps < 0 or (args.limit is not None and args.limit < 1):
        raise UserError("--maps is at least 0 and --limit at least 1")
    sets = [QuestionSet.parse(text) for text in args.data]
    answerer = vqa.load(args.model, device=args.device, layer=args.layer)
    folder = cli.output_folder(args)
    result: dict[str, Any] = {"task": "evaluate vqa", "model": answerer.name, "weights": answerer.network.source,
                              "split": args.split, "sets": {}, "versions": versions()}  # fmt: skip
    for one in sets:
        questions = one.read(args.split)
        result["sets"][one.kind] = evaluate_set(answerer, one, questions, args)
    path = folder / f"vqa-{args.split}.json"
    write_json(path, result)
    _print(result, path, args)
    return cli.OK


def evaluate_set(
    answerer: Any, one: Any, questions: Sequence[Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Accuracy, baselines and map measures of one set's questions."""
    from vqa.grounding import sample
    from vqa.metrics import by_kind, commonest_answer, commonest_per_kind

    chosen = sample(questions, args.limit or len(questions))
    answers = predictions(answerer, chosen, args)
    found: dict[str, Any] = {"accuracy": by_kind(answers, chosen)}
    if args.baselines:
        train = one.read("train")
        for name, make in (("commonest", commonest_answer), ("commonest_of_type", commonest_per_kind)):
            say = make(train)
            found[name] = by_kind([say(question) for question in chosen], chosen)
        known = getattr(answerer.network.module, "config", None)
        blind = known.get("baselines", {}).get("without_image", {}) if isinstance(known, dict) else {}
        if chosen and chosen[0].source in blind:
            found["without_image"] = blind[chosen[0].source]
    if args.maps:
        found["maps"] = map_figures(answerer, questions, args)
    return found


def map_figures(answerer: Any, questions: Sequence[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Rank correlation with occlusion, pointing on human boxes, swapped questions and answers."""
    from vqa import grounding as truth

    some = truth.sample(questions, args.maps)
    boxed = truth.sample([q for q in questions if q.boxes and q.kind == "object"], args.maps)
    figures: dict[str, Any] = {
        "occlusion": truth.occlusion_correlation(answerer, some, progress=_bar(args, len(some), "occlusion"))
    }
    if boxed:
        figures["pointing"] = truth.pointing_accuracy(answerer, boxed, _bar(args, len(boxed), "boxes"))
    images = {q.image_id for q in some}
    several = [q for q in questions if q.image_id in images]
    figures["swap"] = truth.question_swap(answerer, several, _bar(args, len(images), "swaps"))
    return _plain(figures)


def predictions(answerer: Any, questions: Sequence[Any], args: argparse.Namespace) -> list[str]:
    """The answer to each question, image by image."""
    import warnings

    from vqa.grounding import looked_at

    step = _bar(args, len(questions), "questions")
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown words: there are many in a whole set
        for question, seen in looked_at(answerer, questions):
            found.append(answerer.answer(seen, question.text, top=1).text)
            step()
    return found


def _bar(args: argparse.Namespace, total: int, unit: str) -> Callable[[], None]:
    import sys

    from tqdm import tqdm

    bar = tqdm(total=total, disable=args.quiet or not sys.stderr.isatty(), unit=unit, file=sys.stderr)
    return lambda: bar.update() and None


def _plain(figures: Any) -> Any:
    """Summaries as JSON can hold them."""
    if isinstance(figures, dict):
        return {name: _plain(value) for name, value in figures.items()}
    number = [round(v, 5) if v == v else None for v in (figures.mean, figures.error)]
    return {"mean": number[0], "error": number[1], "n": figures.n}


def _print(result: dict[str, Any], path: Any, args: argparse.Namespace) -> None:
    import json

    if args.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, found in result["sets"].items():
        for column in ("accuracy", "without_image", "commonest_of_type", "commonest"):
            if column in found:
                rows = [
                    f"{kind} {100 * row['accuracy']:.1f} ± {100 * row['se']:.1f} (n = {row['n']})"
                    for kind, row in found[column].items()
                ]
                print(f"{name}, {column}: {', '.join(rows)}")
        for measure, table in found.get("maps", {}).items():
            tables = table.items() if measure == "pointing" else [("", table)]
            for which, row in tables:
                cells = [
                    f"{k} {v['mean']:.3f} ± {v['error']:.3f}"
                    for k, v in row.items()
                    if v["mean"] is not None and v["error"] is not None
                ]
                count = next(iter(row.values()))["n"]
                print(f"{name}, {measure}{' ' + which if which else ''} (n = {count}): {', '.join(cells)}")
    if not args.quiet:
        print(f"  {path}")
