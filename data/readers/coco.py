"""COCO in its published layout: photographs by id, captions, instances (boxes, outlines) and lists of ids.

`annotations/captions_<set>.json`, `annotations/instances_<set>.json`, a folder `<set>` of photographs, and,
where a copy has its own division, `splits/{train,val}_image_ids.txt`.
Sources: Lin et al., Microsoft COCO, ECCV 2014; Chen et al., Microsoft COCO Captions, 2015.
"""

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.readers.files import AnyPath, fields, file_name, identifier, read_json, read_text
from data.records import Box, CaptionedImage, CaptionedText, Instance
from data.words.vocabulary import tokenize

YEARS = ("2014", "2017")
FOLDERS = ("train2014", "val2014", "test2015")
_FILE = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d{12})\.(?:jpg|jpeg|png)$")


def find_root(folder: AnyPath) -> Path:
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
def photographs(folder: Path) -> dict[int, Path]:
    """Image id -> file, for all the photographs under the COCO folder that `folder` belongs to."""
    root = find_root(folder)
    paths = (path for name in FOLDERS for path in sorted((root / name).glob("COCO_*")))
    matches = ((_FILE.match(path.name), path) for path in paths)
    return {int(match[1]): path for match, path in matches if match}


def photograph_of(known: dict[int, Path], image_id: int, where: str) -> Path:
    """The file of image `image_id` among `photographs`; `UserError` when there is none."""
    try:
        return known[identifier(image_id, where)]
    except KeyError:
        raise UserError(
            f"{where}: image id {image_id} has no image among the {len(known)} COCO photographs found; "
            f"expected a file such as COCO_train2014_{image_id!s:0>12}.jpg"
        ) from None


def split_ids(folder: AnyPath, split: str) -> set[str]:
    """`coco:ID` of the photographs in `splits/<split>_image_ids.txt`; empty when there is no such list."""
    path = find_root(folder) / "splits" / f"{split}_image_ids.txt"
    if not path.is_file():
        return set()
    lines = read_text(path).split()
    odd = next((line for line in lines if not line.isdigit()), None)
    if odd is not None:
        raise UserError(f"{path}: '{odd}' is not an image id; expected a whole number a line")
    return {f"coco:{int(line)}" for line in lines}


def read_captions(path: AnyPath, images: AnyPath | None = None, check_images: bool = True) -> list[CaptionedImage]:
    """Images with captions from a captions JSON, by image id; `images` is the folder of photographs.

    The default folder is `../<set>` for `captions_<set>.json`. Raises `UserError` naming the file and entry.
    """
    path = Path(path)
    folder = Path(images) if images else path.parent.parent / path.stem.removeprefix("captions_")
    entries, captions = _captions(path, ("id", "file_name"))
    found = []
    for key in sorted(captions):
        photograph = folder / str(entries[key]["file_name"])
        if check_images and not photograph.is_file():
            raise UserError(f"{path}: image {key} ('{photograph.name}') is listed but is not in {folder}")
        found.append(CaptionedImage(photograph.name, photograph, tuple(captions[key]), f"coco:{key}"))
    return found


def read_texts(path: AnyPath) -> list[CaptionedText]:
    """The captions of a captions JSON without their photographs, by image id.

    An entry of 'images' may have `labels`, the classes of the objects in the photograph.
    """
    entries, captions = _captions(Path(path), ("id",))
    found = []
    for key in sorted(captions):
        labels = entries[key].get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{path}: image {key} has the labels {str(labels)[:40]}; expected a list of names")
        found.append(CaptionedText(f"coco:{key}", tuple(captions[key]), tuple(labels)))
    return found


