"""How much a visitor may ask, and reading what a visitor sent: a photograph's bytes, lines of text."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from common.errors import UserError
from common.images import decoded_image

# What browsers make and cameras write. Others, such as EPS and PSD, are refused before their decoders see a byte.
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SIDE = 2048  # pixels of the longer side that are kept


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of the server at once."""

    upload: int = 10_000_000  # bytes of a photograph
    pixels: int = 50_000_000  # of a photograph
    letters: int = 200  # of a text
    texts: int = 5  # phrases, answers or classes
    seconds: float = 60.0  # that a visitor waits once it is their turn
    waiting: int = 20  # visitors in line
    kept: float = 3600.0  # seconds after which an uploaded file is deleted
    stored: int = 500_000_000  # bytes of uploaded files at any time


@dataclass(frozen=True)
class Photograph:
    """An RGB image, and a key by which the same photograph is known again."""

    image: Image.Image
    key: str


def photograph(data: bytes, limits: Limits) -> Photograph:
    """The photograph in the bytes of a file. Raises `UserError` in one line that names no file of the server."""
    if len(data) > limits.upload:
        raise UserError(f"the photograph has {_mega(len(data))} MB; at most {_mega(limits.upload)} MB are read")
    if data:
        _check_kind(data, limits)
    image = decoded_image(data, "the photograph")
    image.thumbnail((SIDE, SIDE))
    image.info.pop("name", None)
    return Photograph(image, hashlib.sha256(data).hexdigest())


def _check_kind(data: bytes, limits: Limits) -> None:
    """Raises `UserError` for what is no photograph or a huge one, by its header alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=KINDS) as image:
                pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = 2 * limits.pixels
        except Exception as error:  # decoders raise a dozen types
            raise UserError("this file is no photograph that can be read; try a JPEG, PNG or WebP") from error
    if pixels > limits.pixels:
        raise UserError(
            f"the photograph has more than {_mega(limits.pixels)} million pixels; make it smaller and try again"
        )


def _mega(count: int) -> str:
    return f"{count / 1e6:.4g}"


def lines_of(text: object, what: str, limits: Limits) -> list[str]:
    """The texts that a visitor wrote one a line, each once. Raises `UserError` for too many or too long ones."""
    lines = list(dict.fromkeys(filter(None, (line.strip() for line in _text(text).splitlines()))))
    if len(lines) > limits.texts:
        raise UserError(f"{len(lines)} {what}; at most {limits.texts} are explained at once")
    return [checked(line, limits) for line in lines]


def checked(text: object, limits: Limits) -> str:
    """A text of one line, without the spaces around it. Raises `UserError` for one that is too long."""
    line = " ".join(_text(text).split())
    if len(line) > limits.letters:
        raise UserError(f"a text of {len(line)} letters; at most {limits.letters} are read")
    return line


def _text(text: object) -> str:
    if text is not None and not isinstance(text, str):
        raise UserError(f"expected a text, received {type(text).__name__}")
    return text or ""


def chosen(methods: object, offered: Sequence[str]) -> tuple[str, ...]:
    """The methods that a visitor chose among those offered, in their order; the first where none was chosen."""
    if not isinstance(methods, (list, tuple)):
        raise UserError(f"expected a list of methods, received {type(methods).__name__}")
    unknown = [method for method in methods if method not in offered]
    if unknown:
        raise UserError(f"no method '{str(unknown[0])[:40]}' here; choose from {', '.join(offered)}")
    return tuple(method for method in offered if method in methods) or (offered[0],)
