"""saywhy evaluate: how good a model is, and how well its explanations lie on what they name.

saywhy evaluate captioner --data flickr8k:PATH --split dev
saywhy evaluate captioner --data coco:PATH --split val
saywhy evaluate vqa --data vqa2:PATH --split val
saywhy evaluate vqa --data derived:FLICKR8K --split val --maps 250 --baselines
"""

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import EmptyReply, UserError
from scripts import console as cli

_SPLITS = "Flickr8k's dev, COCO's val"
_MEASURED = "maps that are measured; the first is set against the baselines"
_OF_TOKENS = "hirescam,gradcam,layercam,token_occlusion"


def add_parser(subparsers: Any) -> None:
    """Add the subcommand with one parser for each model that can be evaluated."""
    about = "Measure a model and its explanations."
    parser = subparsers.add_parser("evaluate", help="measure a captioner or a VQA model", description=about)
    models = parser.add_subparsers(dest="evaluate_model", metavar="MODEL", required=True)
    _add_captioner(models)
    _add_vqa(models)


def _add_captioner(models: Any) -> None:
    about = "Caption metrics, and where the words' maps point: on boxes that people drew."
    parser = models.add_parser("captioner", help="caption metrics and grounding", description=about)
    data = (
        "flickr8k:PATH, the folder with Flickr8k_text, the photographs and flickr30k_entities; or coco:PATH, a copy of"
        " COCO: how truly captions name its 80 classes, and caption metrics"
    )
    metrics = "comma-separated: BLEU, ROUGE-L, CIDEr, and with Java METEOR, SPICE (default: %(default)s)"
    score = "what is explained of each word: its logit, or its log-probability as in the paper (default: %(default)s)"
    human = "captions by people, of each image, whose words are located (default: %(default)s)"
    methods = f"{_MEASURED} (default: gradcam; of chat models {_OF_TOKENS})"
    add, scores = parser.add_argument, ("logit", "log_probability")
    add("--data", required=True, metavar="KIND:PATH", help=data)
    add("--beam", type=cli.whole(1, 64), metavar="N", help="beam width (default: the checkpoint's)")
    add("--batch", type=cli.whole(), default=16, metavar="N", help="images at once (default: %(default)s)")
    add("--metrics", default="BLEU,ROUGE-L,CIDEr", metavar="A,B", help=metrics)
    add("--score", default="logit", choices=scores, help=score)
    add("--human-captions", type=cli.whole(), default=1, metavar="N", help=human)
    add("--methods", metavar="A,B", help=methods)
    add("--no-grounding", action="store_true", help="caption metrics only")
    _add_run_arguments(parser, None, "only the first N images, for a trial")
    parser.set_defaults(run=evaluate_captioner)


