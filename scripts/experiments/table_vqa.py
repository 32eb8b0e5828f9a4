"""Section 8.2 of the paper: rank correlations of VQA maps with occlusion maps and with human attention.

    python -m scripts.experiments.table_vqa --data cocoqa:PATH/coco                        # about 3 min on one CPU core
    python -m scripts.experiments.table_vqa --data vqa:PATH/vqa1 --hat PATH/vqahat_val       # human attention as well
    python -m scripts.experiments.table_vqa --data gqa:PATH/gqa --aird PATH/AiR-D

To expect: Grad-CAM above Guided Backprop and above the gradient-free map. Published (VGG-16, VQA v1):
Grad-CAM 0.60 ± 0.038, Guided Backprop 0.42 ± 0.038; with human attention 0.136 over 1374 pairs.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from common.errors import UserError
from common.files import write_json
from common.methods.names import label
from data.derived.question_sets import QuestionSet
from data.readers.aird import find_aird
from data.readers.salicon import find_salicon
from data.readers.vqahat import check_ids, find_vqahat, read_attention
from data.records import Question
from scripts.console import whole
from scripts.experiments.compared import compared
from scripts.experiments.drawing import MODEL_HELP
from scripts.experiments.grounded import plain
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.report import Row, Section, Table, against, row_of
from scripts.experiments.run import run_program
from vqa.coattention import LEVELS
from vqa.grounding import (
    CELLS,
    OCCLUSION,
    WINDOWS,
    attention_correlation,
    attention_correlations,
    looked_at,
    occlusion_correlation,
    reference_correlations,
    references_of,
    sample,
)

ROWS = {
    **{name: label(name) for name in ("gradcam", "no_relu", "guided", "guided_gradcam")},
    "activation": "activation energy, whatever the answer",
    "cells": "occlusion of cells of the map",
}
# What a model with attention has besides: where it looks itself, whatever the answer.
LOOKED = {f"attention_{level}": f"its own attention, {level} level" for level in LEVELS}
# The maps whose references are compared.
BY_REFERENCE = {"gradcam": "Grad-CAM", "no_relu": "Grad-CAM before its ReLU", "cells": "occlusion of cells itself"}
ZERO = "A map that is zero everywhere ranks nothing and counts as 0; a reference without any drop is left out."
# Section 8.2, by measure and method: VGG-16 on VQA v1.
PUBLISHED = {
    "occlusion": {"gradcam": "0.60 ± 0.038", "guided": "0.42 ± 0.038"},
    "human attention": {"gradcam": "0.136 (1374 pairs)"},
}
SETS = {"vqa2": "VQA v2, questions people asked about COCO", "cocoqa": "COCO-QA, questions made of captions"}
GRID = (14, 14)  # VQA-HAT and SALICON are compared at
NEEDED, BLIND = "the photograph decides", "the same answer to a grey picture"
MODEL = "VQA model"


def measure(lab: Lab, kind: str, count: int) -> dict[str, Any]:
    """Part of the questions -> map -> correlation with occlusion of pixels, paired by photograph, errors over these."""
    answerer = lab.facade(MODEL)
    questions = sample(QuestionSet(kind, lab.need("vqa2")).read("val"), count)

    def correlations(number: int, group: Sequence[Question]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for question, encoded in looked_at(answerer, group):
            row = reference_correlations(answerer, question, encoded, {"": OCCLUSION})[""]
            for part in ("all", _part(answerer, question)):
                for name, value in row.items():
                    found.setdefault(f"{part} {name}", []).append(value)
        return found

    names = [f"{part} {name}" for part in ("all", NEEDED, BLIND) for name in ROWS]
    return _quietly(lambda: measured(by_photograph(questions), correlations, names))


def by_reference(lab: Lab, kind: str, count: int) -> dict[str, Any]:
    """'reference map' -> correlation, for every reference of `references_of`."""
    answerer = lab.facade(MODEL)
    questions = sample(QuestionSet(kind, lab.need("vqa2")).read("val"), count)
    references = references_of(min(answerer.network.preprocessing.size), WINDOWS)

    def correlations(number: int, group: Sequence[Question]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for question, encoded in looked_at(answerer, group):
            for name, row in reference_correlations(answerer, question, encoded, references).items():
                for key in BY_REFERENCE:
                    found.setdefault(f"{key} {name}", []).append(row[key])
        return found

    return _quietly(lambda: measured(by_photograph(questions), correlations))


def by_photograph(questions: Sequence[Question]) -> list[list[Question]]:
    """The questions of each photograph, in their order."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.image_id, []).append(question)
    return list(found.values())


