"""Section 5.2: two networks that say the same, and are right: which seems more reasonable?

A strong and a weak network; photographs of which both name the same category, one that is there. A person sees for
each photograph the two networks' pictures by one method, side by side, and rates from 'A, clearly' to 'B, clearly'.
The strong network is A as often as B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from common.draw import draw_map
from common.errors import UserError
from common.metrics.grounding import box_mask
from scripts import console as cli
from scripts.experiments.annotated import Annotated
from scripts.experiments.lab import spread
from scripts.study.kinds.networks import Network, photograph, spoken
from scripts.study.material import Asked, Cell, Material, Pictures, Shown, balanced, drawn, readable

TITLE = "Which robot is more reasonable?"
QUESTION = "Which robot's picture is the more reasonable ground for its answer?"
MEASURE, OPTIONS = "rating", 5
SCALE = ("A, clearly", "A, slightly", "both alike", "B, slightly", "B, clearly")
HALF = 0.5  # of a photograph, that an object covers at most where there is practice with it
MOST = 1000  # photographs that both networks are asked about
PUBLISHED = {"guided_gradcam": 1.27, "guided": 1.00}
PUBLISHED_ABOUT = (
    "Section 5.2: VGG-16 (79.09 mAP) against AlexNet (69.20) on VOC 2007, 54 raters, from -2 (AlexNet clearly) to +2."
)


@dataclass(frozen=True)
class Agreed:
    """A photograph of which both networks say the same category, one that is in it."""

    item: Annotated
    name: str

    @property
    def share(self) -> float:
        """The share of the photograph that the object's boxes cover."""
        return float(self.mask((64, 64)).mean())

    def mask(self, size: tuple[int, int]) -> Tensor:
        """1 within the object's boxes, 0 without, at a map's size (h, w); of fine maps with soft edges."""
        sides = torch.tensor([list(box) for box in self.item.boxes[self.name]])
        inside = box_mask(sides, size).float()[None, None]
        width = 2 * (min(size) // 16) + 1
        for _ in range(2):
            inside = avg_pool2d(inside, width, 1, width // 2, count_include_pad=False)
        return inside[0, 0]


def material(asked: Asked, pictures: Pictures) -> Material:
    """Both networks' pictures of what both rightly say, by each method."""
    strong, weak = (Network.of(asked, model) for model in asked.models)
    every = spread(strong.data.items, MOST)
    said = list(readable(every, lambda item: (item, strong.said(item), weak.said(item))))
    agreed = [Agreed(item, one) for item, one, other in said if one == other and one in item.boxes]
    if not agreed:
        raise UserError(
            f"{strong.model} and {weak.model} never agree on a category that is there, in {len(said)} photographs of"
            f" {strong.data.title}; give other networks or photographs of classes that they know"
        )
    count = balanced(asked, len(agreed), 2 * len(asked.methods), "have both networks say the same category, rightly")
    chosen = drawn(agreed, asked.seed)
    # Practice needs something beside the object.
    practice = sorted(chosen, key=lambda each: each.share > HALF)[: asked.practice]
    used = [each for each in chosen if each not in practice][:count]
    notes = [_accuracy(strong, weak, said), *strong.notes(asked.methods), *weak.notes(asked.methods)]
    for note in notes:
        cli.report(note)
    return Material(
        [_shown((strong, weak), each, asked, pictures) for each in used],
        [_practised(strong, each, number, asked, pictures) for number, each in enumerate(practice)],
        [strong.about, weak.about],
        f"{strong.data.title}, photographs of which both networks say the same category, rightly",
        notes,
    )


def _accuracy(strong: Network, weak: Network, said: Sequence[tuple[Annotated, str, str]]) -> str:
    """Who is right how often, and whether the strong one is the stronger."""
    shares = [sum(each[place] in each[0].boxes for each in said) / len(said) for place in (1, 2)]
    told = f"{strong.model} names a category that is there on {shares[0]:.1%}, {weak.model} on {shares[1]:.1%}"
    doubt = "" if shares[0] > shares[1] else "; the one that was called strong is not the better one"
    return f"{told} of {len(said)} photographs{doubt}"


def _shown(networks: tuple[Network, Network], agreed: Agreed, asked: Asked, pictures: Pictures) -> Shown:
    """A photograph's cells: method by the side on which the strong network stands."""
    photo, cells = photograph(agreed.item), []
    both = [network.maps(agreed.item, [agreed.name], asked.methods) for network in networks]
    for method in asked.methods:
        strong, weak = (pictures.add(draw_map(method, photo, maps[method][0])) for maps in both)
        cells += [_cell(method, agreed.name, (strong, weak), "A"), _cell(method, agreed.name, (weak, strong), "B")]
    return Shown(agreed.item.path.name, tuple(cells))


def _cell(method: str, name: str, images: tuple[str, str], strong: str, feedback: str = "") -> Cell:
    about = f"Both robots said, rightly: {spoken(name)}"
    return Cell(method, images, SCALE, {"target": name, "strong": strong}, about, feedback)


def _practised(network: Network, agreed: Agreed, number: int, asked: Asked, pictures: Pictures) -> Shown:
    """One pair to practise on: the same map within the object's boxes and without them, so that one is right."""
    method = asked.methods[number % len(asked.methods)]
    values = network.maps(agreed.item, [agreed.name], [method])[method][0]
    within, without = _parted(values, agreed)
    photo = photograph(agreed.item)
    names = [pictures.add(draw_map(method, photo, each)) for each in (within, without)]
    better = "AB"[number % 2]
    images = (names[0], names[1]) if better == "A" else (names[1], names[0])
    told = f"Most would say {better}: its picture lies on the {spoken(agreed.name)}, the other's beside it."
    return Shown(agreed.item.path.name, (_cell(method, agreed.name, images, better, told),))


def _parted(values: Tensor, agreed: Agreed) -> tuple[Tensor, Tensor]:
    """A map within the boxes of a category, and without them."""
    inside = agreed.mask((values.shape[-2], values.shape[-1]))
    return values * inside, values * (1 - inside)
