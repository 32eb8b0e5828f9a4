"""saywhy vqa: the answer to a question about a photograph, and why it was given."""

import argparse
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli

MAX_SHADED = 4  # answers for which the question's words are shaded
_ABOUT = {
    "score": "score: pre-softmax",
    "log p": "log p: log-probability given image, question and words before",
    "logit": "logit: its words', given image, question and words before",
}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "vqa",
        help="answer a question about a photograph and explain the answer",
        description="Answer a question about a photograph and show why: where the answer looks, and at which words.",
    )
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="image file")
    parser.add_argument("question", nargs="?", metavar="QUESTION", help='question, such as "what color is the hat?"')
    parser.add_argument(
        "--questions", metavar="FILE",
        help='many questions: JSONL of {"image", "question", "answers"?} or CSV; images are relative to the file',
    )  # fmt: skip
    parser.add_argument(
        "--answer", "--reply", action="append", metavar="TEXT", dest="answers",
        help="explain this answer; repeatable (default: the model's own); a chat model's one, word by word",
    )  # fmt: skip
    cli.add_contrast_argument(parser, "each answer")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="answers to list (default: %(default)s)")
    parser.add_argument("--no-explain", action="store_true", help="answers only; no files are written")
    cli.add_model_arguments(parser)
    cli.add_chat_arguments(parser)
    cli.add_output_arguments(parser)
    cli.add_method_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer and explain each question; returns the exit status."""
    import vqa
    from common.images import open_image
    from common.panels import score_notes

    methods = cli.methods_of(args)
    _check(args)
    cli.device_of(args)
    asked = _questions(args)
    folder = None if args.no_explain else cli.output_folder(args)
    answerer = vqa.load(args.model, device=args.device, layer=args.layer, **cli.chat_options(args))
    encoded: dict[Path, Any] = {}

    def answer_one(file: Path, text: str, answers: list[str]) -> cli.Outcome:
        question = _read(answerer, text)
        image = open_image(file)
        if file not in encoded:
            encoded.clear()
            encoded[file] = answerer.encode(image)
        found = answerer.answer(encoded[file], question, top=args.top)
        line = f"{file}: {text} {found.text} ({_sure(found)})"
        said = {"task": "vqa", "image": str(file), "model": answerer.name, **_said(question, found)}
        if folder is None:
            return cli.Outcome(said, line)
        explanation = answerer.explain(
            encoded[file], question, answers or found, args.contrast, methods,
            occlusion_options=cli.occlusion_options(args),
        )  # fmt: skip
        record = {**said, **cli.explained(explanation), **_words(explanation)}
        page = cli.page_of(
            args, explanation, f"{file.name}: {text} {found.text}", score_notes(explanation, _unit(said, explanation))
        )
        return cli.Outcome(record, line, explanation, draw(image, record, explanation), page)

    return cli.run_each(asked, answer_one, args, folder)


def draw(image: Any, record: dict[str, Any], explanation: Any) -> Any:
    """The panel of one question: its words shaded, the photograph with the answers, a map for each target
    and method.
    """
    from common.draw import Tile, attributed_words, fitted, legends_of, panel
    from common.panels import explanation_tiles

    likely = "; ".join(f"{a['answer']} {a['probability']:.0%}" for a in record["predictions"][:3])
    written, said = record["written"], record["prediction"]
    if written:  # one reply, and no list of others: what is explained stands above, the model's own beside it
        own = explanation.names[0] == said
        said, likely = explanation.names[0], "the model's own reply" if own else f"its own reply: {_short(said)}"
    photograph = Tile(fitted(image), "Photograph", likely)
    tiles, columns = explanation_tiles(photograph, explanation, _unit(record, explanation))
    where = f"{record['model']}, explained at layer {record['layer']}"
    # Of a reply that is explained word by word, the question's words are shaded for the whole.
    shaded = slice(0, 1) if written and len(explanation) > MAX_SHADED else slice(None)
    weights = explanation.word_gradients[shaded].tolist()
    return panel(
        f"{record['question']} {said}", tiles, columns=columns,
        legends=legends_of(list(explanation.maps)),
        note=f"{where}; words: gradient times embedding; {_ABOUT[_unit(record, explanation)]}",
        above=lambda width: attributed_words(explanation.words, explanation.names[shaded], weights, width),
    )  # fmt: skip


def _check(args: argparse.Namespace) -> None:
    if args.questions is None and (args.image is None or args.question is None):
        raise UserError('give an image and a question ("what color is the hat?"), or --questions FILE')
    if args.questions is not None and args.image is not None:
        raise UserError("give either an image and a question, or --questions FILE, not both")
    if args.no_explain and (args.answers or args.contrast or args.html):
        raise UserError("--no-explain gives answers only; leave out --answer, --contrast and --html")
    if args.top < 1:
        raise UserError(f"--top is {args.top}; give at least 1")


def _questions(args: argparse.Namespace) -> list[tuple[Path, str, list[str]]]:
    """(image, question, answers to explain) of each question asked for."""
    if args.questions is None:
        return [(Path(args.image), args.question, args.answers or [])]
    from data.readers.questions_file import read_questions_file

    asked = read_questions_file(args.questions)
    return [
        (question.image, question.text, args.answers or list(dict.fromkeys(question.answers))) for question in asked
    ]


def _read(answerer: Any, text: str) -> Any:
    """The question as the model reads it; unknown words are named on standard error."""
    from common.text import unknown_words

    question = answerer.network.read(text)
    if question.unknown:
        cli.report(f"warning: {unknown_words(question)}")
    return question


def _said(question: Any, answer: Any) -> dict[str, Any]:
    """The question as it was read, and its answers, likeliest first."""
    listed = [{"answer": a.text, "score": a.score, "probability": a.probability} for a in (answer, *answer.runners_up)]
    asked = {"question": question.text, "unknown_words": list(question.unknown)}
    return {**asked, "prediction": answer.text, "predictions": listed, "written": answer.read is not None}


def _sure(answer: Any) -> str:
    """How sure the model is: of an answer of its list, or of words that it wrote."""
    return f"{answer.probability:.0%}" if answer.read is None else f"log p {answer.score:.2f}"


def _short(text: str, letters: int = 60) -> str:
    return text if len(text) <= letters else f"{text[:letters]}..."


def _unit(said: dict[str, Any], explanation: Any) -> str:
    """What a target's score is: of a written answer its words' logits, or their log-probabilities."""
    if explanation.provenance.get("score") == "logit":
        return "logit"
    return "log p" if said["written"] else "score"


def _words(explanation: Any) -> dict[str, Any]:
    """The question's words, and for each target what each of them adds to its score."""
    columns = (explanation.names, _rounded(explanation.word_gradients), _rounded(explanation.word_drops))
    keys = ("target", "gradient_times_embedding", "drop_when_left_out")
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return {"words": list(explanation.words), "word_attribution": rows}


def _rounded(values: Any) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in values.tolist()]
