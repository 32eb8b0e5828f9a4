"""Reader for VQA-HAT: where people looked to answer a question, one grey PNG for each question.

Files are named `QUESTIONID.png` or `QUESTIONID_N.png` (N the annotator: the three maps of the val set). The ids are
those of VQA v1, image x 10 + n; VQA v2 counts image x 1000 + n, so that its ids name other images' questions.
Source: Das et al., Human Attention in Visual Question Answering, EMNLP 2016.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from data.readers.files import AnyPath
from data.records import Question

LARGEST = 2**25  # pixels; a map has as many as its photograph
_NAME = re.compile(r"(\d+)(?:_\d+)?\.png$")


def find_vqahat(folder: AnyPath) -> dict[str, list[Path]]:
    """Question id -> its attention files (one an annotator), for every PNG in `folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of VQA-HAT's PNG files")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        match = _NAME.match(path.name)
        if match:
            found.setdefault(match.group(1), []).append(path)
    if not found:
        raise UserError(f"no PNG named by a question id (such as 1500070.png or 1500070_1.png) in {folder}")
    return found


def read_attention(paths: list[Path], size: tuple[int, int]) -> np.ndarray:
    """The mean human attention map at `size` (h, w): float64, at least 0, largest value 1 (0 if all black)."""
    maps = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise UserError(f"{path}: a map of {image.width} x {image.height} is larger than any photograph's")
                grey = image.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
        except UserError:
            raise
        except Exception as error:  # decoders raise a dozen types
            raise UserError(f"cannot read the attention map {path}: {error}") from None
        maps.append(np.asarray(grey, dtype=np.float64))
    mean = np.mean(maps, axis=0)
    return mean / mean.max() if mean.max() > 0 else mean


def check_ids(questions: Iterable[Question]) -> None:
    """Raise `UserError` for the first question whose id is not one of VQA v1 on a COCO photograph: image x 10 + n."""
    for question in questions:
        kind, _, image = question.image_id.partition(":")
        number = int(question.id) // 10 if question.id.isdecimal() else None
        if kind != "coco" or str(number) != image:
            raise UserError(
                f"question {question.id} is about image {question.image_id}; VQA-HAT bears the ids of VQA v1, image x"
                " 10 + n (VQA v2's are image x 1000 + n): give the questions of VQA v1, vqa:PATH or --vqa PATH"
            )
