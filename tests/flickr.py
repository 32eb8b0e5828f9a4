"""A tiny copy of Flickr8k's layout, drawn: coloured squares on plain grounds, with captions that say so."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 60, 220), "white": (245, 245, 245)}


def make(folder: Path, train: int = 12, dev: int = 4) -> Path:
    """Write `train` + `dev` images with five captions each; returns the folder."""
    photographs, text = folder / "Flicker8k_Dataset", folder / "Flickr8k_text"
    photographs.mkdir(parents=True)
    text.mkdir()
    names = [f"{1000 + i}_{i:04x}.jpg" for i in range(train + dev)]
    lines = []
    for i, name in enumerate(names):
        ground, square = list(COLOURS)[i % 4], list(COLOURS)[(i // 4 + i + 1) % 4]
        pixels = np.empty((48, 48, 3), np.uint8)
        pixels[:] = COLOURS[ground]
        pixels[8:28, 8 + i % 8 : 28 + i % 8] = COLOURS[square]
        Image.fromarray(pixels).save(photographs / name)
        for number, caption in enumerate(
            (
                f"A {square} square on a {ground} ground .",
                f"The {square} square .",
                f"A {square} box lies on {ground} paper .",
                f"There is a {square} square on {ground} paper .",
                f"A small {square} square",
            )
        ):
            lines.append(f"{name}#{number}\t{caption}")
    (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (text / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:train]) + "\n")
    (text / "Flickr_8k.devImages.txt").write_text("\n".join(names[train:]) + "\n")
    return folder