def _captions(path: Path, keys: tuple[str, ...]) -> tuple[dict[int, dict[str, Any]], dict[int, list[str]]]:
    """The entries of 'images', which have `keys`, and the captions of those that have any, by image id."""
    record = read_json(path, ("images", "annotations"))
    entries = _by_id(record, path, keys)
    captions: dict[int, list[str]] = {}
    for number, note in enumerate(record["annotations"]):
        where = f"{path}: annotations[{number}]"
        image, text = fields(note, ("image_id", "caption"), where)
        if identifier(image, where) not in entries:
            raise UserError(f"{where} is of image {image}, which is not in 'images'")
        if not tokenize(str(text)):
            raise UserError(f"{where} of image {image} has an empty caption")
        captions.setdefault(image, []).append(str(text).strip())
    return entries, captions


def read_instances(path: AnyPath) -> dict[str, list[Instance]]:
    """Objects of each image in an instances JSON, by file name; an empty list for none.

    Raises `UserError` for the first entry that is broken.
    """
    found, problems = sound_instances(path)
    if problems:
        raise UserError(next(iter(problems.values())))
    return found


def sound_instances(path: AnyPath, needed: tuple[str, ...] = ()) -> tuple[dict[str, list[Instance]], dict[str, str]]:
    """The objects of each image whose entries are all sound, by file name, and what is wrong with the others.

    `needed` are keys that an entry must have besides its box. An image with a broken entry is left out, since
    what is in it is not known. Raises `UserError` for a file without the layout, and with the first problem
    when every image is broken.
    """
    path = Path(path)
    record = read_json(path, ("images", "annotations", "categories"))
    entries = _by_id(record, path, ("id", "file_name"))
    classes = {}
    for number, entry in enumerate(record["categories"]):
        where = f"{path}: categories[{number}]"
        key, name = fields(entry, ("id", "name"), where)
        classes[identifier(key, where)] = str(name)
    found: dict[str, list[Instance]] = {str(entry["file_name"]): [] for entry in entries.values()}
    problems: dict[str, str] = {}
    for number, note in enumerate(record["annotations"]):
        where = f"annotations[{number}]"
        image = _image_of(note, entries)
        file = str(image["file_name"]) if image else where
        try:
            fields(note, needed, f"{path}: {where}")
            found.setdefault(file, []).append(_instance(note, image, classes, f"{path}: {where}"))
        except UserError as problem:
            problems.setdefault(file, str(problem))
    kept = {file: these for file, these in found.items() if file not in problems}
    if problems and not kept:
        raise UserError(next(iter(problems.values())))
    return kept, problems


def _image_of(note: Any, entries: dict[Any, dict[str, Any]]) -> dict[str, Any] | None:
    """The entry of the image that an annotation names, if there is one."""
    number = note.get("image_id") if isinstance(note, dict) else None
    return entries.get(number) if isinstance(number, (int, str)) else None


def _instance(note: Any, image: dict[str, Any] | None, classes: dict[int, str], where: str) -> Instance:
    number, category, box = fields(note, ("image_id", "category_id", "bbox"), where)
    if image is None or identifier(category, where) not in classes:
        raise UserError(f"{where} names image {number} and class {category}; one of them is not in the file")
    width, height = fields(image, ("width", "height"), f"{where}: image {number}")
    sides = [*box, width, height] if isinstance(box, list) else []
    if len(sides) != 6 or not all(isinstance(side, (int, float)) for side in sides):
        raise UserError(f"{where} has the box {box} in an image of {width} x {height}; expected x,y,w,h")
    x, y, w, h = box
    return Instance(
        name=classes[category],
        box=Box.of_pixels((x, y, x + w, y + h), (width, height), where),
        crowd=bool(note.get("iscrowd", 0)),
        segmentation=note.get("segmentation"),
        size=(int(height), int(width)),
    )


def read_split(folder: AnyPath, split: str) -> list[tuple[CaptionedImage, list[Instance]]]:
    """The photographs of a split whose instances are known, and these, by file name.

    The split is the copy's own where it has `splits/<split>_image_ids.txt`, else COCO's set of that name. A
    photograph without captions has none.
    """
    notes, photos, chosen = find_split(folder, split)
    said = notes.with_name(notes.name.replace("instances_", "captions_"))
    captions = {c.name: c.captions for c in read_captions(said, photos, False)} if said.is_file() else {}
    found = []
    for name, instances in sorted(read_instances(notes).items()):
        if not chosen(name):
            continue
        if not (photos / name).is_file():
            raise UserError(f"'{photos / name}' is listed in {notes.name} but is not there; give a whole copy of COCO")
        found.append((CaptionedImage(name, photos / name, captions.get(name, ()), image_id_of(name)), instances))
    return found


