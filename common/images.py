"""Reading images of any kind, and turning them into what a network wants.

B images, H,W the network's input, (width, height) in pixels as Pillow has it.
"""

import io
import math
import os
import stat
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.errors import UserError

MAX_SIDE = 4096  # pixels; larger images are reduced to this side when they are read
LARGEST_INPUT = 4096  # pixels of a side
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

PathLike = str | os.PathLike[str]
ImageLike = Image.Image | PathLike


def open_image(path: PathLike, max_side: int | None = MAX_SIDE) -> Image.Image:
    """The image in a file as 8-bit RGB, upright, at most `max_side` pixels on its longer side.

    The orientation in the EXIF data is applied. 16-bit and floating-point greys are scaled to 8 bits (never
    clipped), transparent parts are put on white, of an animation the first frame is taken. The image's own
    upright size is in `info["original_size"]` (width, height), the file's name in `info["name"]`.

    Raises `UserError`, in one line that names the file, for whatever is not a readable image.
    """
    path = Path(path)
    _check_file(path)
    return _opened(path, str(path), max_side)


def decoded_image(data: bytes, name: str, at_least: int | None = None) -> Image.Image:
    """The image in the bytes of a file, as `open_image` reads it; `name` is what errors call it.

    A JPEG is decoded at half, a quarter or an eighth of its size where both sides still have `at_least` pixels:
    that costs as little as it gives, for a network that sees fewer.
    """
    if not data:
        raise UserError(f"{name}: the file is empty (0 bytes); get the image again")
    return _opened(io.BytesIO(data), name, MAX_SIDE, at_least)


