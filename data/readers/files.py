"""Reading the files of a data set, with errors that say which file, where in it and what to do."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from common import files
from common.errors import UserError
from common.printed import printable

Entry = TypeVar("Entry")
Item = TypeVar("Item")
AnyPath = str | os.PathLike[str]


def read_text(path: AnyPath, advice: str = "give the path of the published file") -> str:
    """The text of a UTF-8 file. Raises `UserError` with the file, the line that is broken, and `advice`."""
    try:
        return files.read_text(path)
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; {advice}") from None
    except UnicodeDecodeError as error:
        line = Path(path).read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from error


def read_json(path: AnyPath, lists: tuple[str, ...] = ()) -> Any:
    """What a JSON file holds; where `lists` are named, an object that has a list under each."""
    try:
        record = json.loads(read_text(path, "give the path of the published JSON file"))
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply; copy the file again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); copy the file again") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: broken JSON ({error}); copy the file again") from error
    for key in lists:
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise UserError(f"{path}: has no list '{key}'; expected the published layout ({', '.join(lists)})")
    return record


def fields(entry: Any, keys: Sequence[str], where: str) -> list[Any]:
    """The values of `keys` in one object of a JSON file."""
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise UserError(f"{where} has no '{key}'; expected the published layout")
    return [entry[key] for key in keys]


def identifier(value: Any, where: str) -> Any:
    """An id of a JSON file: a whole number or a text; `UserError` for anything else, such as a list."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UserError(f"{where} has the id {printable(repr(value), 40)}; expected a whole number")
    return value


def file_name(value: Any, where: str) -> str:
    """The name of a file in a JSON file; `UserError` for what can't be one."""
    if not isinstance(value, str) or not 0 < len(value.encode(errors="replace")) <= 255 or "\0" in value:
        raise UserError(f"{where} names the file {printable(repr(value), 40)}; expected a name of up to 255 bytes")
    return value


@dataclass
class Reading(Generic[Item]):
    """What could be read, and a line for each entry that could not and was left out."""

    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_each(entries: Iterable[Entry], read: Callable[[Entry], Item], limit: int | None = None) -> Reading[Item]:
    """Read entries one by one, `limit` good ones at most; what cannot be read is noted and left out.

    Raises `UserError` with the first problem when nothing could be read.
    """
    found: Reading[Item] = Reading()
    for entry in entries:
        if limit is not None and len(found.items) >= limit:
            break
        try:
            found.items.append(read(entry))
        except UserError as problem:
            found.problems.append(str(problem))
    if not found.items:
        raise UserError(found.problems[0] if found.problems else "the list of images is empty")
    return found


def find_folder(root: AnyPath, places: Sequence[str], what: str) -> Path:
    """The first of `places` that is a folder in `root`. Raises `UserError` that lists what was looked for."""
    for place in places:
        if (Path(root) / place).is_dir():
            return Path(root) / place
    looked = ", ".join(str(Path(root) / place) for place in places)
    raise UserError(f"no {what} in '{root}'; looked for {looked}")


def check_image(path: Path) -> None:
    """Raise `UserError` when a photograph is not there or not an image; only its header is read."""
    try:
        with Image.open(path) as image:
            size = image.size
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing, though an annotation is there") from None
    except Exception as error:  # decoders raise a dozen types
        raise UserError(f"{path}: not an image that can be read ({error})") from error
    if 0 in size:
        raise UserError(f"{path}: an image without pixels")