def captions_kept(folder: AnyPath) -> set[str]:
    """`coco:ID` of the captioned photographs that no training touches, so that captions can be measured on them.

    Of a copy in which fewer than a tenth of the photographs have captions all of these: too few to learn from, and
    enough to measure by. Else those of the validation split.
    """
    found = [image for split in ("train", "val") for image, _ in _split_if_there(folder, split)]
    captioned = {image.image_id for image in found if image.captions}
    if 10 * len(captioned) < len(found):
        return captioned
    return captioned & {image.image_id for image, _ in _split_if_there(folder, "val")}


def read_held_out(folder: AnyPath) -> list[tuple[CaptionedImage, list[Instance]]]:
    """The photographs that no training touches, and their instances: the validation split's, and `captions_kept`."""
    kept = captions_kept(folder)
    others = [pair for pair in _split_if_there(folder, "train") if pair[0].image_id in kept]
    return sorted([*others, *read_split(folder, "val")], key=lambda pair: pair[0].name)


def _split_if_there(folder: AnyPath, split: str) -> list[tuple[CaptionedImage, list[Instance]]]:
    ids = split_ids(folder, split)
    there = any((find_root(folder) / "annotations" / f"instances_{split}{year}.json").is_file() for year in YEARS)
    return read_split(folder, split) if ids or there else []


def has_instances(folder: AnyPath, split: str = "val") -> bool:
    """Whether a copy of COCO has photographs of a split with instances, by its own lists or by COCO's."""
    try:
        find_split(folder, split)
    except UserError:
        return False
    return True


def image_id_of(name: str) -> str:
    """`coco:ID` of a photograph's file."""
    match = _FILE.match(name)
    return f"coco:{int(match[1])}" if match else f"coco:{name}"


def find_split(folder: AnyPath, split: str) -> tuple[Path, Path, Callable[[str], bool]]:
    """(instances JSON, folder of photographs, whether a file of it is of the split), the copy's own or COCO's."""
    try:
        ids = split_ids(folder, split)
    except UserError:  # photographs lie elsewhere than in the published layout
        ids = set()
    notes, photos = find_instances(find_root(folder) if ids else folder, "train" if ids else split)
    return notes, photos, lambda name: not ids or image_id_of(name) in ids


def class_names(path: AnyPath) -> list[str]:
    """The classes of an instances JSON, sorted."""
    categories = read_json(path, ("categories",))["categories"]
    return sorted(str(fields(entry, ("name",), f"{path}: a category")[0]) for entry in categories)


def find_instances(folder: AnyPath, split: str) -> tuple[Path, Path]:
    """(instances JSON, folder of photographs) of 'train' or 'val', of 2014 or 2017, in a copy of COCO.

    Raises `UserError` listing the files that were looked for.
    """
    looked = []
    for year in YEARS:
        notes = Path(folder) / "annotations" / f"instances_{split}{year}.json"
        for place in (Path(folder) / f"{split}{year}", Path(folder) / "images" / f"{split}{year}"):
            if notes.is_file() and place.is_dir():
                return notes, place
            looked.append(f"{notes} with {place}{os.sep}")
    raise UserError(f"no instances of COCO in '{folder}'; looked for {', '.join(looked)}")


def _by_id(record: dict[str, Any], path: Path, keys: tuple[str, ...]) -> dict[int, dict[str, Any]]:
    entries = {}
    for number, entry in enumerate(record["images"]):
        where = f"{path}: images[{number}]"
        key, *_ = fields(entry, keys, where)
        if "file_name" in keys:
            file_name(entry["file_name"], where)
        entries[identifier(key, where)] = entry
    return entries
