"""A tiny copy of COCO's layout, drawn: one colour for each class, with boxes, captions of some, captions without."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.words.coco_classes import CLASSES

SHOWN = {"dog": (160, 90, 30), "cat": (90, 90, 90), "pizza": (240, 190, 40), "bus": (200, 30, 30)}


def make(folder: Path, train: int = 12, val: int = 4, captioned: int = 1) -> Path:
    """Photograph i shows class i % 4, once or twice; the first `captioned` have captions. Returns the folder."""
    for name in ("train2014", "annotations", "splits"):
        (folder / name).mkdir(parents=True)
    images, boxes, captions = [], [], []
    for i in range(train + val):
        images.append({"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": 64, "height": 64})
        name = list(SHOWN)[i % 4]
        pixels = np.full((64, 64, 3), 250, np.uint8)
        for j in range(1 + i // 4 % 2):
            x = 4 + 30 * j
            pixels[20:50, x : x + 24] = SHOWN[name]
            box = {"image_id": i, "category_id": CLASSES.index(name), "bbox": [x, 20, 24, 30]}
            boxes.append({"id": len(boxes), **box})
        Image.fromarray(pixels).save(folder / "train2014" / images[-1]["file_name"])
        if i < captioned:
            captions.append({"id": i, "image_id": i, "caption": f"A {name} on white paper."})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    _write(folder / "annotations/instances_train2014.json", images, boxes, categories)
    _write(folder / "annotations/captions_train2014.json", images, captions)
    told = [{"id": 900 + i, "labels": [list(SHOWN)[i % 4]]} for i in range(12)]
    said = [{"id": i, "image_id": 900 + i, "caption": f"a {list(SHOWN)[i % 4]} on a street"} for i in range(12)]
    _write(folder / "annotations/captions_without_photographs.json", told, said)
    for split, ids in (("train", range(train)), ("val", range(train, train + val))):
        (folder / "splits" / f"{split}_image_ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    return folder


def _write(path: Path, images: list, annotations: list, categories: list | None = None) -> None:
    record = {"images": images, "annotations": annotations, **({"categories": categories} if categories else {})}
    path.write_text(json.dumps(record))
