"""Karpathy's split files (`dataset_flickr8k.json`, `dataset_flickr30k.json`, `dataset_coco.json`).

Karpathy and Fei-Fei 2015. Each image has a file name, a split (train, restval, val, test) and its sentences.
"""

from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath, fields, file_name, read_json
from data.records import CaptionedImage
from data.words.vocabulary import tokenize

SPLITS = ("train", "restval", "val", "test")


def read(path: AnyPath, images: AnyPath, split: str, check_images: bool = True) -> list[CaptionedImage]:
    """The images of one split with their captions, in the file's order; `images` holds the photographs.

    `dev` is another name of `val`. Raises `UserError` naming the file and entry that is broken.
    """
    split = {"dev": "val"}.get(split, split)
    if split not in SPLITS:
        raise UserError(f"no split '{split}' in Karpathy's files; choose from {', '.join(SPLITS)}")
    found = []
    for number, entry in enumerate(read_json(path, ("images",))["images"]):
        place = f"{path}: images[{number}]"
        file, part, sentences = fields(entry, ("filename", "split", "sentences"), place)
        if part != split:
            continue
        photograph = Path(images, str(entry.get("filepath", ""))[:255], file_name(file, place))
        said = sentences if isinstance(sentences, list) else ()
        captions = tuple(str(s.get("raw", "")).strip() for s in said if isinstance(s, dict))
        if not captions or not all(tokenize(caption) for caption in captions):
            raise UserError(f"{place} ('{photograph.name}') has an empty caption, or none")
        if check_images and not photograph.is_file():
            raise UserError(f"{place} ('{photograph.name}') is listed but is not in {photograph.parent}")
        found.append(CaptionedImage(photograph.name, photograph, captions))
    if not found:
        raise UserError(f"{path} has no image in the split '{split}'")
    return found
