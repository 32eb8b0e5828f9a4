"""Feature maps on disk: an HDF5 file with one row for each image, written once for each trunk and image set.

All storage is allocated when the file is made (and the file gets its name only then), so filling rows never
changes the file's structure: a kill at any moment leaves a readable file. A row's `done` mark is written
after its data is flushed; rows without a mark are simply computed again.

    with FeatureStore.open(path, names, shape, fingerprint) as store:
        store.fill(compute)                 # resumes where it stopped
    store = FeatureStore(path, fingerprint)
    store.read(store.rows(["a.jpg", "b.jpg"]))                # (2, *shape), float16
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from common.errors import UserError
from common.files import atomic_path


class FeatureStore:
    """Reads (opened for writing: fills) the rows of one file; safe to share with worker processes."""

    def __init__(self, path: str | os.PathLike[str], fingerprint: str, mode: str = "r"):
        self.path, self.mode = Path(path), mode
        self._file: h5py.File | None = None
        self._owner = -1
        file = self.file
        self.names: list[str] = [name.decode() for name in file["names"][:]]
        self.row = {name: i for i, name in enumerate(self.names)}
        self.shape: tuple[int, ...] = tuple(file["features"].shape[1:])
        stored = str(file.attrs["fingerprint"])
        if stored != fingerprint:
            self.close()
            raise UserError(
                f"feature store '{path}' holds features of another trunk ({stored}, wanted {fingerprint}); "
                "delete it or name another file"
            )

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], names: Sequence[str], shape: Sequence[int], fingerprint: str
    ) -> FeatureStore:
        """Open for filling; make the file when there is none. Raises when it was made for other images."""
        if not Path(path).exists():
            _create(Path(path), names, tuple(shape), fingerprint)
        store = cls(path, fingerprint, mode="r+")
        if store.names != list(names) or store.shape != tuple(shape):
            store.close()
            raise UserError(
                f"feature store '{path}' was made for {len(store.names)} images of shape {store.shape}, "
                f"not for these {len(names)} of shape {tuple(shape)}; delete it or name another file"
            )
        return store

    @property
    def file(self) -> h5py.File:
        """The file as this process has it open: a forked worker opens it again for itself."""
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = _open(self.path, self.mode), os.getpid()
        return self._file

    def missing(self) -> list[int]:
        """Rows that are not written yet."""
        return [int(i) for i in np.flatnonzero(self.file["done"][:] == 0)]

    def write(self, rows: Sequence[int], values: np.ndarray) -> None:
        """Write the data of `rows`, flush it, then mark the rows as done and flush again."""
        try:
            for row, value in zip(rows, values, strict=True):
                self.file["features"][row] = value
            self.file.flush()
            for row in rows:
                self.file["done"][row] = 1
            self.file.flush()
        except (OSError, RuntimeError) as error:
            raise _full(self.path, error) from error

    def fill(
        self,
        compute: Callable[[list[str]], np.ndarray],
        batch: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the missing rows: `compute` gets names and returns (len(names), *shape)."""
        missing = self.missing()
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            self.write(rows, compute([self.names[row] for row in rows]))
            if progress:
                progress(len(self.names) - len(missing) + start + len(rows), len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, names: Sequence[str]) -> list[int]:
        """Rows of `names`; raises for a name that the store lacks."""
        for name in names:
            if name not in self.row:
                raise UserError(f"feature store '{self.path}' has no image '{name}'; make it again for these images")
        return [self.row[name] for name in names]

    def read(self, rows: Sequence[int], view: int | Sequence[int] | None = None) -> np.ndarray:
        """Data of `rows` in their order; `view` picks one index of the first axis for each row."""
        features, done = self.file["features"], self.file["done"]
        views = [view] * len(rows) if view is None or isinstance(view, int) else list(view)
        shape = self.shape if view is None else self.shape[1:]
        out = np.empty((len(rows), *shape), features.dtype)
        for i, (row, picked) in enumerate(zip(rows, views, strict=True)):
            if not done[row]:
                raise UserError(
                    f"feature store '{self.path}' is not complete: image '{self.names[row]}' is missing; "
                    "run the command that made it again, it goes on where it stopped"
                )
            try:
                out[i] = features[row] if picked is None else features[row, picked]
            except OSError as error:
                raise _broken(self.path) from error
        return out

    def close(self) -> None:
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}


