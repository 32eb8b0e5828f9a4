"""`Question`: one question about one image, as every question reader returns it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError

MAX_QUESTION_WORDS = 1000
"""Longer questions are refused by the readers and by the model."""


@dataclass(frozen=True)
class Question:
    """A question, its image and, where the data has them, its answers and their boxes.

    `answer` is the one right answer (for VQA the 'multiple choice answer'); `answers` all human answers
    (ten in VQA, one elsewhere, none when unknown). `kind` is the set's own question type. `boxes` are
    `(left, top, right, bottom)` as fractions of the image's width and height, in [0, 1].
    `image_id` tells photographs apart across sets (`coco:25`, `flickr8k:1000268201`).
    """

    id: str
    text: str
    image: Path
    image_id: str
    answer: str = ""
    answers: tuple[str, ...] = ()
    kind: str = ""
    source: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()


def checked_text(text: Any, where: str) -> str:
    """The question without surrounding blanks; `UserError` when it is not a usable string."""
    if not isinstance(text, str):
        raise UserError(f"{where}: the question is {text!r}, not a string; write it in quotes")
    words = len(text.split())
    if not words:
        raise UserError(f"{where}: the question is empty; write at least one word")
    if words > MAX_QUESTION_WORDS:
        raise UserError(f"{where}: the question has {words} words; at most {MAX_QUESTION_WORDS} are allowed")
    return text.strip()


def checked_answer(answer: Any, where: str) -> str:
    """The answer without surrounding blanks; `UserError` when it is not a non-empty string."""
    if not isinstance(answer, str):
        raise UserError(
            f"{where}: the answer is {answer!r} ({type(answer).__name__}), not a string; write it in quotes"
        )
    if not answer.strip():
        raise UserError(f"{where}: the answer is empty; leave it out if it is unknown")
    return answer.strip()


def held_out(questions: Iterable[Question], image_ids: Iterable[str]) -> list[Question]:
    """The questions whose image is *not* among `image_ids`: nothing of a validation image is trained on."""
    forbidden = set(image_ids)
    return [question for question in questions if question.image_id not in forbidden]


def kinds(questions: Sequence[Question]) -> list[str]:
    """The question types that occur, sorted."""
    return sorted({question.kind for question in questions})
