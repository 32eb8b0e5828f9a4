"""PASCAL VOC 2007 and 2012: box XML, image sets, and segmentations as PNGs with a palette.

`Annotations/2007_000027.xml`, `JPEGImages/2007_000027.jpg`, `ImageSets/Main/val.txt`,
`ImageSets/Segmentation/val.txt`, `SegmentationClass/2007_000027.png`. Everingham et al. (IJCV 2010, 2015).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from data.readers.files import AnyPath, Reading, check_image, read_each
from data.readers.pascal_xml import read_instances
from data.records import LocalisedImage

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip  # class i of a segmentation is CLASSES[i - 1]
YEARS = ("2012", "2007")
UNDECIDED = 255


def find_root(folder: AnyPath, years: tuple[str, ...] = YEARS) -> Path:
    """The folder that holds Annotations and JPEGImages: `folder` itself or a VOCdevkit's inside it.

    Of several years in one folder, that which comes first in `years`.
    """
    places = ["", *(f"{above}VOC{year}" for year in years for above in ("", "VOCdevkit/"))]
    for place in places:
        root = Path(folder) / place
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            return root
    looked = ", ".join(str(Path(folder) / place) for place in places)
    raise UserError(f"no Annotations and JPEGImages together in '{folder}'; looked in {looked}")


def has_split(root: Path, split: str, task: str = "Main") -> bool:
    """Whether a split has a list and its first photograph an annotation (VOC 2012's test split has none)."""
    listing = root / "ImageSets" / task / f"{split}.txt"
    first = listing.read_text(encoding="utf-8").split()[:1] if listing.is_file() else []
    return bool(first) and (root / "Annotations" / f"{first[0]}.xml").is_file()


def read(folder: AnyPath, split: str = "val", task: str = "Main", limit: int | None = None) -> Reading[LocalisedImage]:
    """The photographs of one split with their boxes, in the order of its list; broken ones are noted.

    `task` 'Segmentation' reads that list, whose photographs have segmentations.
    Raises `UserError` naming the list that was looked for.
    """
    root = find_root(folder)
    listing = root / "ImageSets" / task / f"{split}.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        known = ", ".join(sorted(path.stem for path in listing.parent.glob("*.txt"))[:8]) or "none"
        raise UserError(f"no list '{listing}'; the splits there are: {known}") from None

    def read_one(name: str) -> LocalisedImage:
        photograph, mask = root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png"
        check_image(photograph)
        instances = read_instances(root / "Annotations" / f"{name}.xml", first_pixel=1)
        odd = [each.name for each in instances if each.name not in CLASSES]
        if odd:
            raise UserError(f"{root / 'Annotations' / name}.xml: '{odd[0]}' is not a class of VOC")
        if task == "Segmentation" and not mask.is_file():
            raise UserError(f"'{mask}' is missing, though {listing.name} lists it")
        return LocalisedImage(name, photograph, instances, mask if mask.is_file() else None)

    return read_each((line.split()[0] for line in lines if line.strip()), read_one, limit)


def read_mask(path: AnyPath) -> np.ndarray:
    """A segmentation (H, W), uint8: 0 background, 1 to 20 `CLASSES`, 255 undecided; the palette's numbers.

    Raises `UserError` for a PNG whose palette was lost (saved again as RGB).
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(f"{path}: is {image.mode}, not a PNG with a palette; copy the published file")
            labels = np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # decoders raise a dozen types
        raise UserError(f"cannot read the segmentation {path}: {error}") from error
    odd = np.setdiff1d(labels, [*range(len(CLASSES) + 1), UNDECIDED])
    if len(odd):
        raise UserError(f"{path}: holds the number {odd[0]}; expected 0 to {len(CLASSES)} and {UNDECIDED}")
    return labels
