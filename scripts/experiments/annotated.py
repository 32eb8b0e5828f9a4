"""VOC and COCO as the experiments see them: photographs, the classes in them and where these are.

H,W a photograph's own size in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from classification.finetuning import Labelled
from common.errors import UserError
from common.metrics.grounding import SIZE, box_mask
from data.readers import coco, voc
from data.readers.files import check_image, read_each
from data.readers.masks import mask_of
from data.records import Box, Instance, LocalisedImage
from scripts.experiments.lab import Lab, spread

BOXES = ", boxes"  # ends the title of data without masks


@dataclass(frozen=True)
class Annotated:
    """A photograph, and of each class in it the total area of its objects as a share, and where they are.

    `boxes` are around its objects, one each; crowds have none.
    """

    path: Path
    regions: Callable[[], dict[str, tuple[float, Tensor]]]  # Tensor (H, W), boolean; reads when called
    boxes: Mapping[str, Sequence[Box]]
    unsure: frozenset[str] = frozenset()  # classes that are in it, nobody knows where


@dataclass(frozen=True)
class Annotations:
    """The photographs that are measured on, how many were broken, and those to train a classifier on."""

    title: str
    names: Sequence[str]
    items: list[Annotated]
    left_out: int
    training: Callable[[int], list[Labelled]]  # at most so many


def voc_annotations(lab: Lab, count: int | None, split: str | None = None) -> Annotations:
    """VOC's boxes of a split, of 2007 where it is at hand; left out, its test split where there is one, else val."""
    root = voc.find_root(lab.need("voc"), ("2007", "2012"))
    split = split or ("test" if voc.has_split(root, "test") else "val")
    reading = voc.read(root, split, "Main", count)
    return Annotations(
        " ".join(f"VOC {root.name.removeprefix('VOC')} {split}".split()),
        voc.CLASSES,
        [_voc_item(item) for item in reading.items],
        len(reading.problems),
        partial(voc_training, root, "trainval" if split == "test" else "train"),
    )


def voc_training(root: Path, split: str, most: int) -> list[Labelled]:
    """Photographs of a split with the classes in them, without those of the segmentation's val split."""
    listing = root / "ImageSets" / "Segmentation" / "val.txt"
    held = set(listing.read_text(encoding="utf-8").split()) if listing.is_file() else set()
    items = [item for item in voc.read(root, split, "Main").items if split != "train" or item.name not in held]
    chosen = spread(items, most)
    return [Labelled(item.path, frozenset(map(voc.CLASSES.index, item.classes))) for item in chosen]


def _voc_item(item: LocalisedImage) -> Annotated:
    return Annotated(item.path, partial(_boxed, item), {name: item.boxes(name) for name in item.classes})


def coco_annotations(lab: Lab, count: int) -> Annotations:
    """COCO's masks, of its val split or of that of the copy's own; boxes where the copy has no outlines."""
    folder = lab.need("coco")
    notes, photographs, chosen = coco.find_split(folder, "val")
    known, problems = coco.sound_instances(notes)
    known = {file: these for file, these in known.items() if chosen(file)}
    outlined = any(each.segmentation is not None for these in known.values() for each in these)
    lacking = {f for f, these in known.items() if outlined and any(each.segmentation is None for each in these)}
    regions = _masked if outlined else _boxed_instances

    def photograph(file: str) -> Annotated:
        check_image(photographs / file)
        return Annotated(photographs / file, partial(regions, known[file]), _own_boxes(known[file]))

    wanted = [file for file in sorted(known) if known[file] and file not in lacking]
    try:
        reading = read_each(wanted, photograph, count)
    except UserError as problem:
        raise UserError(f"no photograph in '{photographs}' goes with '{notes}' ({problem})") from problem
    names = coco.class_names(notes)
    left_out = len([file for file in problems if chosen(file)]) + len(lacking) + len(reading.problems)
    title = f"COCO {photographs.name}{'' if outlined else BOXES}"
    return Annotations(title, names, reading.items, left_out, partial(coco_training, folder, names))


def coco_training(folder: Path, names: Sequence[str], most: int) -> list[Labelled]:
    """Photographs of the train split with the classes in them."""
    notes, photographs, chosen = coco.find_split(folder, "train")
    found = [
        Labelled(photographs / file, frozenset(names.index(each.name) for each in instances))
        for file, instances in sorted(coco.read_instances(notes).items())
        if instances and chosen(file) and (photographs / file).is_file()
    ]
    return spread(found, most)


def _own_boxes(instances: Sequence[Instance]) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    for each in instances:
        if not each.crowd:
            found.setdefault(each.name, []).append(each.box)
    return found


def _boxed_instances(instances: Sequence[Instance]) -> dict[str, tuple[float, Tensor]]:
    return boxed_regions(_own_boxes(instances), instances[0].size)


def _boxed(item: LocalisedImage) -> dict[str, tuple[float, Tensor]]:
    with Image.open(item.path) as image:
        size = (image.height, image.width)
    return boxed_regions({name: item.boxes(name) for name in item.classes}, size)


def boxed_regions(boxes: Mapping[str, Sequence[Box]], size: tuple[int, int] = SIZE) -> dict[str, tuple[float, Tensor]]:
    """Of each class the total area of its boxes as a share, and where they are: (H, W) of `size`."""
    return {name: (sum(box.area for box in these), box_mask(these, size)) for name, these in boxes.items()}


def _masked(instances: Sequence[Instance]) -> dict[str, tuple[float, Tensor]]:
    """Raises `UserError` for a segmentation that is none."""
    found: dict[str, tuple[float, Tensor]] = {}
    for each in instances:
        mask = torch.from_numpy(mask_of(each))
        area, region = found.get(each.name, (0.0, torch.zeros_like(mask)))
        found[each.name] = (area + float(mask.double().mean()), region | mask)
    return found
