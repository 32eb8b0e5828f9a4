"""Readers for VQA v1 and v2 in the official JSON layout (visualqa.org), and for OK-VQA with soft answers.

A folder holds `[v2_]OpenEnded_mscoco_SPLIT_questions.json` and `[v2_]mscoco_SPLIT_annotations.json`
(or holds a folder `vqa/` that does), with the photographs in `train2014/` or `val2014/` beside or above it.
Source: Antol et al., VQA, ICCV 2015; Goyal et al., Making the V in VQA Matter, CVPR 2017.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers.coco import photograph_of, photographs, split_ids
from data.readers.files import AnyPath, identifier, read_json
from data.records import Question, checked_answer, checked_soft_answers, checked_text

LAYOUT = "*OpenEnded_mscoco_{split}*_questions.json"
FIRST_LAYOUT = LAYOUT[1:]  # VQA v1's files bear no version


def read_vqa1(folder: AnyPath, split: str = "train") -> list[Question]:
    """The questions of one split of VQA v1, as `read_vqa`, whatever lies beside them. Ids are image x 10 + n."""
    return read_vqa(folder, split, FIRST_LAYOUT)


OKVQA = "okvqa_{split}*_questions.json"


def read_vqa(folder: AnyPath, split: str = "train", layout: str = LAYOUT) -> list[Question]:
    """The questions of one split (`train`, `val`, ...), in the order of the questions file; VQA v2's before v1's.

    The split names the start of the official one: `val` finds `val2014` as well as `val_from_train2014`.
    Kinds are the official answer types (yes/no, number, other). Raises `UserError` on a missing or broken
    file, on questions and annotations that don't match, on an image id without an image.
    """
    path = _find(Path(folder), split, layout)
    annotations = path.with_name(path.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))
    images = photographs(path.parent)
    pairs = _pairs(path, annotations if annotations.is_file() else None)
    return [_question(entry, annotation, images, path) for entry, annotation in pairs]


def read_okvqa(folder: AnyPath, split: str = "train") -> list[Question]:
    """The questions of OK-VQA (Marino et al., CVPR 2019) in a copy that has soft answers, in file order.

    `okvqa_SPLIT_questions.json` beside `okvqa_SPLIT_soft_answers.json`, whose entries hold
    `soft_answers: {answer: accuracy in [0, 1]}`; `answer` is the first of the most accurate. A copy without questions
    of `val` has there those of `train` about the photographs that COCO's list keeps for validation.
    """
    held = split_ids(Path(folder), "val") if split == "val" and not _found(Path(folder), split, OKVQA) else set()
    if held:
        return [question for question in read_okvqa(folder, "train") if question.image_id in held]
    path = _find(Path(folder), split, OKVQA)
    answers = path.with_name(path.name.replace("_questions.json", "_soft_answers.json"))
    images = photographs(path.parent)
    return [_softly_answered(entry, annotation, images, path) for entry, annotation in _pairs(path, answers)]


def _softly_answered(entry: dict, annotation: dict, images: dict[int, Path], path: Path) -> Question:
    where = f"{path.name}, question {entry['question_id']}"
    # The published answers are normalised: of one such as 'a' nothing is left.
    pairs = checked_soft_answers(annotation.get("soft_answers"), where)
    best = max(pairs, key=lambda pair: pair[1])[0]
    return replace(_question(entry, {}, images, path), answer=best, soft_answers=pairs, source="okvqa", kind="other")


def _found(folder: Path, split: str, layout: str) -> list[Path]:
    """The files of a split in the first of the folders that has any, those of VQA v2 first."""
    each = ([*place.glob(layout.format(split=split))] for place in (folder, folder / "vqa"))
    files = next((files for files in each if files), [])
    return sorted(files, key=lambda path: (not path.name.startswith("v2_"), path.name))


def _find(folder: Path, split: str, layout: str) -> Path:
    found = _found(folder, split, layout)
    if found:
        return found[0]
    pattern = layout.format(split=split)
    raise UserError(f"no {pattern} in {folder} or {folder / 'vqa'}; give the folder with the official VQA files")


def _pairs(questions: Path, annotations: Path | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each question's entry and its annotation, which is empty where there is no file (a test split)."""
    asked = _by_id(questions, "questions")
    if annotations is None:
        return [(entry, {}) for entry in asked.values()]
    answered = _by_id(annotations, "annotations")
    _check_match(asked, answered, questions, annotations)
    return [(entry, answered[key]) for key, entry in asked.items()]


def _by_id(path: Path, key: str) -> dict[Any, dict[str, Any]]:
    """The entries of the list `key` by question id, in the order of the file."""
    entries = read_json(path, (key,))[key]
    for entry in entries:
        if not isinstance(entry, dict) or "question_id" not in entry or "image_id" not in entry:
            raise UserError(f"{path}: an entry of {key!r} lacks question_id or image_id: {str(entry)[:80]}")
    found = {identifier(entry["question_id"], f"{path}: an entry of {key!r}"): entry for entry in entries}
    if len(found) != len(entries):
        raise UserError(f"{path} names {len(entries) - len(found)} question ids more than once")
    return found


def _check_match(questions: dict, annotations: dict, question_path: Path, annotation_path: Path) -> None:
    unanswered, unasked = questions.keys() - annotations.keys(), annotations.keys() - questions.keys()
    if unanswered or unasked:
        example = sorted(unanswered or unasked, key=str)[0]
        raise UserError(
            f"{question_path.name} and {annotation_path.name} don't match: {len(unanswered)} questions have no "
            f"annotation, {len(unasked)} annotations no question (for example id {example}); "
            f"use the two files of one split"
        )
    for key, question in questions.items():
        if question["image_id"] != annotations[key]["image_id"]:
            raise UserError(
                f"question {key} is about image {question['image_id']} in {question_path.name} but about "
                f"image {annotations[key]['image_id']} in {annotation_path.name}"
            )


def _question(entry: dict, annotation: dict, images: dict[int, Path], path: Path) -> Question:
    where = f"{path.name}, question {entry['question_id']}"
    answers = annotation.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise UserError(f"{where}: 'answers' is not a list of objects")
    texts = tuple(checked_answer(answer.get("answer"), where) for answer in answers)
    return Question(
        id=str(entry["question_id"]),
        text=checked_text(entry.get("question"), where),
        image=photograph_of(images, entry["image_id"], where),
        image_id=f"coco:{entry['image_id']}",
        answer=checked_answer(annotation.get("multiple_choice_answer"), where) if annotation else "",
        answers=texts,
        kind=str(annotation.get("answer_type", "")),
        source="vqa2" if path.name.startswith("v2_") else "vqa",
    )