def _opened(file: Any, name: str, max_side: int | None, at_least: int | None = None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of merely large images
        try:
            with Image.open(file) as image:
                decoded = _decode(image, max_side, at_least)
                decoded.info["name"] = Path(name).name
                return decoded
        except Exception as error:  # decoders raise a dozen types: OSError, SyntaxError, struct.error, ...
            raise UserError(f"{name}: {_reason(error)}") from error


@dataclass(frozen=True)
class Photo:
    """An image as it was given, and how a network reads it; it is opened only when it is shown."""

    source: ImageLike
    preprocessing: "Preprocessing | None" = None

    @classmethod
    def of(cls, image: ImageLike, preprocessing: "Preprocessing | None" = None) -> "Photo":
        """The photograph in a file, wherever the program goes later, or the image that is given."""
        return cls(image if isinstance(image, Image.Image) else Path(image).absolute(), preprocessing)

    @property
    def name(self) -> str:
        """The file's name, where the image is known by one."""
        if isinstance(self.source, Image.Image):
            return str(self.source.info.get("name", ""))
        return Path(self.source).name

    def seen(self) -> Image.Image:
        """The part of the image that the network sees, RGB. Raises `UserError` for what cannot be read any more."""
        image = as_image(self.source)
        if self.preprocessing is None:
            return image
        left, top, right, bottom = map(round, self.preprocessing.region(*image.size))
        return image.crop((left, top, right, bottom))


def as_image(image: ImageLike) -> Image.Image:
    """An RGB image from a path or from a Pillow image of any mode (taken as it stands)."""
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UserError(f"an image of {image.width}x{image.height} pixels has nothing to read")
        return _to_rgb(image)
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    raise UserError(f"expected an image file's path or a PIL image, got {type(image).__name__}")


def as_batch(images: Any) -> tuple[Any, bool]:
    """(what holds the images, whether one image was given): how every facade reads its images.

    A path or a PIL image is one image. A floating-point tensor (B, 3, H, W) is a batch, taken to be preprocessed;
    any other iterable (list, generator, set, dict view, NumPy array of paths) is a batch of paths and PIL images,
    returned as a list. Raises `UserError` for what is neither.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images], True
    if isinstance(images, Tensor):
        return images, False
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise UserError(
            f"images are {type(images).__name__}; give a path, a PIL image, several of them, or a tensor (B, 3, H, W)"
        )
    if isinstance(images, np.ndarray) and images.dtype.kind in "fiub":
        raise UserError(
            f"images are a NumPy array {images.shape} {images.dtype}; give PIL images (Image.fromarray) or"
            " a tensor (B, 3, H, W), normalised for the model"
        )
    return list(images), False


def image_files(paths: Iterable[PathLike]) -> list[Path]:
    """The paths as given, in order; raises `UserError` when there are none."""
    files = [Path(path) for path in paths]
    if not files:
        raise UserError("no image given; name one or more image files")
    return files


def unique_stems(paths: Sequence[PathLike]) -> list[str]:
    """One name per path for its output files: the stem, made unique where two paths share it.

    `a/cat.jpg b/cat.jpg cat.png` give `cat`, `cat-2`, `cat-3`. Compared without case, since some file
    systems don't tell `Cat` from `cat`. One too long for a file's name with an ending is cut.
    """
    stems = [_short(Path(path).stem or "image") for path in paths]
    reserved = {stem.casefold() for stem in stems}  # so that `cat-2` is never given to another file
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in reserved):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    number: Any = value if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else math.nan
    return bool(-1e6 <= number <= 1e6)  # which NaN isn't


def _short(stem: str, most: int = 200) -> str:
    """A name of at most `most` bytes: one that is longer keeps its beginning, and a mark of the whole."""
    whole = os.fsencode(stem)
    if len(whole) <= most:
        return stem
    return f"{whole[: most - 9].decode('utf-8', 'ignore')}-{zlib.crc32(whole):08x}"


@dataclass(frozen=True)
class Preprocessing:
    """How a network sees an image: resized to `size` (H, W), scaled to 0..1, less `mean`, over `std`.

    `crop` None squashes the whole image to `size`, so that every pixel has a place in the heatmap. A number
    in (0, 1] is the usual evaluation crop: the image is scaled so that the centre `size` is that share of
    its shorter side, and the rest is cut off.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation '{self.interpolation}' is none of {', '.join(INTERPOLATIONS)}")
        if len(self.size) != 2 or not all(_is_whole(side) and 1 <= side <= LARGEST_INPUT for side in self.size):
            raise UserError(f"the input size is (height, width), each from 1 to {LARGEST_INPUT}, not {self.size}")
        numbers = [*self.mean, *self.std]
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(_is_real, numbers)) or min(self.std) < 1e-6:
            raise UserError(f"mean and std are 3 numbers each, std above 0, not {self.mean} and {self.std}")
        if self.crop is not None and not (_is_real(self.crop) and 0.01 <= self.crop <= 1):
            raise UserError(f"crop is a share from 0.01 to 1, or None for the whole image, not {self.crop}")

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Tensor:
        """Images (or paths) -> float32 (B, 3, H, W) on the CPU; a single image gives B = 1."""
        batch, _ = as_batch(images)
        if not batch:
            raise UserError("no image given; name one or more images")
        pixels = np.stack([np.asarray(self.resize(as_image(image)), dtype=np.float32) for image in batch])
        return self.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).contiguous()

    def resize(self, image: Image.Image) -> Image.Image:
        """The image as the network sees it, (W, H) in Pillow's order, before normalisation."""
        height, width = self.size
        box = self.region(image.width, image.height)
        return image.resize((width, height), INTERPOLATIONS[self.interpolation], box=box)

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part (left, top, right, bottom) of a width x height image that the network sees, in pixels."""
        if self.crop is None:
            return (0.0, 0.0, float(width), float(height))
        scale = self.crop * min(width / self.size[1], height / self.size[0])
        w, h = self.size[1] * scale, self.size[0] * scale
        left, top = (width - w) / 2, (height - h) / 2
        return (left, top, left + w, top + h)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> the network's units."""
        return (pixels - _channels(self.mean, pixels)) / _channels(self.std, pixels)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`: (B, 3, H, W) -> 0..1, for drawing."""
        return images * _channels(self.std, images) + _channels(self.mean, images)

    def with_crop(self, crop: float | None) -> "Preprocessing":
        return replace(self, crop=crop)

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise UserError(f"unknown preprocessing entry '{sorted(unknown)[0]}'; allowed: {allowed}")
        entries: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        wrong = [key for key in ("size", "mean", "std") if not isinstance(entries.get(key, ()), tuple)]
        if wrong or not isinstance(entries.get("interpolation", ""), str):
            raise UserError(f"preprocessing entry '{(*wrong, 'interpolation')[0]}' is of a wrong kind")
        return cls(**entries)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: is a folder, not an image; name the image files in it ({path}/*.jpg)")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a regular file; save the image to a file first")
    if status.st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); get the image again")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read; convert it to JPEG or PNG"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"too many pixels (over {limit} million; a decompression bomb?); reduce the image first"
    if isinstance(error, PermissionError):
        return "permission denied; make the file readable"
    if "truncated" in text or "unexpected end" in text or isinstance(error, EOFError):
        return "the image is truncated; get the file again"
    if isinstance(error, MemoryError):
        return "too large for this machine's memory; reduce the image first"
    what = text or type(error).__name__
    return f"the image is broken or of an unsupported kind ({what}); save it again as JPEG or PNG"


def _decode(image: Image.Image, max_side: int | None, at_least: int | None = None) -> Image.Image:
    if image.format == "EPS":  # would run an interpreter on the file
        raise UserError("EPS is a program, not an image; convert it to PNG")
    if 0 in image.size:
        raise UserError(f"the image has {image.width}x{image.height} pixels; get it again")
    if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 2**62):  # Pillow checks most formats, but not all
        raise Image.DecompressionBombError
    original = image.size
    if at_least is not None:
        image.draft("RGB", (at_least, at_least))
    elif _within(original, max_side) != original:
        image.draft("RGB", _within(original, max_side))
    image.seek(0)
    image.load()
    upright = _upright(_reduce(image, max_side))
    rgb = _to_rgb(upright)
    swapped = _orientation(image) in (5, 6, 7, 8)
    rgb.info = {"original_size": original[::-1] if swapped else original}
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata must not hide a good image
        return 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata must not hide a good image
        return image


def _within(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    scale = min(1.0, max_side / max(size)) if max_side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _reduce(image: Image.Image, max_side: int | None) -> Image.Image:
    size = _within(image.size, max_side)
    if size == image.size:
        return image
    orientation = _orientation(image)
    if image.mode in ("P", "PA", "1"):  # these can only be resampled after conversion
        image = image.convert("RGBA" if image.has_transparency_data else "RGB" if image.mode != "1" else "L")
    filters = Image.Resampling.NEAREST if image.mode.startswith("I;16") else Image.Resampling.BOX
    small = image.resize(size, filters)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    small.info["exif"] = exif.tobytes()
    return small


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _scaled_grey(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        white.alpha_composite(rgba)
        return white.convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys -> 8 bits: by their type's range, else from least to largest."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise UserError("the image holds NaN or infinite pixels; save it again as JPEG or PNG")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        tops = [top for top in (1.0, 255.0) if low >= 0 and high <= top]
        low, high = (0.0, tops[0]) if tops else (low, high)
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