def _add_vqa(models: Any) -> None:
    about = "Accuracy by question type, and with --maps how true the maps of the answers are."
    parser = models.add_parser("vqa", help="accuracy by question type, and the truth of the maps", description=about)
    data = "vqa2, vqa, okvqa, cocoqa or gqa:PATH, derived:FLICKR8K, boxes:COCO, file:QUESTIONS, easyvqa; repeatable"
    maps = (
        "measure the maps of N questions of each set: occlusion, insertion and deletion, boxes, swapped questions"
        " (default: none)"
    )
    methods = f"{_MEASURED} on boxes and by insertion and deletion (default: gradcam; of chat models {_OF_TOKENS})"
    add = parser.add_argument
    add("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    add("--baselines", action="store_true", help="commonest answers of the training split beside it")
    add("--maps", type=cli.whole(0), default=0, metavar="N", help=maps)
    add("--methods", metavar="A,B", help=methods)
    _add_run_arguments(parser, "val", "only N questions of each set, drawn with seed 0")
    parser.set_defaults(run=evaluate_vqa)


def _add_run_arguments(parser: argparse.ArgumentParser, split: str | None, limit: str) -> None:
    """Arguments that both have: model, split, a limit for trials, where the figures go."""
    usual = f"split of the data, by its own name (default: {split or _SPLITS})"
    parser.add_argument("--split", default=split, metavar="NAME", help=usual)
    parser.add_argument("--limit", type=cli.whole(), metavar="N", help=limit)
    cli.add_model_arguments(parser)
    cli.add_output_arguments(parser)


def evaluate_captioner(args: argparse.Namespace) -> int:
    """Caption every image of the split, score the captions, locate the words; returns the exit status."""
    import captioning

    cli.device_of(args)
    if args.batch < 1 or args.human_captions < 1 or (args.limit is not None and args.limit < 1):
        raise UserError("--batch, --human-captions and --limit are at least 1")
    args.metrics = metric_names(args.metrics)
    on_coco = args.data.startswith("coco:")
    args.split = args.split or ("val" if on_coco else "dev")
    captioner = captioning.load(args.model, device=args.device, layer=args.layer, beam=args.beam)
    args.methods = _methods(args, captioner)
    folder = cli.output_folder(args)
    found, lines = (_on_coco if on_coco else _on_flickr8k)(captioner, args)
    result = {
        "task": "evaluate captioner", "model": captioner.name, "weights": captioner.network.source,
        "layer": captioner.layer or captioner.network.layer, "beam": captioner.beam, "split": args.split,
        **found,
    }  # fmt: skip
    path = folder / f"captioner-{'coco-' * on_coco}{args.split}.json"
    return _finished(result, path, args, lines)


def _on_flickr8k(captioner: Any, args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Caption metrics on Flickr8k, and where the words' maps point: the figures, and lines that say them."""
    from captioning import metrics
    from data.readers import flickr8k
    from scripts.experiments.grounded import (
        entities_folder,
        entities_truth,
        flickr8k_folder,
        grounded_captions,
        grounding_figures,
        phrase_lines,
        word_lines,
    )  # fmt: skip

    place = flickr8k_folder(args.data)
    images = flickr8k.read(place, args.split)[: args.limit]
    notes = None if args.no_grounding else entities_folder(place)
    if notes is None and not args.no_grounding:
        cli.report(f"no boxes in '{place / 'flickr30k_entities'}': captions are scored, words are not located")
    truth = entities_truth(captioner.network, images, grounded_captions(notes, images), args.human_captions)
    said, records = _captions_and_records(captioner, truth, args, notes is not None)
    references = [image.tokens for image in images]
    found = {
        "score": args.score, "methods": list(args.methods), "images": len(images),
        "captions": metrics.evaluate(said, references, args.metrics),
        "errors": metrics.standard_errors(said, references, args.metrics),
        "human_captions": args.human_captions,
        "grounding": {kind: grounding_figures(each) for kind, each in records.items() if each},
    }  # fmt: skip
    lines = [f"{len(images)} images, beam {captioner.beam}: {_scores(found)}", *word_lines(records, args.methods)]
    return found, lines + phrase_lines(records["human"], args.methods)


def _on_coco(captioner: Any, args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """CHAIR and class recall on COCO's photographs, where words of classes point, and, where people captioned some of
    them, caption metrics.
    """
    from captioning import metrics
    from data.readers import coco
    from scripts.experiments.grounded import classes_truth, grounding_figures, plain, word_lines

    place = args.data.removeprefix("coco:")
    pairs = (coco.read_held_out(place) if args.split == "val" else coco.read_split(place, args.split))[: args.limit]
    images = [image for image, _ in pairs]
    classes = [{instance.name for instance in instances} for _, instances in pairs]
    truth = classes_truth(captioner.network, pairs, args.human_captions)
    said, records = _captions_and_records(captioner, truth, args, not args.no_grounding)
    found: dict[str, Any] = {
        "score": args.score, "methods": list(args.methods), "images": len(images),
        "objects": plain(metrics.chair(said, classes)), "human_captions": args.human_captions,
        "grounding": {kind: grounding_figures(each) for kind, each in records.items() if each},
    }  # fmt: skip
    lines = [f"{len(images)} images of COCO, beam {captioner.beam}"]
    lines += [f"  {name} {s['mean']} ± {s['error']} (n = {s['n']})" for name, s in found["objects"].items()]
    captioned = [n for n, image in enumerate(images) if image.captions]
    if captioned:
        references = [images[n].tokens for n in captioned]
        found["captioned"] = len(captioned)
        found["captions"] = metrics.evaluate([said[n] for n in captioned], references, args.metrics)
        found["errors"] = metrics.standard_errors([said[n] for n in captioned], references, args.metrics)
        lines.append(f"  {len(captioned)} of them with captions: {_scores(found)}")
        found["people"] = people_figures([images[n].tokens for n in captioned], [classes[n] for n in captioned], args)
        lines.append(f"  people's first captions, against their others: {_scores(found['people'])}")
        lines += [
            f"    {name} {s['mean']} ± {s['error']} (n = {s['n']})" for name, s in found["people"]["objects"].items()
        ]
    return found, lines + word_lines(records, args.methods)


def people_figures(captions: Any, classes: Sequence[set[str]], args: argparse.Namespace) -> dict[str, Any]:
    """What people's first captions of photographs are worth by the same measures: metrics against their others."""
    from captioning import metrics
    from scripts.experiments.grounded import plain

    first, others = [each[0] for each in captions], [each[1:] for each in captions]
    several = [n for n, each in enumerate(others) if each]
    pair = [first[n] for n in several], [others[n] for n in several]
    scores = metrics.evaluate(*pair, args.metrics) if several else {}
    errors = metrics.standard_errors(*pair, args.metrics) if several else {}
    return {"captions": scores, "errors": errors, "objects": plain(metrics.chair(first, classes))}


def metric_names(text: str) -> list[str]:
    """Names of caption metrics from what the user wrote; `UserError` for one that is none."""
    from captioning.metrics import METRICS

    by_name = {name.casefold(): name for name in METRICS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name.casefold() not in by_name]
    if unknown or not names:
        raise UserError(f"no caption metric '{unknown[0] if unknown else text}'; choose from {', '.join(METRICS)}")
    return [by_name[name.casefold()] for name in names]


def _captions_and_records(
    captioner: Any, truth: Any, args: argparse.Namespace, locate: bool
) -> tuple[list[list[str]], dict[str, list[Any]]]:
    """The words of each photograph's caption, and the records of words located in people's captions and in these."""
    from data.words.vocabulary import tokenize
    from scripts.experiments.grounded import batches, located

    records: dict[str, list[Any]] = {"human": [], "generated": []}
    if locate:
        said, records = located(captioner, truth, args.batch, args.score, args.methods, args.quiet)
    else:
        seen = batches(captioner, truth.images, args.batch, args.quiet)
        said = [caption for _, each in seen for caption in captioner.caption(each)]
    return [[token for word in caption.words for token in tokenize(word)] for caption in said], records


def _methods(args: argparse.Namespace, model: Any) -> tuple[str, ...]:
    """The methods that are asked for, or what is measured of a model of this kind."""
    from common.request import PhotoReader

    args.methods = args.methods or (_OF_TOKENS if isinstance(model.network, PhotoReader) else "gradcam")
    return tuple(cli.methods_of(args))


def _scores(found: dict[str, Any]) -> str:
    """Caption metrics with their standard errors, where these are known."""
    errors = found["errors"]
    each = ((name, f"{value:.4f}", errors.get(name)) for name, value in found["captions"].items())
    return "  ".join(f"{name} {value}" + (f" ± {error:.4f}" if error else "") for name, value, error in each)


def evaluate_vqa(args: argparse.Namespace) -> int:
    """Answer every question of the split, score the answers, measure the maps; returns the exit status."""
    import vqa
    from data.derived.question_sets import QuestionSet

    cli.device_of(args)
    if args.maps < 0 or (args.limit is not None and args.limit < 1):
        raise UserError("--maps is at least 0 and --limit at least 1")
    sets = [QuestionSet.parse(text) for text in args.data]
    answerer = vqa.load(args.model, device=args.device, layer=args.layer)
    args.methods = _methods(args, answerer)
    folder = cli.output_folder(args)
    result = {
        "task": "evaluate vqa", "model": answerer.name, "weights": answerer.network.source, "split": args.split,
        "sets": {one.kind: _set_figures(answerer, one, args) for one in sets},
    }  # fmt: skip
    lines = [line for name, found in result["sets"].items() for line in _set_lines(name, found)]
    return _finished(result, folder / f"vqa-{args.split}.json", args, lines)


def _set_figures(answerer: Any, one: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, baselines and map measures of one set's questions."""
    from vqa.grounding import sample
    from vqa.metrics import by_kind, commonest_answer, commonest_per_kind

    questions = one.read(args.split)
    some = sample(questions, args.limit or len(questions))
    found: dict[str, Any] = {"accuracy": by_kind(_answers(answerer, some, args), some)}
    if args.baselines:
        train = one.read("train")
        for name, make in (("commonest", commonest_answer), ("commonest_of_type", commonest_per_kind)):
            say = make(train)
            found[name] = by_kind([say(question) for question in some], some)
        blind = getattr(answerer.network, "baselines", {}).get("without_image", {})
        if some and some[0].source in blind:
            found["without_image"] = blind[some[0].source]
        elif hasattr(answerer.network, "blind_answer"):
            found["without_image"] = by_kind(_blind(answerer.network, some), some)
    if args.maps:
        found["maps"] = _map_figures(answerer, questions, args)
    return found


def _blind(network: Any, questions: Sequence[Any]) -> list[str]:
    """What a model that writes answers without an image."""
    known = {text: _answered(partial(network.blind_answer, text)) for text in {q.text for q in questions}}
    return [known[question.text] for question in questions]


def _answers(answerer: Any, questions: Sequence[Any], args: argparse.Namespace) -> list[str]:
    """The answer to each question, image by image."""
    from scripts.experiments.grounded import ticks
    from vqa.grounding import looked_at

    step = ticks(len(questions), "questions", args.quiet)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown words: there are many in a whole set
        for question, seen in looked_at(answerer, questions):
            found.append(_answered(partial(answerer.answer, seen, question.text, top=1)))
            step()
    return found


def _answered_ones(answerer: Any, questions: Sequence[Any], args: argparse.Namespace) -> list[Any]:
    """The questions that are answered: a model that writes may write nothing, one that chooses always answers."""
    if not hasattr(answerer.network, "blind_answer"):
        return list(questions)
    return [q for q, said in zip(questions, _answers(answerer, questions, args), strict=True) if said]


def _answered(answer: Callable[[], Any]) -> str:
    """The text of an answer; '' where a model that writes wrote nothing."""
    try:
        return str(getattr(found := answer(), "text", found))
    except EmptyReply:
        return ""


def _map_figures(answerer: Any, questions: Sequence[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Rank correlation with occlusion, insertion and deletion, pointing on boxes, swapped questions and answers."""
    from scripts.experiments.grounded import plain, ticks
    from vqa import grounding
    from vqa.curves import curve_areas

    some = _answered_ones(answerer, grounding.sample(questions, args.maps), args)
    boxed = grounding.sample([q for q in questions if q.boxes and q.kind == "object"], args.maps)
    boxed = _answered_ones(answerer, boxed, args)
    step = ticks(len(some), "occlusion", args.quiet)
    known = grounding.references_for(answerer)
    references = {name: known[name] for name in grounding.MEASURED if name in known}
    figures: dict[str, Any] = {"occlusion": grounding.occlusion_correlation(answerer, some, references, step)}
    step = ticks(len(some), "insertion and deletion", args.quiet)
    figures["curves"] = curve_areas(answerer, some, step, args.methods)
    if boxed:
        step = ticks(len(boxed), "boxes", args.quiet)
        figures["pointing"] = grounding.pointing_accuracy(answerer, boxed, step, args.methods)
    images = {q.image_id for q in some}
    several = _answered_ones(answerer, [q for q in questions if q.image_id in images], args)
    figures["swap"] = grounding.question_swap(answerer, several, ticks(len(images), "swaps", args.quiet))
    return plain(figures)


def _set_lines(name: str, found: dict[str, Any]) -> list[str]:
    """What a reader of the terminal sees of one question set's figures."""
    lines = []
    for column in ("accuracy", "without_image", "commonest_of_type", "commonest"):
        kinds = found.get(column, {}).items()
        rows = [f"{kind} {100 * r['accuracy']:.1f} ± {100 * r['se']:.1f} (n = {r['n']})" for kind, r in kinds]
        lines += [f"{name}, {column}: {', '.join(rows)}"] if rows else []
    for measure, table in found.get("maps", {}).items():
        for which, row in table.items() if measure != "swap" else (("", table),):
            known = [(k, v) for k, v in row.items() if None not in (v["mean"], v["error"])]
            cells = [f"{k} {v['mean']:.3f} ± {v['error']:.3f}" for k, v in known]
            count = next(iter(row.values()))["n"]
            lines.append(f"{name}, {measure}{' ' + which if which else ''} (n = {count}): {', '.join(cells)}")
    return lines


def _finished(result: dict[str, Any], path: Path, args: argparse.Namespace, lines: Sequence[str]) -> int:
    """Write the figures, and print them as JSON or as lines."""
    from common.explanation import versions
    from common.files import write_json

    result["versions"] = versions()
    write_json(path, result)
    if args.json:
        print(json.dumps(result))
        return cli.OK
    print("\n".join(lines))
    if not args.quiet:
        print(f"  {path}")
    return cli.OK
