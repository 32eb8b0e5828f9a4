"""The engine of one machine: a process a worker, each with a shard at a time.

A worker that dies takes its shard with it, which is done again when the others are finished, alone. If that kills a
worker once more, its photographs are explained one by one, and the one that kills the worker is a row with an error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from common.errors import UserError
from scripts.batch.plan import Plan
from scripts.batch.shard import explain_one, explain_shard, explainer_of, item_of

KILLED = "explaining it took the process down (out of memory?)"


@dataclass
class Outcome:
    """Rows with errors, and why shards failed that have no file now."""

    errors: int = 0
    failed: dict[int, str] = field(default_factory=dict)


class Worker:
    """A process of its own that does one thing at a time, and is started anew once it has died."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin)
        self.pid = self.pool.submit(os.getpid)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self.pool.submit(work, *arguments)
        except BrokenProcessPool:  # it died while it had nothing to do
            self.start()
            return self.pool.submit(work, *arguments)

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self.pid.done() and not self.pid.exception():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGKILL)
        self.pool.shutdown(wait=False, cancel_futures=True)


def run(
    plan: Plan, shards: Sequence[int], workers: int = 1, retry: bool = False, tell: Callable[[int], None] | None = None
) -> Outcome:
    """Explain these shards by so many processes; with 0, in this one. `tell(shard)` is called when one is done."""
    tell = tell or (lambda shard: None)
    outcome = Outcome()
    if workers == 0:
        for shard in shards:
            _ended(partial(explain_shard, plan, shard, retry), shard, outcome, tell)
        return outcome
    crew = [Worker() for _ in range(min(workers, len(shards)))]
    try:
        for shard in _together(plan, shards, crew, retry, outcome, tell):
            _alone(plan, shard, crew[0], retry, outcome, tell)
    except BaseException:
        for worker in crew:
            worker.kill()
        raise
    for worker in crew:
        worker.pool.shutdown()
    return outcome


def _together(
    plan: Plan,
    shards: Sequence[int],
    crew: Sequence[Worker],
    retry: bool,
    outcome: Outcome,
    tell: Callable[[int], None],
) -> list[int]:
    """Every worker a shard at a time; returns the shards during which a worker died."""
    todo, idle, died = deque(shards), list(crew), []
    running: dict[Future[Any], tuple[Worker, int]] = {}
    while todo or running:
        while todo and idle:
            worker, shard = idle.pop(), todo.popleft()
            running[worker.submit(explain_shard, plan, shard, retry)] = worker, shard
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, shard = running.pop(future)
            if not _ended(future.result, shard, outcome, tell):
                died.append(shard)
                worker.start()
            idle.append(worker)
    return died


def _alone(plan: Plan, shard: int, worker: Worker, retry: bool, outcome: Outcome, tell: Callable[[int], None]) -> None:
    """Do a shard again during which a worker died; photograph by photograph if it dies again."""
    try:
        worker.submit(_ready, plan).result()
    except BrokenProcessPool:
        worker.start()
        raise UserError("a worker dies while it loads the model; is there memory for it? Try fewer --workers") from None
    if _ended(worker.submit(explain_shard, plan, shard, retry).result, shard, outcome, tell):
        return
    worker.start()

    def one(plan: Plan, number: int) -> dict[str, Any]:
        try:
            return worker.submit(explain_one, plan, shard, number).result()
        except BrokenProcessPool:
            worker.start()
            item = item_of(plan, shard, number)
            return {"key": item.key, "question": item.question, "error": KILLED}

    _ended(lambda: explain_shard(plan, shard, retry, one), shard, outcome, tell)


def _ended(result: Callable[[], int], shard: int, outcome: Outcome, tell: Callable[[int], None]) -> bool:
    """Note how a shard ended; False where its worker died. What a user can mend ends the run."""
    try:
        outcome.errors += result()
    except BrokenProcessPool:
        return False
    except UserError:
        raise
    except Exception as problem:  # a defect of ours or of a model's: the other shards are done all the same
        outcome.failed[shard] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    tell(shard)
    return True


def _ready(plan: Plan) -> bool:
    """Load the model."""
    return explainer_of(plan) is not None


def _begin() -> None:
    """A worker's first act: leave interrupts to the driver, and end when the driver has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore")
    driver = multiprocessing.parent_process()

    def follow() -> None:
        driver.join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
