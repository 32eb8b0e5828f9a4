"""What input is made of: sources, listed but not opened, and the photographs that they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.errors import UserError
from scripts.batch import files

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content")
_KEY_COLUMNS = ("key", "__key__", "file_name", "filename", "name", "id", "url")


class Source(NamedTuple):
    """One photograph (kind 'image'), or a file of many ('tar', 'parquet', of which `part` is a row group; 'hf')."""

    kind: str
    address: str
    key: str
    size: int = -1
    version: str = ""
    part: int = 0
    question: str | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One photograph to explain: `read()` gives its bytes; raises `UserError` where there are none."""

    key: str
    read: Callable[[], bytes]
    question: str | None = None
    answers: tuple[str, ...] = ()


def image_column(found: Sequence[str], names: Sequence[str], where: str) -> str:
    """Which of the columns `found`, that hold bytes, holds images. Raises `UserError`, with all names, for none."""
    named = [name for name in _IMAGE_COLUMNS if name in found]
    if not named and len(found) != 1:
        wanted = "one with images' bytes, called 'image'"
        raise UserError(f"'{where}' has no column of images: {', '.join(names)}; expected {wanted}")
    return (named or list(found))[0]


def key_column(names: Sequence[str]) -> str | None:
    """The column that tells rows apart, if there is one."""
    return next((name for name in _KEY_COLUMNS if name in names), None)


def columns(image: str, names: Sequence[str]) -> list[str]:
    """Those of a table's columns that are read."""
    read = (image, key_column(names), "question", "answer", "answers")
    return [name for name in names if name in read]


def question_of(row: dict[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    """The question of a row and its answers, each once. Raises `UserError` for what is no text."""
    answers: Any = row.get("answers") or row.get("answer") or ()
    answers = [answers] if isinstance(answers, str) else answers
    if isinstance(answers, (list, tuple)):  # VQA v2 has {"answer": text, ...} for each
        answers = [each.get("answer", each) if isinstance(each, dict) else each for each in answers]
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        raise UserError(f"{where}: answers are {answers!r}, not a list of strings")
    question: Any = row.get("question") or None
    if question is not None and not isinstance(question, str):
        raise UserError(f"{where}: the question is {question!r}, not a string")
    return question, tuple(dict.fromkeys(answers))


def item_of_row(source: Source, row: dict[str, Any], image: str, number: int) -> Item:
    """The photograph of a table's row: its bytes in the column `image`, or {bytes, path} as `datasets` writes them.

    In place of bytes a row may name a `file`. Its key is the row's, or its number.
    """
    value = row[image]
    held = value if isinstance(value, dict) else {"bytes": value}
    keyed = key_column(list(row))
    name = row.get(keyed) if keyed else held.get("path")
    key = f"{source.key}/{number if name is None else name}"
    question, answers = question_of(row, key)

    def read() -> bytes:
        if not held["bytes"] and not held.get("file"):
            raise UserError(f"{key}: the row has no image")
        return held["bytes"] or files.read_bytes(held["file"])

    return Item(key, read, question or source.question, answers)
