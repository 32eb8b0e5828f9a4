"""Reader for GQA's balanced questions: `val_balanced_questions.json` and the photographs `images/IMAGEID.jpg`.

Source: Hudson and Manning, GQA: A New Dataset for Real-World Visual Reasoning, CVPR 2019.
"""

from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers.files import AnyPath, fields, find_folder, read_json
from data.records import Question, checked_answer, checked_text

FOLDERS = (".", "questions1.2", "questions", "question")


def read_gqa(folder: AnyPath, split: str = "val") -> list[Question]:
    """The balanced questions of a split, in file order, of the photographs in `folder/images`.

    Questions about photographs that are not there are left out. Raises `UserError` for a missing file, another layout,
    and where no photograph is there.
    """
    images = find_folder(folder, ("images",), "folder of GQA's photographs")
    name = f"{split}_balanced_questions.json"
    file = next((path for place in FOLDERS if (path := Path(folder) / place / name).is_file()), None)
    if file is None:
        raise UserError(f"no {name} in '{folder}' or its folder questions1.2; give the folder of GQA")
    entries = read_json(file)
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{file}: is no object of questions by id; expected GQA's published layout")
    there = {path.stem: path for path in images.glob("*.jpg")}
    found = [_question(key, entry, there, f"{file}, question {key}") for key, entry in entries.items()]
    kept = [question for question in found if question is not None]
    if not kept:
        raise UserError(f"none of the photographs of {len(entries)} questions is in '{images}'")
    return kept


def _question(key: str, entry: Any, images: dict[str, Path], where: str) -> Question | None:
    text, image_id = fields(entry, ("question", "imageId"), where)
    if str(image_id) not in images:
        return None
    answer = checked_answer(entry["answer"], where) if "answer" in entry else ""
    types = entry.get("types")
    kind = str(types.get("structural", "")) if isinstance(types, dict) else ""
    return Question(
        id=key,
        text=checked_text(text, where),
        image=images[str(image_id)],
        image_id=f"gqa:{image_id}",
        answer=answer,
        answers=(answer,) if answer else (),
        kind=kind,
        source="gqa",
    )
