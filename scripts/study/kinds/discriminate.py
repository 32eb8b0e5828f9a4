"""Section 5.1: which of the two objects of a photograph is shown? A picture tells classes apart, or it doesn't.

Photographs with exactly two categories; each is explained for both, by each method. A person sees of each photograph
one of these pictures, not the photograph itself.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from common.draw import draw_map
from common.errors import UserError
from scripts import console as cli
from scripts.experiments.annotated import Annotated
from scripts.study.kinds.networks import Network, photograph, spoken
from scripts.study.material import Asked, Cell, Material, Pictures, Shown, balanced, drawn, practised, readable

TITLE = "What does the picture show?"
QUESTION = "Which of the two objects is shown?"
MEASURE, OPTIONS = "choice", 2
PUBLISHED = {  # section 5.1: VGG-16 and AlexNet, VOC 2007 val, 90 image-category pairs, 43 raters
    "guided_gradcam": 0.6123, "guided": 0.4444, "deconv_gradcam": 0.6037, "deconv": 0.5333,
}  # fmt: skip
PUBLISHED_ABOUT = "Section 5.1: VGG-16 and AlexNet on VOC 2007 val, 90 image-category pairs, 43 raters."


def material(asked: Asked, pictures: Pictures) -> Material:
    """Pictures of both categories of each photograph, by each method."""
    network = Network.of(asked, asked.models[0])
    pairs = drawn([item for item in network.data.items if network.knows_pair(item)], asked.seed)
    if not pairs:
        raise UserError(
            f"no photograph of {network.data.title} shows exactly two categories that {network.model} can be asked"
            " about; give photographs with boxes of more categories"
        )
    found = list(islice(readable(pairs, lambda item: shown(network, item, asked, pictures)), asked.needed))
    what = f"of {network.data.title} show exactly two categories that {network.model} can be asked about"
    count = balanced(asked, len(found), 2 * len(asked.methods), what)
    practice, used = found[: asked.practice], found[asked.practice : asked.practice + count]
    notes = [*network.notes(asked.methods), *_empty(used)]
    for note in notes:
        cli.report(note)
    return Material(
        used,
        [practised(each, number, asked.methods) for number, each in enumerate(practice)],
        [network.about],
        f"{network.data.title}, photographs with exactly two categories",
        notes,
    )


def _empty(found: list[Shown]) -> list[str]:
    """How many pictures show nothing, where any do: people can but guess what of."""
    cells = [cell for each in found for cell in each.cells]
    empty = sum(bool(cell.truth.get("empty")) for cell in cells)
    return [f"{empty} of {len(cells)} pictures are empty: nothing raises the category's score there"] if empty else []


def shown(network: Network, item: Annotated, asked: Asked, pictures: Pictures) -> Shown:
    """A photograph's cells: method by category."""
    names, photo = tuple(item.boxes), photograph(item)
    maps = network.maps(item, names, asked.methods)
    cells = [
        _cell(method, names, right, pictures.add(draw_map(method, photo, values[right])), not values[right].any())
        for method, values in maps.items()
        for right in range(len(names))
    ]
    return Shown(item.path.name, tuple(cells))


def _cell(method: str, names: tuple[str, ...], right: int, picture: str, empty: bool) -> Cell:
    truth: dict[str, Any] = {"target": names[right], "right": right, **({"empty": True} if empty else {})}
    options = tuple(map(spoken, names))
    return Cell(method, (picture,), options, truth, feedback=f"The network was asked for: {options[right]}.")
