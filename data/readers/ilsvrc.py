"""ILSVRC's validation set: photographs, the XML files of its boxes, and the numbers of its classes.

Photographs `ILSVRC2012_val_00000001.JPEG`, in one folder or in one for each class; boxes
`ILSVRC2012_val_00000001.xml`, in which `<name>` is the WordNet id of the photograph's class.
Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge (IJCV 2015).
"""

import re
from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath, Reading, check_image, find_folder, read_each, read_json, read_text
from data.readers.pascal_xml import read_instances
from data.records import LocalisedImage

PHOTOGRAPHS = ("val", "ILSVRC2012_img_val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val")
BOXES = (
    "bbox_val_v3/val",
    "ILSVRC2012_bbox_val_v3/val",
    "bbox/val",
    "Annotations/CLS-LOC/val",
    "ILSVRC/Annotations/CLS-LOC/val",
)
CLASS_FILES = ("LOC_synset_mapping.txt", "imagenet_class_index.json", "ILSVRC/LOC_synset_mapping.txt")
_PHOTOGRAPH = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG", re.IGNORECASE)
_WNID = re.compile(r"n\d{8}")


def read_validation(folder: AnyPath, limit: int | None = None) -> Reading[LocalisedImage]:
    """The validation photographs with their boxes, by number; classes are WordNet ids.

    What is broken is noted and left out. Raises `UserError` listing the folders that were looked for.
    """
    photographs = find_folder(folder, PHOTOGRAPHS, "ILSVRC validation photographs")
    boxes = find_folder(folder, BOXES, "ILSVRC box files")
    files = {
        path.stem: path
        for path in [*photographs.glob("*.*"), *photographs.glob("n????????/*.*")]
        if _PHOTOGRAPH.fullmatch(path.name)
    }
    if not files:
        raise UserError(f"no ILSVRC2012_val_*.JPEG in '{photographs}' nor in its folders of classes")

    def read(name: str) -> LocalisedImage:
        check_image(files[name])
        instances = read_instances(boxes / f"{name}.xml")
        if len({each.name for each in instances}) != 1 or not _WNID.fullmatch(instances[0].name):
            given = ", ".join(dict.fromkeys(each.name for each in instances)) or "none"
            raise UserError(f"{boxes / name}.xml: its objects are {given}; expected one WordNet id")
        return LocalisedImage(name, files[name], instances)

    return read_each(sorted(files), read, limit)


def class_indices(folder: AnyPath) -> dict[str, int] | None:
    """The number of each WordNet id in a network's output, by a class file beside the data; None without one.

    `LOC_synset_mapping.txt` has a class a line, `imagenet_class_index.json` is
    {"0": ["n01440764", "tench"], ...}.
    """
    for name in CLASS_FILES:
        path = Path(folder) / name
        if path.is_file():
            return read_class_indices(path)
    return None


def read_class_indices(path: AnyPath) -> dict[str, int]:
    """The number of each WordNet id, from one of the published class files."""
    try:
        if Path(path).suffix == ".json":
            found = {str(entry[0]): int(number) for number, entry in read_json(path).items()}
        else:
            lines = [line for line in read_text(path).splitlines() if line.strip()]
            found = {line.split()[0]: number for number, line in enumerate(lines)}
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise UserError(f"'{path}' is not a list of ILSVRC's classes ({error})") from error
    odd = next((wnid for wnid in found if not _WNID.fullmatch(wnid)), None)
    if odd is not None or not found:
        raise UserError(f"{path}: '{odd or ''}' is not a WordNet id such as n01440764")
    return found
