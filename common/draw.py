"""Pictures: heatmaps over photographs, gradient images, and panels of them with legends.

h,w heatmap, H,W image. Maps are scaled for drawing only; what is saved stays raw.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from common.errors import UserError
from common.files import write_bytes
from common.formulas import upsample
from common.methods.names import METHOD_NAMES, kind, label

INK, MUTED, PAPER = (28, 30, 36), (98, 102, 112), (255, 255, 255)
MARGIN, GAP = 18, 12

METHOD_LABELS = {name: label(name) for name in METHOD_NAMES}


def heat_overlay(image: Image.Image, heatmap: Tensor, peak: float | None = None, strength: float = 1.0) -> Image.Image:
    """A heatmap (h, w) of evidence, not negative, over the image: blue is weak, red is strong.

    Scaled to `peak`, by default its own maximum; where there is no evidence the photograph shows through. A `strength`
    below 1 draws the whole map fainter; at 0 only the photograph is left.
    """
    values = _at_size(heatmap.clamp(min=0), image)
    values = values / (peak or values.max() or 1.0)
    return _blend(image, _colours("turbo", values), strength * (0.15 + 0.5 * np.clip(values, 0, 1)))


def signed_overlay(
    image: Image.Image, heatmap: Tensor, peak: float | None = None, strength: float = 1.0
) -> Image.Image:
    """A signed map (h, w) over the image: red raises the score, blue lowers it, where nothing is it is grey."""
    values = _at_size(heatmap, image)
    values = np.clip(values / (peak or np.abs(values).max() or 1.0), -1, 1)
    return _blend(image, _colours("RdBu_r", 0.5 + 0.5 * values), strength * (0.1 + 0.65 * np.abs(values)))


def gradient_picture(image: Image.Image, gradient: Tensor, strength: float = 1.0) -> Image.Image:
    """A gradient image (3, H, W), zero drawn grey, at the proportions of `image`; outliers are clipped.

    A `strength` below 1 takes contrast away.
    """
    values = gradient.detach().float().cpu()
    scale = values.abs().flatten().quantile(0.995).item() or values.abs().max().item() or 1.0
    pixels = ((0.5 + 0.5 * strength * (values / scale).clamp(-1, 1)) * 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize(image.size, Image.Resampling.BILINEAR)


# How each kind of map is drawn, its colours, and what their ends mean.
_KINDS: dict[str, tuple[Callable[..., Image.Image], str, str, str]] = {
    "evidence": (heat_overlay, "turbo", "weak", "strong evidence; each map is scaled to its own maximum"),
    "against": (heat_overlay, "turbo", "weak", "strong evidence; in the counterfactual: against the target"),
    "signed": (signed_overlay, "RdBu_r", "lowers", "raises the target's score"),
    "gradient": (
        gradient_picture, "gray", "darker pixels lower", "brighter pixels raise the score; grey does nothing"
    ),
}  # fmt: skip


def draw_map(method: str, image: Image.Image, values: Tensor, strength: float = 1.0) -> Image.Image:
    """One map of a method, (h, w) or (3, H, W), drawn on the image; see `strengths`."""
    return _KINDS["gradient" if values.dim() == 3 else kind(method)][0](image, values, strength=strength)


SCALES = ("visual", "own")
_VISUAL = "visual"  # the legend of maps that are drawn as strong as their words are visual
_LEAST = 1.0  # nats: what the most visual word must reach to be drawn at full strength


def strengths(visual: Sequence[float], among: Sequence[float] | None = None) -> list[float]:
    """How strong to draw each map, 0 to 1, by what of each score comes from the picture (`Explanation.visual`, nats).

    The most visual one (`among` these, by default all) is drawn at full strength, unless it owes the picture less than
    one nat; what the picture says nothing of, or speaks against, is not drawn. On its own scale the map of 'of' would
    look as sure as that of 'dog'.
    """
    most = max(_LEAST, *(visual if among is None else among))
    return [min(max(value / most, 0.0), 1.0) for value in visual]


def legends_of(methods: Sequence[str], visual: bool = False) -> list[str]:
    """The legends that pictures of these methods need, each once; `visual` where they are drawn by `strengths`."""
    return [*dict.fromkeys(kind(method) for method in methods), *([_VISUAL] if visual else [])]


@dataclass(frozen=True)
class Tile:
    """One picture of a panel, with a title above it and a note below the title."""

    picture: Image.Image
    title: str
    note: str = ""


def panel(
    title: str,
    tiles: Sequence[Tile],
    columns: int = 4,
    legends: Sequence[str] = (),
    width: int = 280,
    note: str = "",
    above: Callable[[int], Image.Image] | None = None,
) -> Image.Image:
    """A panel: a heading, tiles of `width` pixels in reading order, `columns` in a row, and the legends.

    `above` draws what stands between the heading and the tiles (such as `shaded_words`) for the panel's width.
    Long texts are wrapped, so nothing is cut off.
    """
    columns = max(1, min(columns, len(tiles)))
    total = max(columns * (width + GAP) - GAP, 420)
    between = [] if above is None else [above(total)]
    total = max([total, *(picture.width for picture in between)])
    blocks = [_text(title, 21, total, bold=True)]
    blocks += [_text(note, 14, total, MUTED)] if note else []
    blocks += between
    for start in range(0, len(tiles), columns):
        blocks.append(_row([_tile(tile, width) for tile in tiles[start : start + columns]]))
    blocks += [_legend(name, total) for name in legends]
    return ImageOps.expand(_column(blocks), MARGIN, PAPER)


def tile_row(tiles: Sequence[Tile], width: int = 280) -> Image.Image:
    """Tiles of `width` pixels side by side, for `panel`'s `above`."""
    return _row([_tile(tile, width) for tile in tiles])


