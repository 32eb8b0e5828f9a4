"""Where the photographs of COCO 2014 lie and which of them are kept for validation."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from common.errors import UserError

FOLDERS = ("train2014", "val2014", "test2015")
_NAME = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d{12})\.(?:jpg|jpeg|png)$")


def coco_root(folder: Path) -> Path:
    """The nearest folder, `folder` or up to two above it, that holds `train2014/` or `val2014/`."""
    folder = Path(folder).resolve()
    for candidate in (folder, folder.parent, folder.parent.parent):
        if any((candidate / name).is_dir() for name in FOLDERS):
            return candidate
    raise UserError(
        f"no folder of COCO photographs ({', '.join(FOLDERS)}) in {folder} or the two folders above it; "
        f"put the photographs beside the questions, or name the folder that holds them"
    )


@lru_cache(maxsize=8)
def coco_images(folder: Path) -> dict[int, Path]:
    """COCO image id -> file, for all the photographs under the COCO folder that `folder` belongs to."""
    root = coco_root(folder)
    found: dict[int, Path] = {}
    for name in FOLDERS:
        for path in sorted((root / name).glob("COCO_*")):
            match = _NAME.match(path.name)
            if match:
                found[int(match.group(1))] = path
    return found


def image_of(images: dict[int, Path], image_id: int, where: str) -> Path:
    """The file of image `image_id`; `UserError` when there is none."""
    try:
        return images[image_id]
    except KeyError:
        raise UserError(
            f"{where}: image id {image_id} has no image among the {len(images)} COCO photographs found; "
            f"expected a file such as COCO_train2014_{image_id:012d}.jpg"
        ) from None


def validation_ids(folder: Path) -> set[str]:
    """`coco:ID` of the photographs listed in `splits/val_image_ids.txt`; empty when there is no such list."""
    path = coco_root(folder) / "splits" / "val_image_ids.txt"
    if not path.is_file():
        return set()
    return {f"coco:{int(line)}" for line in path.read_text().split()}
