"""Writing files so that none is ever half-written: to a temporary name beside the target, then renamed.

What a killed process leaves is removed by the next one that writes into the folder on the same machine.
"""

import contextlib
import errno
import functools
import json
import os
import platform
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError

LARGEST_TEXT = 2**31  # bytes; the largest published annotations have a quarter of it
_DECIDED = ".decided"  # of files that are one result: what is renamed, written down before the first of them is
_made: set[str] = set()  # names of this process's temporary files


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps `path`'s suffix, since writers such as Matplotlib choose a format by it.
    Raises `UserError` naming the file when it cannot be written (permissions, a full disk).
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """As `atomic_path` for files of one folder that are one result: all are renamed when all are written, or none is.

    A process that is killed between two renames has written down what is left of them: `sweep` does it.
    """
    targets = [Path(path) for path in paths]
    with contextlib.ExitStack() as stack:
        temporaries = [stack.enter_context(temporary_beside(path)) for path in targets]
        yield temporaries
        # A target that is a temporary file already is renamed by whoever made it.
        pairs = {temporary: path for temporary, path in zip(temporaries, targets, strict=True) if temporary != path}
        for temporary, path in pairs.items():
            with _told_of(path):
                os.chmod(temporary, 0o666 & ~_umask())
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _rename_all(pairs)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, gone afterwards unless it was renamed; a `path` that is one already is itself."""
    if path.name.startswith(_mark()):
        yield path
        return
    with _told_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_mark()}{os.getpid()}-", suffix=path.suffix)
        os.close(handle)
    temporary = Path(name)
    _made.add(temporary.name)
    try:
        with _told_of(path):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _made.discard(temporary.name)


def _rename_all(pairs: Mapping[Path, Path]) -> None:
    """Rename each key to its value; of several files the list is written down before the first of them."""
    if len(pairs) < 2:
        _rename(pairs)
        return
    first = next(iter(pairs.values()))
    with temporary_beside(first.with_suffix(_DECIDED)) as decided, temporary_beside(first) as draft:
        draft.write_text(json.dumps({temporary.name: path.name for temporary, path in pairs.items()}))
        os.replace(draft, decided)
        try:
            _rename(pairs)
        except BaseException as problem:
            if not isinstance(problem, UserError):  # interrupted between two of them
                _rename(_there(pairs))
            raise


def _rename(pairs: Mapping[Path, Path]) -> None:
    for temporary, path in pairs.items():
        with _told_of(path):
            os.replace(temporary, path)


def _there(pairs: Mapping[Path, Path]) -> dict[Path, Path]:
    """What is not renamed yet."""
    return {temporary: path for temporary, path in pairs.items() if temporary.exists()}


@functools.cache
def sweep(folder: Path) -> None:
    """Finish or remove what processes that are gone left in a folder; once a process."""
    ours = re.compile(re.escape(_mark()) + r"(\d+)-")
    left = [Path(file.path) for file in os.scandir(folder) if (found := ours.match(file.name)) and _is_left(found)]
    for decided in (file for file in left if file.suffix == _DECIDED):
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            names = json.loads(decided.read_text())
            _rename(_there({folder / Path(old).name: folder / Path(new).name for old, new in names.items()}))
    for file in left:
        with contextlib.suppress(OSError):
            file.unlink()


def _is_left(found: re.Match[str]) -> bool:
    """Whether a temporary file's process is gone; one of our own number that we haven't made had it before us."""
    process = int(found[1])
    return found.string not in _made if process == os.getpid() else not _alive(process)


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


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes, atomically. What Pillow writes to a file by itself may end in the middle where the disk is full."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


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


@contextlib.contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """What the system says against writing is told of the file that was asked for."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write '{path}': {reason}; choose another folder or free some space") from error
