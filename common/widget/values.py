"""Maps as the widget's script reads them: numbers in base64, or pictures of gradients, small enough for a page.

T targets, h,w map, H,W image.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.draw import fitted, gradient_picture

BUDGET = 34_000  # characters that all maps of a page may take together
_LEAST = 12_000  # characters that are kept for gradients, whatever the maps take
SIDE = 640  # pixels of a photograph's longer side
_QUALITY = {"JPEG": 82, "WEBP": 45}
_FULL = 32767  # a map's peak as a 16-bit integer
_SIDES = (4096, 56, 28, 20, 14, 10, 7, 5, 4)  # of maps: the first that fits is taken
_PIXELS = (224, 160, 112, 80, 56, 40, 28)  # of gradients


def encoded(maps: Mapping[str, Tensor], lines: Sequence[Sequence[int]]) -> list[list[str]]:
    """What stands for each target's map, by target and method, of maps (T, h, w) and gradients (T, 3, H, W).

    A map is "h w peak share base64": the largest absolute value, the map's share of the evidence of the strongest one
    of its line (the numbers of targets that stand together), and the values in rows. A gradient is "share URL", the URL
    being a picture.
    """
    maps = {method: values.nan_to_num(0.0, 0.0, 0.0) for method, values in maps.items()}
    heat = {method: values for method, values in maps.items() if values.dim() == 3}
    pixels = {m: [_picture(each) for each in values] for m, values in maps.items() if values.dim() == 4}
    room = BUDGET - (_LEAST if pixels else 0)
    rows = _fitting(lambda side: {m: _maps(values, lines, side) for m, values in heat.items()}, _SIDES, room)
    room = BUDGET - _length(rows)
    rows |= _fitting(lambda side: {m: [_url(p, "WEBP", side) for p in ps] for m, ps in pixels.items()}, _PIXELS, room)
    for method in pixels:
        parts = zip(shares(maps[method], lines), rows[method], strict=True)
        rows[method] = [f"{share:.3g} {url}" for share, url in parts]
    return [list(each) for each in zip(*(rows[method] for method in maps), strict=True)]


def shares(maps: Tensor, lines: Sequence[Sequence[int]]) -> list[float]:
    """The evidence of each map (T, ...), the mean of its absolute values, as a share of the most on its line."""
    evidence = maps.nan_to_num(0.0, 0.0, 0.0).abs().flatten(1).mean(1).tolist()
    most = {number: max(evidence[other] for other in line) or 1.0 for line in lines for number in line}
    return [value / most[number] for number, value in enumerate(evidence)]


def photograph(image: Image.Image) -> str:
    """A photograph at the size of a page as a URL that holds it."""
    return _url(image, "JPEG", SIDE)


def _url(image: Image.Image, kind: str, side: int) -> str:
    stream = io.BytesIO()
    fitted(image, side).save(stream, kind, quality=_QUALITY[kind])
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _fitting(make: Callable[[int], dict[str, list[str]]], sides: Sequence[int], budget: int) -> dict[str, list[str]]:
    """What `make` gives at the largest side at which it takes no more than the budget, or at the last.

    Sides at which it could not fit, were its length the area's, are not tried.
    """
    found, made = make(sides[0]), sides[0]
    for side in sides[1:]:
        length = _length(found)
        if length > budget and (length * (side / made) ** 2 <= budget or side == sides[-1]):
            found, made = make(side), side
    return found


def _length(rows: Mapping[str, Sequence[str]]) -> int:
    return sum(len(text) for texts in rows.values() for text in texts)


def _maps(values: Tensor, lines: Sequence[Sequence[int]], side: int) -> list[str]:
    height, width = values.shape[1:]
    if max(height, width) > side:
        values = F.adaptive_avg_pool2d(values, (min(height, side), min(width, side)))
    return [_map(each, share) for each, share in zip(values, shares(values, lines), strict=True)]


def _map(values: Tensor, share: float) -> str:
    peak = values.abs().max().item()
    scaled = np.rint(values.numpy() / (peak or 1.0) * _FULL).astype("<i2")
    height, width = values.shape
    return f"{height} {width} {peak:.5g} {share:.3g} {base64.b64encode(scaled.tobytes()).decode()}"


def _picture(values: Tensor) -> Image.Image:
    height, width = values.shape[1:]
    return gradient_picture(Image.new("RGB", (width, height)), values)
