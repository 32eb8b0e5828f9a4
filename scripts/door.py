"""The door that every command goes through: what went wrong ends in one line and a status, never in a traceback.

    status  what happened
    0       done
    2       something that the caller can mend: an argument, a file, a full disk, too little memory
    70      an error of ours; `--debug`, or SAYWHY_DEBUG=1, shows where
    130     interrupted from the keyboard
    141     whoever read the output has left
    143     terminated (SIGTERM)

Files are written to a temporary name and renamed, so what is finished is whole, whatever the status.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import UserError
from common.printed import PrintableStream
from scripts import console as cli

INTERNAL, INTERRUPTED, CLOSED, TERMINATED = 70, 130, 141, 143
_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "std::bad_alloc")


class _Terminated(BaseException):
    """SIGTERM, as something that leaves blocks the way an interrupt does."""


def guarded(work: Callable[[], Any], debug: bool = False) -> int:
    """Do the work of a command; returns its exit status (None counts as 0). What it prints is made printable."""
    debug = debug or bool(os.environ.get("SAYWHY_DEBUG"))
    try:
        with _terminable(), contextlib.redirect_stdout(PrintableStream(sys.stdout)):
            status = work()
            sys.stdout.flush()
        return int(status or cli.OK)
    except SystemExit:  # argparse has said why
        raise
    except BaseException as problem:
        if debug:
            traceback.print_exc()
        return _told(problem)


def _told(problem: BaseException) -> int:
    """Say in one line what went wrong; returns the status."""
    _give_up_output()
    if isinstance(problem, BrokenPipeError):
        return CLOSED
    if isinstance(problem, KeyboardInterrupt):
        return _said("stopped; what was finished is kept", INTERRUPTED)
    if isinstance(problem, _Terminated):
        return _said("terminated; what was finished is kept", TERMINATED)
    if isinstance(problem, UserError):
        return _said(f"error: {problem}", cli.FAILED)
    if _is_of_memory(problem):
        line = "error: not enough memory; give smaller or fewer photographs at once, or a machine with more"
        return _said(line, cli.FAILED)
    if isinstance(problem, OSError):
        return _said(f"error: {_of_system(problem)}", cli.FAILED)
    if isinstance(problem, RecursionError):
        return _said("error: something is nested too deeply to be read; look at what was given last", cli.FAILED)
    kind, first = type(problem).__name__, (str(problem).splitlines() or [""])[0]
    return _said(f"internal error: {kind}: {first}; --debug shows where", INTERNAL)


def _said(line: str, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # nobody may be left to read it
        cli.report(line)
    return status


def _is_of_memory(problem: BaseException) -> bool:
    if isinstance(problem, MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _MEMORY)


def _of_system(problem: OSError) -> str:
    what = f" '{problem.filename}'" if problem.filename is not None else ""
    return f"{problem.strerror or problem}{what}; look at the folder's permissions and at what is free on the disk"


def _give_up_output() -> None:
    """Write what was printed; where that can't be, nothing more is said on standard output, not even at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM leaves the block as an exception, so that temporary files go, as they do at an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