def shaded_words(words: Sequence[str], weights: Sequence[float], width: int) -> Image.Image:
    """Words on lines of at most `width` pixels, each shaded by its weight: red raises the score, blue lowers it."""
    peak = max((abs(weight) for weight in weights), default=0.0) or 1.0
    font = _font(18)
    boxes = [(word, weight / peak, int(font.getlength(word)) + 14) for word, weight in zip(words, weights, strict=True)]
    places, x, y = [], 0, 0
    for _, _, wide in boxes:
        if x and x + wide > width:
            x, y = 0, y + 36
        places.append((x, y))
        x += wide + 4
    used = max(left + box[2] for (left, _), box in zip(places, boxes, strict=True)) + 1
    strip = Image.new("RGB", (min(used, width), y + 34), PAPER)
    draw = ImageDraw.Draw(strip)
    for (word, weight, wide), (left, top) in zip(boxes, places, strict=True):
        shade = _colours("RdBu_r", np.array(0.5 + 0.33 * weight))
        draw.rounded_rectangle((left, top, left + wide, top + 30), 5, fill=tuple(int(v) for v in shade))
        draw.text((left + 7, top + 15), word, INK, font, anchor="lm")
    return strip


def attributed_words(
    words: Sequence[str], names: Sequence[str], weights: Sequence[Sequence[float]], width: int
) -> Image.Image:
    """The words once for each target, shaded by how much each raises its score (T, L), with the target's name."""
    rows = zip(names, weights, strict=True)
    return _column([shaded_words([*words, f"({name})"], [*each, 0.0], width) for name, each in rows], 4)


def save_picture(picture: Image.Image, path: str | Path, **options: Any) -> None:
    """Write a picture, atomically; PNG or JPEG by the suffix, with Pillow's `options`.

    PNG at the lowest compression: photographs hardly shrink any further (7 % here), and that takes eight times as long.
    """
    suffix, stream = Path(path).suffix.lower(), io.BytesIO()
    form = Image.registered_extensions().get(suffix, "")
    if form not in Image.SAVE:
        raise UserError(f"a picture's name ends in .png or .jpg, not in '{suffix}'")
    quick = {"compress_level": 1} if form == "PNG" else {"optimize": True}
    picture.save(stream, form, **(options or quick))
    write_bytes(path, stream.getvalue())


