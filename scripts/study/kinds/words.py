"""The pair of 5.1 for captions: which word of the caption does this map explain?

The captioner's own captions. Three words of each can be answered, those that owe the picture most; the maps of the
first two are shown, by each method.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common.draw import draw_map
from common.errors import UserError
from common.images import open_image
from common.networks.trunk import fingerprint
from scripts.study.kinds.networks import photograph
from scripts.study.material import Asked, Cell, Material, Pictures, Shown, balanced, drawn, practised, readable

TITLE = "Which word is it?"
QUESTION = "Which word does the map explain?"
MEASURE, OPTIONS = "choice", 3
SHOWN = 2  # words of a caption whose maps are shown
PUBLISHED: dict[str, float] = {}
PUBLISHED_ABOUT = ""
SUFFIXES = (".jpg", ".jpeg", ".png")
# Words that say nothing of what is seen.
_EMPTY = frozenset(
    "a an the of in on at to with and or is are be by for from up down out over under near next his her their its it"
    " some two three four several other while that this there as into through around behind front top side".split()
)


@dataclass(frozen=True)
class _Photo:
    path: Path


def material(asked: Asked, pictures: Pictures) -> Material:
    """Maps of two words of each photograph's caption, by each method."""
    import captioning

    captioner = captioning.load(asked.models[0] or None, device=asked.device)
    files = drawn(photographs(asked), asked.seed)
    each = readable(files, lambda file: _shown(captioner, file, asked, pictures))
    found = list(islice(filter(None, each), asked.needed))  # too short captions are passed over
    count = balanced(asked, len(found), SHOWN * len(asked.methods), f"have captions of at least {OPTIONS} such words")
    practice = [practised(each, number, asked.methods) for number, each in enumerate(found[: asked.practice])]
    weights = fingerprint(captioner.network.module)
    about = {"name": captioner.name, "weights": weights, "layer": captioner.layer or captioner.network.layer}
    return Material(
        found[asked.practice : asked.practice + count],
        practice,
        [{**about, "about": "Words of its own captions."}],
        f"{len(files)} photographs of '{asked.photos.name}'",
    )


def photographs(asked: Asked) -> list[Path]:
    """The photographs of VOC's split, or those that lie in a folder. Raises `UserError` where there are none."""
    from data.readers import voc

    try:
        root = voc.find_root(asked.photos)
    except UserError:
        files = [file for file in asked.photos.glob("*") if file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(f"no photographs in '{asked.photos}'; give a folder with {', '.join(SUFFIXES)}") from None
        return sorted(files)
    return [item.path for item in voc.read(root, asked.split).items]


def chosen_words(words: Iterable[str], visual: Iterable[float]) -> list[int]:
    """The places of the three words that owe the picture most, the most visual one first; fewer where there are none.

    >>> chosen_words(["a", "dog", "on", "green", "grass"], [9.0, 2.0, 3.0, 0.5, 1.0])
    [1, 4, 3]
    """
    first: dict[str, tuple[float, int]] = {}
    for place, (word, value) in enumerate(zip(words, visual, strict=True)):
        if word not in _EMPTY and word.isalpha():
            first.setdefault(word, (-value, place))
    return [place for _, place in sorted(first.values())[:OPTIONS]]


def _shown(captioner: Any, file: Path, asked: Asked, pictures: Pictures) -> Shown | None:
    """A photograph's cells: method by word. None where the caption has too few words that can be told apart."""
    image = open_image(file)
    caption = captioner.caption(image)
    explanation = captioner.explain(image, caption, methods=",".join(asked.methods))
    words = list(caption.words)
    known = explanation.visual  # None where the network can't say: then the caption's first words
    visual = [0.0] * len(words) if known is None else known[1 : len(words) + 1, 0].tolist()
    places = chosen_words(words, visual)
    if len(places) < OPTIONS:
        return None
    photo, options = photograph(_Photo(file)), tuple(words[place] for place in sorted(places))
    said = f"The network said: {' '.join(words)}"
    cells = []
    for method in asked.methods:
        for place in places[:SHOWN]:
            picture = pictures.add(draw_map(method, photo, explanation.maps[method][place + 1, 0]))
            truth = {"target": words[place], "right": options.index(words[place])}
            cells.append(Cell(method, (picture,), options, truth, said, f"It was the map of '{words[place]}'."))
    return Shown(file.name, tuple(cells))
