"""Captions of regions: those people wrote (Visual Genome), and those a model wrote (DenseCap's output).

Visual Genome: `region_descriptions.json`, [{"id": 1, "regions": [{"phrase", "x", "y", "width", "height"}]}],
photographs `VG_100K/1.jpg` or `VG_100K_2/1.jpg`, and `image_data.json` with the sizes that boxes are in pixels of.
DenseCap: `results.json`, {"results": [{"img_name", "boxes": [[x, y, w, h]], "captions", "scores"}], "opt"}, beside the
photographs; boxes are in pixels of the photograph scaled to a longer side of `opt.image_size`.
Sources: Krishna et al., Visual Genome (IJCV 2017); Johnson et al., DenseCap (CVPR 2016).
"""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from common.errors import UserError
from common.printed import printable
from data.readers.files import AnyPath, Reading, check_image, fields, file_name, read_each, read_json
from data.records import Box, DescribedImage, Region

REGIONS, SIZES = "region_descriptions.json", "image_data.json"
FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", "images", "")
RESULTS = ("results.json", "vis/data/results.json", "data/results.json")
LONGER = 720  # pixels of the longer side that DenseCap scales a photograph to, where it does not say


def read_visual_genome(folder: AnyPath, limit: int | None = None, seed: int = 0) -> Reading[DescribedImage]:
    """`limit` photographs of those at hand, drawn with `seed`, each with all its regions.

    What is broken is noted and left out. Raises `UserError` for a missing file and when no photograph is there.
    """
    entries = _list(Path(folder) / REGIONS)
    sizes = _sizes(Path(folder) / SIZES)
    known = {path.stem: path for place in FOLDERS for path in (Path(folder) / place).glob("*.jpg")}
    there = [entry for entry in entries if isinstance(entry, dict) and str(entry.get("id")) in known]
    if not there:
        raise UserError(f"no photograph of {REGIONS} in '{folder}'; expected files such as VG_100K/1.jpg in it")

    def read(entry: dict[str, Any]) -> DescribedImage:
        path = known[str(entry["id"])]
        size = sizes.get(str(entry["id"])) or _size(path)
        where = f"{REGIONS}, image {entry['id']}"
        regions, keys = fields(entry, ("regions",), where)[0], ("phrase", "x", "y", "width", "height")
        if not isinstance(regions, list):
            raise UserError(f"{where}: regions is a list")
        found = (fields(region, keys, where) for region in regions)
        return DescribedImage(path, _regions(((text, box) for text, *box in found), size, where))

    return read_each(random.Random(seed).sample(there, len(there)), read, limit)


def read_densecap(folder: AnyPath, limit: int | None = None) -> Reading[DescribedImage]:
    """The photographs that DenseCap described, in the order of its file, the region it is surest of first.

    `folder` holds `results.json`, or is that file. Raises `UserError` as `read_visual_genome` does.
    """
    places = [Path(folder), *(Path(folder) / place for place in RESULTS)]
    path = next((place for place in places if place.is_file()), places[1])
    record = read_json(path, ("results",))
    options = record.get("opt")
    longer = options.get("image_size", LONGER) if isinstance(options, dict) else LONGER
    if not isinstance(longer, (int, float)) or not 0 < longer < 1e6:
        raise UserError(f"{path}: image_size is {printable(repr(longer), 40)}; expected pixels of the longer side")

    def read(entry: Any) -> DescribedImage:
        name, boxes, captions = fields(entry, ("img_name", "boxes", "captions"), str(path))
        where = f"{path.name}, {file_name(name, path.name)}"
        if not isinstance(boxes, list) or not isinstance(captions, list):
            raise UserError(f"{where}: boxes and captions are lists")
        scores = entry.get("scores", [0] * len(boxes))
        if not isinstance(scores, list) or not all(
            isinstance(score, (int, float)) and abs(score) < 1e9 for score in scores
        ):
            raise UserError(f"{where}: scores is a list of numbers")
        if not len(boxes) == len(captions) == len(scores):
            raise UserError(f"{where} has {len(boxes)} boxes, {len(captions)} captions and {len(scores)} scores")
        sides = _size(path.parent / name)
        size = (longer * sides[0] / max(sides), longer * sides[1] / max(sides))
        ranked = sorted(range(len(boxes)), key=lambda n: -float(scores[n]))
        return DescribedImage(path.parent / name, _regions(((captions[n], boxes[n]) for n in ranked), size, where))

    return read_each(record["results"], read, limit)


def _regions(found: Iterable[tuple[str, Any]], size: tuple[float, float], where: str) -> tuple[Region, ...]:
    regions = []
    for text, box in found:
        try:
            x, y, width, height = (float(side) for side in box)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where}: the box {printable(box, 60)} is not x, y, width, height in pixels") from None
        if not str(text).strip():
            raise UserError(f"{where}: a region has an empty caption")
        regions.append(Region(str(text).strip(), (Box.of_pixels((x, y, x + width, y + height), size, where),)))
    return tuple(regions)


def _size(path: Path) -> tuple[int, int]:
    """Width and height in pixels."""
    check_image(path)
    with Image.open(path) as image:
        return image.size


def _list(path: Path) -> list[Any]:
    record = read_json(path)
    if not isinstance(record, list):
        raise UserError(f"{path} is no list of images; expected Visual Genome's published layout")
    return record


def _sizes(path: Path) -> dict[Any, tuple[int, int]]:
    """Width and height that boxes are in pixels of, by image; empty without the file."""
    if not path.is_file():
        return {}
    rows = (fields(entry, ("image_id", "width", "height"), str(path)) for entry in _list(path))
    return {str(number): (width, height) for number, width, height in rows}
