"""Reader for COCO-QA: line-aligned `questions.txt`, `answers.txt`, `img_ids.txt`, `types.txt` for each split.

Source: Ren, Kiros and Zemel, Exploring Models and Data for Image Question Answering, NIPS 2015.
"""

from pathlib import Path

from common.errors import UserError
from data.readers.coco import photograph_of, photographs
from data.readers.files import AnyPath, find_folder, read_text
from data.records import Question, checked_answer, checked_text

KINDS = {"0": "object", "1": "number", "2": "color", "3": "location"}


def read_cocoqa(folder: AnyPath, split: str = "train") -> list[Question]:
    """The questions of `folder/SPLIT` (or `folder/cocoqa/SPLIT`), in file order.

    Raises `UserError` on a missing file, files of different lengths, an unknown type, an id without an image.
    """
    place = find_folder(
        folder, (split, f"cocoqa/{split}"), f"folder of COCO-QA's split '{split}', with its four text files"
    )
    columns = {
        name: read_text(place / f"{name}.txt").splitlines() for name in ("questions", "answers", "img_ids", "types")
    }
    lengths = {name: len(lines) for name, lines in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(
            f"the files in {place} don't match: " + ", ".join(f"{n}.txt has {k} lines" for n, k in lengths.items())
        )
    images = photographs(place)
    rows = zip(columns["questions"], columns["answers"], columns["img_ids"], columns["types"], strict=True)
    return [_question(number, row, images, place) for number, row in enumerate(rows)]


def _question(number: int, row: tuple[str, str, str, str], images: dict[int, Path], place: Path) -> Question:
    text, answer, image_id, kind = (cell.strip() for cell in row)
    where = f"{place.name}/, line {number + 1}"
    if kind not in KINDS:
        raise UserError(f"{where}: type {kind!r} is not one of {', '.join(f'{k} ({v})' for k, v in KINDS.items())}")
    if not image_id.isdigit():
        raise UserError(f"{where}: image id {image_id!r} is not a whole number")
    answer = checked_answer(answer, where)
    return Question(
        id=f"{place.name}-{number}",
        text=checked_text(text, where),
        image=photograph_of(images, int(image_id), where),
        image_id=f"coco:{int(image_id)}",
        answer=answer,
        answers=(answer,),
        kind=KINDS[kind],
        source="cocoqa",
    )
