"""Writing files so that none is ever half-written: to a temporary name beside the target, then renamed.

What a killed process leaves is removed by the next one that writes into the folder on the same machine.
"""

import contextlib
import functools
import json
import os
import platform
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError

LARGEST_TEXT = 2**31  # bytes; the largest published annotations have a quarter of it


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps `path`'s suffix, since writers such as Matplotlib choose a format by it.
    Raises `UserError` naming the file when it cannot be written (permissions, a full disk).
    """
    path = Path(path)
    if path.name.startswith(_mark()):  # a temporary file already: whoever made it renames it
        yield path
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_mark()}{os.getpid()}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """As `atomic_path` for files that are one result: all of them are renamed when all are written, or none is."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(atomic_path(path)) for path in paths]


@functools.cache
def sweep(folder: Path) -> None:
    """Remove the temporary files in a folder whose processes are gone; once a process."""
    ours = re.compile(re.escape(_mark()) + r"(\d+)-")
    for file in os.scandir(folder):
        found = ours.match(file.name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                os.unlink(file.path)


def _mark() -> str:
    """How names of temporary files of this machine begin."""
    return f".saywhy-{zlib.crc32(platform.node().encode()):08x}-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for one run at a time: a second one gets a `UserError`. What a dead process held is free.

    Where folders can't be locked (some network drives, Windows) nothing is held.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"another run is writing to '{folder}'; wait until it is done, or give another folder with --out"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike[str], record: Any, indent: int | None = 2) -> None:
    """Write `record` as JSON in ASCII, which any name of a file can be written in, atomically."""
    write_text(path, json.dumps(record, indent=indent) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_npz(path: str | os.PathLike[str], **arrays: np.ndarray) -> None:
    """Write named arrays as a compressed NPZ, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_text(path: str | os.PathLike[str], most: int = LARGEST_TEXT) -> str:
    """The text (UTF-8) of a file; `UserError` for what has no end or never comes (devices, pipes), or is too large.

    Raises `OSError` and `UnicodeDecodeError` as `Path.read_text` does.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UserError(f"{path}: is not a regular file; save it to a file first")
    if status.st_size > most:
        raise UserError(f"{path}: has {status.st_size} bytes; at most {most} are read")
    return Path(path).read_text(encoding="utf-8-sig")


def _umask() -> int:
    # mkstemp makes files only their owner can read; what a user asked for gets the usual permissions.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"cannot write '{path}': {reason}; choose another folder or free some space")