def _quietly(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words that the model does not know
        return work()


def _part(answerer: Any, question: Question) -> str:
    """Whether the answer is another one when the photograph is all grey."""
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    said = [answerer.answer(image, question.text, top=1).text for image in (question.image, grey)]
    return BLIND if said[0] == said[1] else NEEDED


def attended(lab: Lab, count: int) -> dict[str, Any]:
    """Map -> correlation with human attention, of the questions that have it, paired by photograph."""
    looked = {"salicon": _looked_freely, "aird": _looked_to_reason}.get(lab.source, _looked_to_answer)
    pairs = looked(lab)[:count]
    maps = {question.id: attention for question, attention in pairs}
    answerer = lab.facade(MODEL)

    def correlations(number: int, group: Sequence[Question]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for question in group:
            for key, value in attention_correlations(answerer, question, maps[question.id]).items():
                found.setdefault(key, []).append(value)
        return found

    return _quietly(lambda: measured(by_photograph([question for question, _ in pairs]), correlations))


def _looked_to_answer(lab: Lab) -> list[tuple[Any, Any]]:
    questions = QuestionSet("vqa", lab.data.get("vqa", lab.need("vqa2"))).read("val")
    return attention_pairs(lab.need("vqahat"), questions)


def _looked_to_reason(lab: Lab) -> list[tuple[Any, Any]]:
    """Questions of GQA with where people looked to answer them (AiR-D)."""
    files, questions = find_aird(lab.need("aird")), QuestionSet("gqa", lab.need("gqa")).read("val")
    return attention_of(files, questions, lab.need("aird"))


def _looked_freely(lab: Lab) -> list[tuple[Any, Any]]:
    """Questions of VQA v2 about photographs of SALICON, one of each, and where people looked without a question."""
    files, folder = find_salicon(lab.need("salicon")), lab.need("vqa2")
    first = {question.image_id: question for question in reversed(QuestionSet("vqa2", folder).read("val"))}
    pairs = [(q, read_attention([files[image]], GRID)) for image, q in first.items() if image in files]
    if not pairs:
        raise UserError(f"no photograph of SALICON is among the {len(first)} of VQA v2's questions in '{folder}'")
    return pairs


def attention_pairs(folder: str | Path, questions: list[Any]) -> list[tuple[Any, Any]]:
    """Questions with the attention map (14, 14) of each, of those that have one in a VQA-HAT folder.

    Raises `UserError` when there is none, and for questions with other ids than VQA v1's.
    """
    files = find_vqahat(folder)
    check_ids(questions)
    return attention_of(files, questions, folder)


def attention_of(
    files: Mapping[str, list[Path]], questions: Sequence[Any], folder: str | Path
) -> list[tuple[Any, Any]]:
    """Questions with the attention map (14, 14) of each, of those with `files` in the folder; `UserError` for none."""
    pairs = [(q, read_attention(files[q.id], GRID)) for q in questions if q.id in files]
    if not pairs:
        raise UserError(
            f"none of the {len(files)} attention maps in {folder} belongs to one of the {len(questions)} questions"
        )
    return pairs


def section(lab: Lab) -> Section:
    """8.2, VQA maps against occlusion."""
    mark = lab.mark(MODEL)
    lab = lab.on("vqa2")
    count = lab.count(120, 3)
    tables, notes = [], []
    for kind, name in SETS.items():
        if kind == "cocoqa" and not (lab.need("vqa2") / "cocoqa").is_dir():
            continue
        cell = lab.cell(f"vqa-ranks-{kind}", partial(measure, lab, kind, count), count=count, mark=mark)
        tables.append(_table(name, cell))
        if kind == "vqa2":
            less = lab.count(60, 2)
            cell = lab.cell("vqa-references", partial(by_reference, lab, kind, less), count=less, mark=mark)
            tables += _reference_tables(name, cell)
    known = [kind for kind in ATTENTION if kind in lab.data and (kind != "aird" or "gqa" in lab.data)]
    tables += [_attention_table(lab.on(kind), mark) for kind in known]
    if "aird" in lab.data and "aird" not in known:
        notes.append("AiR-D left out: give the folder of GQA, whose questions its maps are of, with --gqa PATH.")
    if "vqahat" not in lab.data:
        notes.append(
            "Human attention (VQA-HAT; published 0.136) left out: give its folder with --vqahat PATH, and that of VQA"
            " v1's questions, whose ids it bears, with --vqa PATH."
        )
    return Section("8.2: do VQA maps agree with occlusion?", tables, notes=notes)


def _table(name: str, cell: dict[str, Any]) -> Table:
    published, first = PUBLISHED["occlusion"], cell["all gradcam"]
    rows = []
    for key, what in {**ROWS, **LOOKED}.items():
        if f"all {key}" not in cell:
            continue
        row = row_of(what, cell[f"all {key}"], published.get(key, ""), MODEL)
        rows.append(row if key == "gradcam" else against(row, paired(cell[f"all {key}"], first)))
    rows += [row_of(f"Grad-CAM, {part}", cell[f"{part} gradcam"], "", MODEL) for part in (NEEDED, BLIND)]
    note = (
        "Spearman's correlation with occlusion maps of the model's own answer, grey windows of 32 pixels side by side;"
        f" maps are averaged under the windows as they lie. {ZERO} 'Grey picture': an all grey photograph gets the same"
        " answer. Published: VGG-16, VQA v1; the paper does not say how large its windows were."
    )
    return Table("8.2, VQA maps and occlusion", name, "rank correlation", rows, True, 3, note, ROWS["gradcam"])


def _reference_tables(name: str, cell: dict[str, Any]) -> list[Table]:
    """For each map its correlation with every reference: how much of 8.2's number is the reference's."""
    note = (
        "The same answers, one map, several references: windows of so many pixels, filled with grey or with the"
        " photograph blurred, and cells of the explained map set to zero. Occlusion of cells is of the very map that"
        f" Grad-CAM weighs: what it does not agree with, no map of that layer can be expected to. {ZERO}"
    )
    tables = []
    for key, what in BY_REFERENCE.items():
        found = {label.removeprefix(f"{key} "): one for label, one in cell.items() if label.startswith(f"{key} ")}
        found = {label: one for label, one in found.items() if (key, label) != ("cells", CELLS)}
        if not found:
            continue
        smallest = f"{WINDOWS[0]} pixels, grey"
        by = smallest if smallest in found else next(iter(found))  # no window fits a model that looks at 32 pixels
        rows = [
            against(row_of(label, one, "", MODEL), None if label == by else paired(one, found[by]))
            for label, one in found.items()
        ]
        title = f"8.2, {what}, by what the reference covers"
        tables.append(Table(title, name, "rank correlation", rows, True, 3, note, by))
    return tables


# Where people looked, by kind of data: what a table is called, what it is of, and how they came to look there.
ATTENTION = {
    "vqahat": ("human attention", "VQA-HAT, questions of VQA v1 whose photographs are at hand", "to answer"),
    "aird": ("attention while reasoning", "AiR-D, questions of GQA whose photographs are at hand", "to answer"),
    "salicon": ("where people look freely", "SALICON, photographs of VQA v2, a question of each", "without a question"),
}


def _attention_table(lab: Lab, mark: str) -> Table:
    """8.2, rank correlation with where people looked (VQA-HAT), and what the paper has not, looked freely (SALICON)."""
    (title, data, how), count = ATTENTION[lab.source], lab.count(1374, 10)
    name = "vqa-attention" if lab.source == "vqahat" else f"vqa-{lab.source}"
    cell = lab.cell(name, partial(attended, lab, count), count=count, mark=mark)
    published = PUBLISHED["human attention"] if lab.source == "vqahat" else {}
    names = {key: {**ROWS, "centre": "centre of the photograph"}[key] for key in cell}
    rows = [Row("random", 0.0, None, 0, "about 0" if published else "")]
    rows += compared(names, cell, "gradcam", MODEL, published)
    note = f"Spearman's correlation, at {GRID[0]} x {GRID[1]}, with where people looked {how}, the mean of them. {ZERO}"
    return Table(f"8.2, VQA maps and {title}", data, "rank correlation", rows, False, 3, note, ROWS["gradcam"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table; write it as JSON."""
    import vqa

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add, sets = parser.add_argument, "question sets; see saywhy evaluate vqa"
    add("--data", action="append", required=True, metavar="KIND:PATH", help=sets)
    add("--split", default="val", help="split of the sets (default: %(default)s)")
    add("--questions", type=whole(), default=250, metavar="N", help="questions of each set (default: %(default)s)")
    add("--hat", metavar="DIR", help="VQA-HAT: a folder of PNGs named by question id")
    add("--aird", metavar="DIR", help="AiR-D: the folder with aggregated_maps, of questions gqa:PATH")
    add("--model", metavar="NAME", help=MODEL_HELP)
    add("--out", default="saywhy-out/table_vqa.json", metavar="FILE", help="JSON to write")
    args = parser.parse_args(arguments)
    if args.questions < 1:
        raise UserError(f"--questions is {args.questions}; give at least 1")
    answerer = vqa.load(args.model)
    tables: dict[str, Any] = {}
    for one in map(QuestionSet.parse, args.data):
        questions = one.read(args.split)
        pairs = attention_pairs(args.hat, questions) if args.hat else []
        pairs += attention_of(find_aird(args.aird), questions, args.aird) if args.aird else []
        some, by = sample(questions, args.questions), {"": OCCLUSION}
        tables[one.kind] = {"occlusion": occlusion_correlation(answerer, some, by)[""]}
        if pairs:
            tables[one.kind]["human attention"] = attention_correlation(answerer, pairs)
    figures = plain(tables)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {"tables": figures, "published": PUBLISHED})
    _print(figures)
    print(args.out)


def _print(tables: dict[str, Any]) -> None:
    for name, measures in tables.items():
        for what, rows in measures.items():
            print(f"{name}: rank correlation with {what} maps")
            print(f"  {'':<38}{'ours':>6}   {'error':>5}  {'n':>5}  published")
            for key, row in rows.items():
                published = PUBLISHED[what].get(key, "-")
                mean, error = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("mean", "error"))
                ours = f"{mean:>6} ± {error:<5}  {row['n']:>5}"
                print(f"  {({**ROWS, **LOOKED}).get(key, key):<38}{ours}  {published}")


if __name__ == "__main__":
    run_program(main)
