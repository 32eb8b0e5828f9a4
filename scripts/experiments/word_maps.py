"""Maps of the words of people's captions over the photographs: figure 11's picture.

H,W a picture in pixels.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from captioning.visual import query_of
from common.draw import PAPER, Tile, draw_map, fitted, legends_of, panel
from common.gradcam import explain
from common.images import open_image
from common.metrics.grounding import Boxes, box_mask, peak
from common.text import TextLogLikelihood
from scripts.experiments.grounded import Truth

SHOWN, EACH = 4, 3  # photographs, words of each
WIDTH = 240


def words_picture(captioner: Any, truth: Callable[[], Truth]) -> Image.Image:
    """A row for each of the first photographs with two words that are located: itself, and a map for each word."""
    known = truth()
    tiles: list[Tile] = []
    for number, image in enumerate(known.images):
        if len(tiles) < SHOWN * (1 + EACH):
            case = next((case for case in known.human(0, number) if len(case.heads) > 1), None)
            tiles += word_tiles(captioner, image.path, case) if case else []
    note = f"{captioner.name}; after figure 11 of Selvaraju et al."
    return panel("Where the words of people's captions point", tiles, 1 + EACH, legends_of(("gradcam",)), WIDTH, note)


def word_tiles(captioner: Any, path: Any, case: Any) -> list[Tile]:
    """The photograph with the caption, and the map of each of the first located words, by its log-probability."""
    shown, seen = fitted(open_image(path), 2 * WIDTH), captioner.encode([path])
    heads = case.heads[:EACH]
    targets = [TextLogLikelihood(range(*case.text.span(head.start, head.stop - head.start))) for head in heads]
    query = query_of([case.text], captioner.network, seen.pixels.device)
    explainable = captioner.network.explainable(captioner.layer)
    maps = explain(explainable, seen.pixels, targets, query=query, features=seen.features).heatmaps[:, 0].cpu()
    tiles = [Tile(shown, " ".join(case.text.words))]
    for head, heat in zip(heads, maps, strict=True):
        point = peak(heat[None])[0].tolist()
        hit = any(box.left <= point[0] <= box.right and box.top <= point[1] <= box.bottom for box in head.boxes)
        picture = pointed(draw_map("gradcam", shown, heat), head.boxes, point)
        tiles.append(Tile(picture, head.word, "points at it" if hit else "points beside it"))
    return [*tiles, *[Tile(Image.new("RGB", shown.size, PAPER), "")] * (EACH - len(heads))]


def pointed(picture: Image.Image, boxes: Boxes, point: list[float]) -> Image.Image:
    """A picture with an outline around what the boxes cover, and a cross at a point (x, y), shares of its sides."""
    found = picture.copy()
    edge = _edge(box_mask(boxes, (picture.height, picture.width)))
    found.paste((255, 255, 255), mask=Image.fromarray((edge * 255).byte().numpy()))
    if all(value == value for value in point):
        x, y, arm = point[0] * picture.width, point[1] * picture.height, max(5, picture.width // 40)
        drawing = ImageDraw.Draw(found)
        for ink, width in (((0, 0, 0), 6), ((255, 255, 255), 3)):
            drawing.line((x - arm, y - arm, x + arm, y + arm), ink, width)
            drawing.line((x - arm, y + arm, x + arm, y - arm), ink, width)
    return found


def _edge(mask: Tensor, thick: int = 2) -> Tensor:
    """(H, W), 1 on the pixels of a mask that lie within `thick` pixels of what is outside it, the frame's edge too."""
    outside = F.pad(1.0 - mask.float(), (thick,) * 4, value=1.0)
    near = F.max_pool2d(outside[None, None], 2 * thick + 1, stride=1)[0, 0]
    return mask * near