def complete(path: Path, names: Sequence[str], fingerprint: str) -> FeatureStore | None:
    """The store of just these rows, open for reading, where all of them are written: many may read it at once."""
    if not path.exists():
        return None
    store = FeatureStore(path, fingerprint)
    if store.names == list(names) and not store.missing():
        return store
    store.close()
    return None


def complete_store(
    path: Path,
    files: dict[str, Path],
    fingerprint: str,
    encode: Callable[[Sequence[Path]], np.ndarray],
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """A store with a row for each of `files` (name -> file); goes on where an earlier call stopped.

    `encode` makes the rows of some files (len(files), *shape). The store comes back open for reading.
    """
    names = list(files)
    if (known := complete(path, names, fingerprint)) is not None:
        return known
    shape = encode([files[names[0]]]).shape[1:]
    with FeatureStore.open(path, names, shape, fingerprint) as store:
        store.fill(lambda wanted: encode([files[name] for name in wanted]), batch, progress)
    return FeatureStore(path, fingerprint)


def _create(path: Path, names: Sequence[str], shape: tuple[int, ...], fingerprint: str) -> None:
    if len(set(names)) != len(names):
        raise UserError("a feature store has one row for each image; an image is listed twice")
    needed = len(names) * int(np.prod(shape)) * np.dtype("float16").itemsize
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"feature store '{path}' needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "name a file on another disk or free some space"
        )
    encoded = np.array([name.encode() for name in names])
    chunk = (1, 1, *shape[1:]) if len(shape) > 3 else (1, *shape)
    with atomic_path(path) as temporary:
        _reserve(temporary, needed + encoded.nbytes + 256 * len(names) * (shape[0] if len(shape) > 3 else 1) + 2**16)
        with h5py.File(temporary, "w") as file:
            file.attrs["fingerprint"] = fingerprint
            file.create_dataset("names", data=encoded)
            _allocated(file, "done", (len(names),), np.dtype("uint8"), (len(names),))
            _allocated(file, "features", (len(names), *shape), np.dtype("float16"), chunk)
        _reserve(temporary, temporary.stat().st_size)


def _reserve(path: Path, size: int) -> None:
    """Have the disk set aside the whole of a file: HDF5 can end the process where it finds no room for what it holds.

    Raises `OSError` where there is too little room. Some file systems can't set any aside.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
    finally:
        os.close(handle)


def _allocated(file: h5py.File, name: str, shape: tuple, dtype: np.dtype, chunk: tuple) -> None:
    """A chunked data set whose storage exists from the start, so that writing changes no structure."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk(chunk)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_IFSET if name != "done" else h5py.h5d.FILL_TIME_ALLOC)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), settings)


def _open(path: Path, mode: str) -> h5py.File:
    try:
        file = h5py.File(path, mode)
    except FileNotFoundError:
        raise UserError(f"feature store '{path}' is missing; run the training command, which makes it") from None
    except BlockingIOError as error:
        raise UserError(f"feature store '{path}' is in use by another process; wait for it to end") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot open feature store '{path}': {os.strerror(error.errno)}") from error
        raise _broken(path) from error
    if not {"names", "done", "features"} <= set(file) or "fingerprint" not in file.attrs:
        file.close()
        raise UserError(f"'{path}' is an HDF5 file but not a feature store; name another file")
    return file


def _broken(path: Path) -> UserError:
    return UserError(f"feature store '{path}' is truncated or not an HDF5 file; delete it and run again")


def _full(path: Path, error: OSError | RuntimeError) -> UserError:
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number else str(error).splitlines()[0]
    return UserError(
        f"cannot write feature store '{path}': {reason}; free some space and run again: finished rows are kept"
    )
