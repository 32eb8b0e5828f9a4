"""Reader for easy-VQA: drawn shapes with simple questions, from the PyPI package `easy-vqa` (MIT licence).

The package carries its 5,000 images of 64x64 pixels. Source: Victor Zhou, easy-VQA, 2019.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath, read_json
from data.records import Question, checked_answer, checked_text

SPLITS = ("train", "test")
_SHAPES = re.compile(r"\b(circle|rectangle|triangle)\b")
_COLORS = re.compile(r"\b(?:red|green|blue|black|gray|teal|brown|yellow)\b")


def easyvqa_folder() -> Path:
    """The `data` folder of the installed package; `UserError` when it is not installed."""
    spec = find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError("easy-VQA is not installed; `pip install easy-vqa`, or give its data folder")
    return Path(spec.origin).parent / "data"


def read_easyvqa(split: str = "train", folder: AnyPath | None = None) -> list[Question]:
    """The questions of one split (`train`, `test`); kinds: yes/no, shape, color."""
    if split not in SPLITS:
        raise UserError(f"easy-VQA has no split {split!r}; it has {' and '.join(SPLITS)}")
    place = Path(folder) / split if folder else easyvqa_folder() / split
    rows = read_json(place / "questions.json")
    present = {path.stem for path in (place / "images").glob("*.png")}
    return [_question(number, row, present, place) for number, row in enumerate(rows)]


def _question(number: int, row: list, present: set[str], place: Path) -> Question:
    where = f"{place.name}/questions.json, entry {number}"
    if not isinstance(row, list) or len(row) != 3:
        raise UserError(f"{where}: {row!r} is not [question, answer, image id]")
    if str(row[2]) not in present:
        raise UserError(f"{where}: image id {row[2]} has no image in {place / 'images'}")
    answer = checked_answer(row[1], where)
    return Question(
        id=f"{place.name}-{number}",
        text=checked_text(row[0], where),
        image=place / "images" / f"{row[2]}.png",
        image_id=f"easyvqa-{place.name}:{row[2]}",
        answer=answer,
        answers=(answer,),
        kind=_kind(answer),
        source="easyvqa",
    )


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if _SHAPES.fullmatch(answer) else "color" if _COLORS.fullmatch(answer) else "other"
