"""A command in a process that dies at a chosen moment, for `test_kills`.

The moment is the n-th time that it is about to change something in a folder (every opening for writing, renaming,
removal and change of permissions), a file's size in bytes, or a share of the time it takes: by SIGKILL or SIGTERM.
Processes are forked from one that has imported everything, and their clocks stand still, so that files come out alike.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

LIBRARIES = (
    "torch", "timm", "h5py", "pyarrow.parquet", "matplotlib.figure", "matplotlib.backends.backend_agg", "captioning",
    "vqa", "classification", "common.draw", "common.panels", "common.training.trunk.stages",
    "captioning.training.stages", "vqa.training.stages", "common.widget.fragment", "scripts.saywhy",
    "scripts.study.build", "scripts.study.analyse", "scripts.study.report", "scripts.experiments.lab",
    "scripts.experiments.page", "scripts.experiments.manifest", "scripts.experiments.figure12", "scripts.batch.local",
)  # fmt: skip
CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink",
}  # fmt: skip
ONE = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


class Moment(NamedTuple):
    """When a process dies, and by which signal: `at` the n-th change, size in bytes, or so many seconds."""

    by: str = "nothing"  # change, size, time
    at: float = -1
    signal: int = signal.SIGKILL


NEVER = Moment()


class Changes:
    """Counts what a process is about to change in a folder, and sends itself the signal before the chosen one."""

    def __init__(self, folder: str, moment: Moment) -> None:
        self.folder, self.moment, self.count = folder, moment, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if not (event in CHANGES or (event == "open" and _writes(arguments))) or not self._inside(arguments):
            return
        self.count += 1
        if self.moment.by == "change" and self.count == self.moment.at:
            os.kill(os.getpid(), self.moment.signal)

    def _inside(self, arguments: tuple) -> bool:
        return any(
            os.fspath(each).startswith(self.folder) for each in arguments if isinstance(each, (str, os.PathLike))
        )


def _writes(arguments: tuple) -> bool:
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


class End(NamedTuple):
    """How a process ended: its status, negative for the signal it died of; the changes it made, and seconds."""

    status: int
    changes: int
    seconds: float


def ended(words: list[str], folder: Path, moment: Moment = NEVER) -> End:
    """Do what a command's words say in `folder`, until the moment."""
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(words, str(folder), moment, writer))
    began = time.monotonic()
    process.start()
    writer.close()
    if moment.by == "time":
        process.join(moment.at)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, moment.signal)  # type: ignore[arg-type]
    process.join(120)
    changes = 0
    with contextlib.suppress(EOFError):
        changes = reader.recv()
    return End(int(process.exitcode), changes, time.monotonic() - began)  # type: ignore[arg-type]


def prepare() -> None:
    """Start the process that the others are forked from, with one thread and everything imported."""
    context = multiprocessing.get_context("forkserver")
    before = {name: os.environ.get(name) for name in ONE}
    os.environ.update(ONE)
    context.set_forkserver_preload([*LIBRARIES])
    try:
        context.Process(target=int).start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(words: list[str], folder: str, moment: Moment, writer: Connection) -> None:
    os.chdir(folder)
    os.environ.update(TMPDIR=folder, SAYWHY_DEBUG="1")
    for number in (1, 2):
        os.dup2(os.open(f"{folder}.said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
    if moment.by == "size":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment.at), int(moment.at)))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    changes = Changes(folder, moment)
    sys.addaudithook(changes)
    status = _status(words)
    writer.send(changes.count)
    sys.stdout.flush()
    os._exit(status)


def _status(words: list[str]) -> int:
    """The exit status of `saywhy ...`, or of a program of scripts.experiments."""
    from scripts.door import guarded
    from scripts.saywhy import main

    name, *arguments = words
    try:
        if name == "saywhy":
            return main(arguments)
        return guarded(lambda: import_module(name).main(arguments))
    except SystemExit as left:
        return int(left.code or 0)
