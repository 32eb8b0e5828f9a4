"""Flickr8k in its published layout: a folder of photographs and `Flickr8k_text` with captions and splits.

Hodosh, Young and Hockenmaier 2013. A line of `Flickr8k.token.txt` is `<image>#<number><TAB><caption>`;
`Flickr_8k.{train,dev,test}Images.txt` list one image a line.
"""

from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath, find_folder, read_text
from data.records import CaptionedImage
from data.words.vocabulary import tokenize

SPLITS = {"train": "Flickr_8k.trainImages.txt", "dev": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
PHOTOGRAPHS = ("Flicker8k_Dataset", "Flickr8k_Dataset")
MAX_WORDS = 200
_ADVICE = "give the folder of a copy of Flickr8k"


def read(folder: AnyPath, split: str, check_images: bool = True) -> list[CaptionedImage]:
    """The images of one split with their captions, in the order of the split's list.

    Raises `UserError` naming file and line for a broken line, an empty caption, an image listed twice,
    an image without captions, and a photograph that is not there.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise UserError(f"no split '{split}' in Flickr8k; choose from {', '.join(SPLITS)}")
    captions = read_captions(folder / "Flickr8k_text" / "Flickr8k.token.txt")
    photographs = find_folder(folder, PHOTOGRAPHS, "photographs of Flickr8k")
    listing = folder / "Flickr8k_text" / SPLITS[split]
    images = []
    for number, name in read_list(listing):
        if name not in captions:
            raise UserError(f"{listing}:{number}: image '{name}' has no caption in Flickr8k.token.txt")
        if check_images and not (photographs / name).is_file():
            raise UserError(f"{listing}:{number}: image '{name}' is listed but is not in {photographs}")
        image_id = f"flickr8k:{Path(name).stem}"
        images.append(CaptionedImage(name, photographs / name, tuple(captions[name]), image_id))
    if not images:
        raise UserError(f"{listing} lists no image; expected one file name a line")
    return images


def read_captions(path: AnyPath) -> dict[str, list[str]]:
    """Captions of each image in a `Flickr8k.token.txt`, or Flickr30k's `.token`, in the order of the file."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path, _ADVICE).splitlines(), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        name, mark, index = key.rpartition("#")
        if not tab or not mark or not name or not index.isdigit():
            raise UserError(f"{path}:{number}: expected '<image>#<number><TAB><caption>', received '{line[:60]}'")
        words = tokenize(caption)
        if not words:
            raise UserError(f"{path}:{number}: the caption of '{name}' is empty; write one or drop the line")
        if len(words) > MAX_WORDS:
            raise UserError(f"{path}:{number}: a caption of {len(words)} words; at most {MAX_WORDS} are read")
        captions.setdefault(name, []).append(caption.strip())
    return captions


def read_list(path: AnyPath) -> list[tuple[int, str]]:
    """(line number, image name) pairs of a split's list."""
    entries: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path, _ADVICE).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if name in seen:
            raise UserError(f"{path}:{number}: image '{name}' is listed twice, first on line {seen[name]}")
        seen[name] = number
        entries.append((number, name))
    return entries
