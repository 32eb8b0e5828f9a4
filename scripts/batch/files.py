"""Files of this machine or of any `fsspec` address, and the extra that reading and writing them needs."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import atomic_path


def needed(package: str, extra: str = "batch") -> Any:
    """A package of an extra of ours; one line says how to get it."""
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{package} is not installed, which this needs: pip install 'saywhy[{extra}]'") from None


class Stat(NamedTuple):
    """A file's size in bytes, and when or as what it was last written; -1 and '' where that is not known."""

    size: int = -1
    version: str = ""


def place(address: str) -> tuple[Any, str]:
    """(file system, path on it) of an address. Raises `UserError` for a kind of address that can't be opened."""
    try:
        return needed("fsspec").core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(f"'{address}' cannot be opened ({error}); install the fsspec package of its kind") from None


def is_local(address: str) -> bool:
    return "://" not in address and "::" not in address or address.startswith("file://")


def joined(folder: str, name: str) -> str:
    """An address of `name`, relative to a folder; one that is whole already stays as it is."""
    if "://" in name or name.startswith("/"):
        return name
    return posixpath.join(folder, name) if folder else name


def parent(address: str) -> str:
    return posixpath.dirname(address)


def read_bytes(address: str) -> bytes:
    """A file's bytes. Raises `UserError` where it can't be read, or has no end."""
    with reached(address):
        if not is_local(address):
            fs, path = place(address)
            return fs.cat_file(path)
        file = Path(_bare(address))
        if not (file.is_file() or file.is_dir()) and file.exists():
            raise UserError(f"{address}: is not a regular file; save it to a file first")
        return file.read_bytes()


def read_text(address: str) -> str:
    """A file's text, UTF-8. Raises `UserError` where it is none."""
    try:
        return read_bytes(address).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{address}: not UTF-8 text; save the file as UTF-8") from None


@contextmanager
def reached(address: str) -> Iterator[None]:
    """What an address answers with in place of its files, whatever the package of its kind raises, is a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{address}: {_reason(error)}") from None
    except Exception as error:
        if is_local(address):
            raise
        line = " ".join(str(error).split())[:160]
        raise UserError(
            f"{address}: cannot be reached ({type(error).__name__}: {line}); check it, and the network"
        ) from None


def stat(address: str) -> Stat:
    """Of a file of this machine or elsewhere; of one that is not there nothing is known."""
    try:
        if is_local(address):
            found = os.stat(_bare(address))
            return Stat(found.st_size, str(found.st_mtime_ns))
        fs, path = place(address)
        return stat_of(fs.info(path))
    except OSError:
        return Stat()


def stat_of(info: dict[str, Any]) -> Stat:
    """What a file system says of a file."""
    names = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    version = next((str(info[name]) for name in names if info.get(name) is not None), "")
    return Stat(int(info.get("size") or 0), version)


def walk(folder: str) -> Iterator[tuple[str, Stat]]:
    """(address, stat) of every file below a folder, folder by folder in the order of names; hidden ones are not.

    No more than one folder's names are held at a time.
    """
    if is_local(folder):
        yield from _walk_here(_bare(folder))
        return
    fs, path = place(folder)
    for here, folders, files in fs.walk(path, detail=True):
        for name in [name for name in folders if name.startswith(".")]:
            del folders[name]
        for name in sorted(name for name in files if not name.startswith(".")):
            yield fs.unstrip_protocol(posixpath.join(here, name)), stat_of(files[name])


def _walk_here(folder: str) -> Iterator[tuple[str, Stat]]:
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_file():
            about = entry.stat()
            yield entry.path, Stat(about.st_size, str(about.st_mtime_ns))
    for entry in found:
        if entry.is_dir():
            yield from _walk_here(entry.path)


@contextmanager
def written_whole(address: str) -> Iterator[Path]:
    """A temporary file of this machine that is at `address` once the block is left without an error, or not at all.

    Here: beside it, synced and renamed. Elsewhere: sent in one go. Raises `UserError` where it can't be written.
    """
    if is_local(address):
        with atomic_path(_bare(address)) as temporary:
            yield temporary
            _sync(temporary)
        _sync(Path(_bare(address)).parent)
        return
    fs, path = place(address)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / posixpath.basename(path)
        yield temporary
        try:
            fs.makedirs(parent(path), exist_ok=True)
            fs.put_file(str(temporary), path)
        except OSError as error:
            raise UserError(f"cannot write '{address}': {_reason(error)}") from error


def write_text(address: str, text: str) -> None:
    with written_whole(address) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(address: str) -> None:
    """Remove a file, if it is there."""
    fs, path = place(address)
    try:
        fs.rm_file(path)
    except (OSError, NotImplementedError):
        return


def names_in(folder: str) -> list[str]:
    """The names of what lies in a folder; none where there is no folder."""
    fs, path = place(folder)
    try:
        return sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(path, detail=False))
    except OSError:
        return []


def _bare(address: str) -> str:
    return address.removeprefix("file://")


def _sync(path: Path) -> None:
    """Have what was written to a file (or in a folder) reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    return error.strerror or str(error)
