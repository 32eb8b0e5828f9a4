"""The engine of one machine: a process a worker, each with a shard at a time; see `pool`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from scripts.batch import pool
from scripts.batch.plan import Plan
from scripts.batch.pool import Died, Outcome


class Here:
    """This very process: what is submitted is done at once."""

    def start(self) -> None: ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as problem:
            future.set_exception(problem)
        return future

    def end(self) -> None: ...

    def kill(self) -> None: ...


class Process:
    """A process of its own, which ends with this one."""

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin)
        self.pid = self.executor.submit(os.getpid)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return pool.translated(self.executor.submit(work, *arguments), _meant)
        except BrokenProcessPool as problem:  # it died while it had nothing to do
            return pool.failed(_meant(problem))

    def end(self) -> None:
        self.executor.shutdown()

    def kill(self) -> None:
        if self.pid.done() and not self.pid.exception():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGKILL)
        self.executor.shutdown(wait=False, cancel_futures=True)


def run(
    workers: int, plan: Plan, shards: Sequence[int], retry: bool = False, tell: Callable[[int], None] | None = None
) -> Outcome:
    """Explain these shards by so many processes; with 0, in this one. `tell(shard)` is called when one is done."""
    found: list[pool.Worker] = [Process() for _ in range(min(workers, len(shards)))] if workers else [Here()]
    return pool.run(plan, shards, found, retry, tell)


def _meant(problem: BaseException) -> BaseException:
    return Died() if isinstance(problem, BrokenProcessPool) else problem


def _begin() -> None:
    """A worker's first act: leave interrupts to the driver, and end when the driver has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore")
    driver = multiprocessing.parent_process()

    def follow() -> None:
        driver.join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