def fitted(image: Image.Image, side: int = 640) -> Image.Image:
    """The image reduced so that its longer side is at most `side`; drawing does not need more."""
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def _at_size(heatmap: Tensor, image: Image.Image) -> np.ndarray:
    values = heatmap.detach().float().cpu()[None, None]
    return upsample(values, (image.height, image.width))[0, 0].numpy()


def _colours(name: str, values: np.ndarray) -> np.ndarray:
    """The colours (..., 3), 0 to 255, of values in 0..1: Matplotlib's, looked up in a tenth of the time."""
    table = _table(name)
    return table[np.clip(values * len(table), 0, len(table) - 1).astype(np.int16)]


@cache
def _table(name: str) -> np.ndarray:
    return np.asarray(matplotlib.colormaps[name](np.arange(256)), np.float32)[:, :3] * 255


def _blend(image: Image.Image, colours: np.ndarray, opacity: np.ndarray) -> Image.Image:
    photo = np.asarray(image.convert("RGB"), dtype=np.float32)
    mixed = photo * (1 - opacity[..., None]) + colours * opacity[..., None]
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _tile(tile: Tile, width: int) -> Image.Image:
    height = max(1, round(tile.picture.height * width / tile.picture.width))
    height = min(height, width * 2)  # a very tall photograph must not make a panel nobody can scroll
    picture = tile.picture.resize((width, height), Image.Resampling.LANCZOS)
    texts = [_text(tile.title, 16, width, bold=True)]
    texts += [_text(tile.note, 13, width, MUTED)] if tile.note else []
    return _column([_column(texts, 2), picture], 6)


def _legend(name: str, width: int) -> Image.Image:
    ramp = np.repeat(np.linspace(0, 1, 150)[None], 14, 0)
    if name == _VISUAL:
        low, high = "faint: the picture says nothing of the word", "strong: the word that owes the picture most"
        grey = Image.new("RGB", (150, 14), (150, 150, 150))
        bar = _blend(grey, _colours("turbo", np.full_like(ramp, 0.9)), 0.65 * ramp)
    else:
        _, colour_map, low, high = _KINDS[name]
        bar = Image.fromarray(_colours(colour_map, ramp).astype(np.uint8))
    before = _text(low, 13, width, MUTED)
    after = _text(high, 13, max(60, width - before.width - bar.width - 2 * GAP), MUTED)
    return _row([before, bar, after])


def _text(text: str, size: int, width: int, ink: tuple[int, int, int] = INK, bold: bool = False) -> Image.Image:
    font = _font(size, bold)
    lines = _wrapped(text, font, width)
    line_height = round(size * 1.35)
    wide = max(1, *(int(font.getlength(line)) + 2 for line in lines))
    picture = Image.new("RGB", (wide, line_height * len(lines)), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((0, number * line_height), line, ink, font)
    return picture


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:  # a word longer than the line is broken
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines += [word[:cut]]
            word = word[cut:]
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # DejaVu comes with Matplotlib: the same letters on every machine, and more scripts than Pillow's own.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    size = (sum(p.width for p in pictures) + GAP * (len(pictures) - 1), max(p.height for p in pictures))
    row = Image.new("RGB", size, PAPER)
    x = 0
    for picture in pictures:
        # Aligned below, so that pictures stand on one line however long the texts above them are.
        row.paste(picture, (x, size[1] - picture.height))
        x += picture.width + GAP
    return row


def _column(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    size = (max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1))
    column = Image.new("RGB", size, PAPER)
    y = 0
    for picture in pictures:
        column.paste(picture, (0, y))
        y += picture.height + gap
    return column
