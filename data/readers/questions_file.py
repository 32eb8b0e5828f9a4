"""Reader for a plain file of questions: CSV or JSONL with the columns `image`, `question` and, optionally,
`answer` (one right answer), `answers` (several), `kind`, `boxes` (`[[left, top, right, bottom], ...]` in [0, 1]),
`soft_answers` (`{answer: accuracy in [0, 1]}`, not in a CSV) and `id`. Image paths are relative to the file. Lines of a
JSONL are objects; blank lines are skipped.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import atomic_path
from data.readers.files import AnyPath, read_text
from data.records import Box, Question, boxes_of_shares, checked_answer, checked_soft_answers, checked_text


def read_questions_file(path: AnyPath, split: str = "") -> list[Question]:
    """The questions of a `.csv`, `.jsonl` or `.json` (list of objects) file, in file order.

    `split` keeps the rows whose `split` column has that value; rows without one belong to every split.
    Raises `UserError` with the line's number for a missing column, an empty question, an answer that is not
    a string, a missing image.
    """
    path = Path(path)
    rows = [(where, row) for where, row in _rows(path) if not split or row.get("split") in (None, "", split)]
    if not rows:
        raise UserError(f"{path} holds no questions" + (f" for split {split!r}" if split else ""))
    return [_question(where, row, path) for where, row in rows]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text, kind = read_text(path), path.suffix.lower()
    rows: Iterable[tuple[int, Any]]
    if kind == ".csv":
        rows = enumerate(csv.DictReader(text.splitlines()), 2)
    elif kind == ".json":
        entries = _parse(text, path.name)
        if not isinstance(entries, list):
            raise UserError(f"{path} is not a list of objects")
        rows = enumerate(entries, 1)
    else:
        lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        rows = ((number, _parse(line, f"{path.name}, line {number}")) for number, line in lines)
    for number, row in rows:
        where = f"{path.name}, line {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object with image and question, not {str(row)[:60]}")
        yield where, {k: v for k, v in row.items() if k and v not in (None, "")} if kind == ".csv" else row


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def _question(where: str, row: dict[str, Any], path: Path) -> Question:
    missing = [name for name in ("image", "question") if name not in row]
    if missing:
        raise UserError(f"{where}: no {' and no '.join(missing)}; has {', '.join(map(str, row)) or 'nothing'}")
    if not isinstance(row["image"], str):
        raise UserError(f"{where}: the image is {row['image']!r}, not a path")
    image = path.parent / row["image"]
    if not image.is_file():
        raise UserError(f"{where}: there is no image {image}")
    answers, soft = row.get("answers", []), row.get("soft_answers")
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list):
        raise UserError(f"{where}: answers is {answers!r}, not a list of strings")
    texts = tuple(checked_answer(answer, where) for answer in answers)
    answer = checked_answer(row["answer"], where) if row.get("answer") is not None else ""
    answer = answer or (Counter(texts).most_common(1)[0][0] if texts else "")
    return Question(
        id=str(row.get("id", where)),
        text=checked_text(row["question"], where),
        image=image,
        image_id=str(row.get("image_id", f"file:{image.resolve()}")),
        answer=answer,
        answers=texts or ((answer,) if answer else ()),
        kind=str(row.get("kind", "")),
        source=str(row.get("source", path.stem)),
        boxes=_boxes(row.get("boxes"), where),
        soft_answers=checked_soft_answers(soft, where) if soft else (),
    )


def _boxes(boxes: Any, where: str) -> tuple[Box, ...]:
    if isinstance(boxes, str) and boxes:
        boxes = _parse(boxes, f"{where}, boxes")
    return boxes_of_shares(boxes or (), where)


def write_questions_file(path: AnyPath, questions: list[Question]) -> None:
    """Writes questions as JSONL that `read_questions_file` reads back; image paths are made absolute."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for question in questions:
            row = {
                "id": question.id,
                "image": str(question.image.resolve()),
                "image_id": question.image_id,
                "question": question.text,
                "answer": question.answer,
                "answers": list(question.answers),
                "kind": question.kind,
                "source": question.source,
                "boxes": [list(box) for box in question.boxes],
                **({"soft_answers": dict(question.soft_answers)} if question.soft_answers else {}),
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
