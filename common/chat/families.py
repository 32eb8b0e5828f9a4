"""The families of image-text chat models that are covered: how the tokens of each lie on the photograph.

A family is an entry of `FAMILIES`, by the `model_type` of its configuration. What a model makes of an image is in
its processor, so a layout is read off the processor's settings and outputs; `tests/test_chat_places.py` paints each
token's box and looks which features change.

H,W pixels, N tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.chat.views import WHOLE, Box, Layout, View, tiled
from common.errors import UserError

Size = tuple[int, int]  # (width, height) of the photograph


@dataclass(frozen=True)
class Seen:
    """What a layout is read off: the model's configuration, its processor, what it made of the photograph."""

    config: Any
    processor: Any
    inputs: Mapping[str, Any]
    size: Size
    count: int  # of image tokens


@dataclass(frozen=True)
class Family:
    """How one kind of model is run.

    `layout` says where its tokens lie; `places` says so in words. `types` names the input that tells images from
    text, and `reply_type` is what it says of the reply's tokens; `plain` is for models without a chat template, `asks`
    how those are asked besides that read the image's tokens before any text, `encoder` for those whose learned queries
    read the states of the module of that name, `spaced` for those whose processor puts a space between the image and a
    word that follows at once.
    """

    layout: Callable[[Seen], Layout]
    places: str
    features: str = "entrance of the language model"
    types: str | None = None
    reply_type: int = 0
    image_type: int = 1
    plain: bool = False
    asks: str | None = None
    encoder: str | None = None
    spaced: bool = False


def _grid(seen: Seen, rows: int, columns: int, box: Box = WHOLE, about: str = "the whole photograph") -> Layout:
    """One view; tokens before it, such as a class token that is kept, have no place."""
    return Layout((View(rows, columns, box, before=seen.count - rows * columns),), about)


def _side(config: Any) -> int:
    vision = config.vision_config
    if not isinstance(vision.image_size, int) or not isinstance(vision.patch_size, int):
        raise UserError(f"a vision tower of {vision.image_size} pixels and patches of {vision.patch_size}: not square")
    return vision.image_size // vision.patch_size


def _of_patches(config: Any, box: Box = WHOLE) -> Box:
    """The part of a tower's square image that its patches cover: what is left of a patch at the end belongs to none."""
    vision = config.vision_config
    share = _side(config) * vision.patch_size / vision.image_size
    left, top, right, bottom = box
    return left, top, left + share * (right - left), top + share * (bottom - top)


def _llava(seen: Seen) -> Layout:
    if seen.config.vision_config.model_type == "pixtral":
        raise UserError("LLaVA on a Pixtral tower is not covered: its tokens have no tested place")
    box = _cropped(seen.processor.image_processor, seen.size)
    return _grid(seen, _side(seen.config), _side(seen.config), _of_patches(seen.config, box), _shown(box))


def _fast_vlm(seen: Seen) -> Layout:
    """A convolutional tower: its last map, n x n over what the image processor shows."""
    if seen.inputs["pixel_values"].shape[-1] != seen.inputs["pixel_values"].shape[-2]:
        raise UserError("FastVLM is covered on square images; set its image processor to squash, pad or crop to one")
    box, side = _cropped(seen.processor.image_processor, seen.size), math.isqrt(seen.count)
    return _grid(seen, side, side, box, _shown(box))


def _shown(box: Box) -> str:
    """What a model sees of a photograph, for people."""
    if min(box[:2]) < 0:
        return "the whole photograph, padded to a square"
    return "the whole photograph" if box == WHOLE else "the middle of the photograph alone: the rest is cropped"


def _cropped(processor: Any, size: Size) -> Box:
    """The part of a photograph that an image processor of CLIP's kind shows: padded, scaled and cropped."""
    width, height = size
    if getattr(processor, "do_pad", False):
        side = max(size)
        x, y = (side - width) // 2, (side - height) // 2
        return -x / width, -y / height, (side - x) / width, (side - y) / height
    edge = processor.size.get("shortest_edge") if hasattr(processor.size, "get") else processor.size.shortest_edge
    if not edge or not processor.do_resize:
        return WHOLE  # squashed
    short, long = sorted(size)
    scaled = (edge, int(edge * long / short))
    w, h = scaled if width <= height else scaled[::-1]
    if not processor.do_center_crop:
        return WHOLE
    crop_w, crop_h = processor.crop_size["width"], processor.crop_size["height"]
    left, top = int((w - crop_w) / 2), int((h - crop_h) / 2)
    return left / w, top / h, (left + crop_w) / w, (top + crop_h) / h


def _qwen(seen: Seen) -> Layout:
    merge = seen.config.vision_config.spatial_merge_size
    _, rows, columns = (int(side) for side in seen.inputs["image_grid_thw"][0])
    return _grid(seen, rows // merge, columns // merge)


def _square(seen: Seen) -> Layout:
    side = math.isqrt(seen.count)
    return _grid(seen, side, side, about="the whole photograph, squashed to a square")


def _gemma3(seen: Seen) -> Layout:
    if seen.count > seen.config.mm_tokens_per_image:
        raise UserError("Gemma 3's pan and scan is not covered: set do_pan_and_scan to false in its image processor")
    return _square(seen)


def _anyres(seen: Seen) -> Layout:
    """The base view, then the tiles' grid without its padding, each row ended by a token without a place."""
    from transformers.image_processing_utils import select_best_resolution

    side, (width, height) = _side(seen.config), seen.size
    tile = seen.config.vision_config.image_size
    tall, wide = select_best_resolution((height, width), seen.config.image_grid_pinpoints)
    rows, columns, across = tall // tile * side, wide // tile * side, width / height > wide / tall
    scale = wide / width if across else tall / height
    new_h = min(math.ceil(height * scale), tall) if across else tall
    new_w = wide if across else min(math.ceil(width * scale), wide)
    # Rows of padding that are left out, as `unpad_image` counts them, in tokens.
    cut_y = (rows - int(round(height * (columns / width), 7))) // 2 if across else 0
    cut_x = 0 if across else (columns - int(round(width * (rows / height), 7))) // 2
    kept_rows, kept_columns = rows - 2 * cut_y, columns - 2 * cut_x
    x0, y0, patch = (wide - new_w) // 2, (tall - new_h) // 2, tile / side
    box = (
        (cut_x * patch - x0) / new_w,
        (cut_y * patch - y0) / new_h,
        ((columns - cut_x) * patch - x0) / new_w,
        ((rows - cut_y) * patch - y0) / new_h,
    )
    kept_rows, kept_columns = _pooled(seen, kept_rows, kept_columns, side)
    fine = View(kept_rows, kept_columns, box, after_row=1)
    base = View(side, side, _of_patches(seen.config), before=seen.count - side * side - len(fine))
    return Layout((base, fine), "the whole photograph, squashed to a square, then in tiles")


def _pooled(seen: Seen, rows: int, columns: int, side: int) -> tuple[int, int]:
    """LLaVA-OneVision's grid is made smaller where it has more than its `anyres_max_N` tiles' tokens."""
    limit = getattr(seen.config, "vision_aspect_ratio", None)
    if limit is None:
        return rows, columns
    ratio = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _idefics3(seen: Seen) -> Layout:
    """Tiles row by row, then the whole; the whole alone where nothing is split."""
    count = seen.inputs["pixel_values"].shape[1]
    side = math.isqrt(seen.count // count)
    if count == 1:
        return _grid(seen, side, side, about="the whole photograph, squashed to a square")
    height, width = _idefics3_size(seen.processor.image_processor, seen.size)
    edge = seen.processor.image_processor.max_image_size["longest_edge"]
    rows, columns = math.ceil(height / edge), math.ceil(width / edge)
    return Layout((*tiled(rows, columns, side), View(side, side)), "tiles of the photograph, then the whole")


def _idefics3_size(processor: Any, size: Size) -> tuple[int, int]:
    """(height, width) to which the photograph is scaled before it is cut into tiles."""
    from transformers.models.idefics3 import image_processing_idefics3

    of: Any = image_processing_idefics3

    width, height = size
    if processor.do_resize:
        height, width = of._resize_output_size_rescale_to_max_len(height, width, max_len=processor.size["longest_edge"])
        height, width = of._resize_output_size_scale_below_upper_bound(height, width, max_len=of.MAX_IMAGE_SIZE)
    edge = processor.max_image_size["longest_edge"]
    if width >= height:
        wide = math.ceil(width / edge) * edge
        return math.ceil(int(wide / (width / height)) / edge) * edge, wide
    tall = math.ceil(height / edge) * edge
    return tall, math.ceil(int(tall * (width / height)) / edge) * edge


def _blip2(seen: Seen) -> Layout:
    side = _side(seen.config)
    return _grid(seen, side, side, _of_patches(seen.config), "the whole photograph, squashed to a square")


def _idefics2(seen: Seen) -> Layout:
    _, images, _, height, width = seen.inputs["pixel_values"].shape
    if images > 1:
        raise UserError("Idefics2's image splitting is not covered: set do_image_splitting to false in its processor")
    patch = seen.config.vision_config.patch_size
    rows, columns = height // patch, width // patch
    return _grid(seen, rows, columns, (0.0, 0.0, columns * patch / width, rows * patch / height))


def _internvl(seen: Seen) -> Layout:
    """Tiles row by row, then the whole where there is more than one; one view where nothing is split."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    processor, count = seen.processor.image_processor, len(seen.inputs["pixel_values"])
    side = math.isqrt(seen.count // count)
    if count == 1:
        return _grid(seen, side, side, about="the whole photograph, squashed to a square")
    width, height = seen.size
    tile = (processor.size["height"], processor.size["width"])
    columns, rows = get_optimal_tiled_canvas((height, width), tile, processor.min_patches, processor.max_patches)
    views = [*tiled(rows, columns, side), View(side, side)][:count]
    return Layout(tuple(views), "tiles of the photograph, then the whole")


_QUERIED = "last states of the image encoder, before the learned queries that read them"
_QWEN = "patches of the photograph at its own proportions, merged in squares, row by row"
_DEEP = "entrance of the language model, with the DeepStack features of its first blocks as further channels"
_ANYRES = "the whole, squashed; then the tiles' grid without its padding, row by row; tokens that end rows are left out"
_TILES = "tiles, row by row; then the whole, squashed"
_SQUASHED = "n x n of the whole photograph, squashed to a square"

FAMILIES: dict[str, Family] = {
    "llava": Family(_llava, "n x n of the middle square, as its processor crops it"),
    "fast_vlm": Family(_fast_vlm, "n x n, the map of its convolutional tower, over the square its processor makes"),
    "qwen2_vl": Family(_qwen, _QWEN, types="mm_token_type_ids"),
    "qwen2_5_vl": Family(_qwen, _QWEN, types="mm_token_type_ids"),
    "qwen3_vl": Family(_qwen, _QWEN, _DEEP, types="mm_token_type_ids"),
    "qwen3_5": Family(_qwen, _QWEN, types="mm_token_type_ids"),
    "paligemma": Family(_square, _SQUASHED, types="token_type_ids", image_type=0, reply_type=1, plain=True),
    "gemma3": Family(_gemma3, _SQUASHED, types="token_type_ids"),
    "llava_next": Family(_anyres, _ANYRES),
    "llava_onevision": Family(_anyres, _ANYRES),
    "idefics3": Family(_idefics3, _TILES),
    "smolvlm": Family(_idefics3, _TILES),
    "internvl": Family(_internvl, _TILES),
    "idefics2": Family(
        _idefics2,
        "patches of the photograph at its own proportions, row by row",
        _QUERIED,
        encoder="vision_model",
        spaced=True,
    ),
    "blip-2": Family(_blip2, _SQUASHED, _QUERIED, encoder="vision_model", asks="Question: {} Answer:"),
}


# Kinds that are known and not covered, and why.
REFUSED = {
    "instructblip": "the queries that read its image read the question as well",
    "florence2": "it has an encoder of its own for image and text, and its reply is a decoder's",
    "mllama": "its language model reads the image by cross-attention, in every few blocks",
    "pix2struct": "its patches are of another grid for each photograph, and its reply is a decoder's",
    "kosmos-2": "its image is read by learned queries that go with its own places of phrases",
    "lxmert": "it reads the boxes of a detector that transformers doesn't have",
}


def check_covered(family: str, config: Any, name: str) -> None:
    """Raises `UserError` for a model of a family's kind whose language model is an encoder with a decoder."""
    if FAMILIES[family].asks and getattr(config.get_text_config(), "is_encoder_decoder", False):
        raise UserError(
            f"{name}: its language model is an encoder with a decoder (T5), which is not covered; take one on OPT"
        )


def layout_of(family: str, seen: Seen) -> Layout:
    """Where the image tokens lie; `UserError` where the family's rule doesn't give as many as there are."""
    found = FAMILIES[family].layout(seen)
    if any(view.before < 0 for view in found.views) or len(found) != seen.count or not seen.count:
        raise UserError(
            f"this '{family}' model made {seen.count} tokens of a photograph of {seen.size[0]}x{seen.size[1]} pixels,"
            f" and {len(found)} were expected; its image processor has settings that are not covered"
        )
    return found
