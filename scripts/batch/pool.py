"""Shards by a pool of workers: one a worker at a time, whatever a worker is, and what is done when one dies.

A worker is a process (`local`) or an actor of a Ray cluster (`cluster`). One that dies takes its shard with it, which
is done again when the others are finished, alone. If that kills a worker once more, its photographs are explained one
by one, and the one that kills the worker is a row with an error. A machine that is lost is held against no shard.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from common.errors import UserError
from scripts.batch.plan import Plan, opened
from scripts.batch.shard import explain_one, explain_shard, explainer_of, item_of

KILLED = "explaining it took the process down (out of memory?)"
LOST = 3  # machines that may be lost under a shard, or workers while they load the model, before it counts as its fault
PATIENCE = 60.0  # seconds without any worker until that is said


class Died(Exception):
    """A worker has died, and what it did is lost; `lost` where its whole machine went down."""

    def __init__(self, lost: bool = False) -> None:
        super().__init__("a worker died")
        self.lost = lost


class Worker(Protocol):
    """Does one thing at a time, in a process of its own."""

    def start(self) -> None:
        """Begin, or begin anew after it has died."""
        ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have it done; the future raises `Died` where the worker has not survived it."""
        ...

    def end(self) -> None:
        """End it; it has nothing to do."""
        ...

    def kill(self) -> None:
        """End it, whatever it does."""
        ...


@dataclass
class Outcome:
    """Rows with errors, and why shards failed that have no file now."""

    errors: int = 0
    failed: dict[int, str] = field(default_factory=dict)


def run(
    plan: Plan,
    shards: Sequence[int],
    workers: Sequence[Worker],
    retry: bool = False,
    tell: Callable[[int], None] | None = None,
) -> Outcome:
    """Explain these shards by these workers. `tell(shard)` is called when one is done.

    Raises `UserError` for what a user can mend, such as a full disk; whatever it raises, no worker is left.
    """
    if not shards:
        return Outcome()
    pool = Pool(plan, retry, tell or (lambda shard: None))
    try:
        for worker in workers:
            pool.begin(worker)
        for shard in pool.together(shards):
            pool.alone(shard)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    for worker in workers:
        if worker in pool.idle:
            worker.end()
        else:
            worker.kill()
    return pool.outcome


class Pool:
    """Workers at the shards of one plan: those that load the model or explain a shard, and those that wait."""

    def __init__(self, plan: Plan, retry: bool, tell: Callable[[int], None]) -> None:
        self.plan, self.retry, self.tell = plan, retry, tell
        self.idle: list[Worker] = []
        self.running: dict[Future[Any], tuple[Worker, int | None]] = {}
        self.outcome = Outcome()
        self.deaths_while_loading = 0

    def begin(self, worker: Worker) -> None:
        """Have a worker start, and load the model; it gets no shard before."""
        worker.start()
        self.running[worker.submit(ready, self.plan)] = worker, None

    def together(self, shards: Sequence[int]) -> list[int]:
        """Every worker a shard at a time; returns the shards during which a worker died."""
        todo, lost = deque(shards), Counter[int]()
        died: list[int] = []
        while todo or any(shard is not None for _, shard in self.running.values()):
            while todo and self.idle:
                worker, shard = self.idle.pop(), todo.popleft()
                self.running[worker.submit(explain_shard, self.plan, shard, self.retry)] = worker, shard
            for failed, death in self.ended():
                if death.lost:
                    logging.getLogger("saywhy").warning(
                        f"saywhy: the machine at shard {failed} was lost; again elsewhere"
                    )
                lost[failed] += death.lost
                again = todo if death.lost and lost[failed] < LOST else died
                again.append(failed)
        return died

    def ended(self) -> list[tuple[int, Died]]:
        """Wait for what ends next; returns the shards whose worker died of it, or with it."""
        found: list[tuple[int, Died]] = []
        done = wait(self.running, PATIENCE, FIRST_COMPLETED).done
        if not done and not self.idle and all(shard is None for _, shard in self.running.values()):
            logging.getLogger("saywhy").warning("saywhy: no worker has its model yet; waiting")
        for future in done:
            worker, shard = self.running.pop(future)
            try:
                if shard is None:
                    self.loaded(future)
                else:
                    self.note(future.result, shard)
                self.idle.append(worker)
            except Died as death:
                if shard is not None:
                    found.append((shard, death))
                self.again(worker, loading=shard is None and not death.lost)
        return found

    def loaded(self, future: Future[Any]) -> None:
        """Note that a worker has its model. Raises `Died` where it died, and `UserError` where it can't load it."""
        try:
            future.result()
        except (UserError, Died):
            raise
        except Exception as problem:
            raise UserError(f"a worker cannot load the model: {type(problem).__name__}: {problem}") from problem
        self.deaths_while_loading = 0

    def again(self, worker: Worker, loading: bool) -> None:
        """Start a worker anew that has died. Raises `UserError` where one after the other dies of loading the model."""
        self.deaths_while_loading += loading
        if self.deaths_while_loading >= LOST:
            raise UserError("workers die while they load the model; is there memory for it? Try fewer --workers")
        self.begin(worker)

    def note(self, result: Callable[[], int], shard: int) -> None:
        """Note how a shard ended. Raises `Died` where its worker did, and what a user can mend."""
        try:
            self.outcome.errors += result()
        except (UserError, Died):
            raise
        except Exception as problem:  # a defect of ours or of a model's: the other shards are done all the same
            self.outcome.failed[shard] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        self.tell(shard)

    def alone(self, shard: int) -> None:
        """Do a shard again during which a worker died; photograph by photograph if it dies again."""
        try:
            self.note(lambda: self.tried(explain_shard, self.plan, shard, self.retry), shard)
        except Died:
            self.note(lambda: explain_shard(self.plan, shard, self.retry, partial(self.one, shard)), shard)

    def one(self, shard: int, plan: Plan, number: int) -> dict[str, Any]:
        """The row of a photograph, which says so where it kills the worker."""
        try:
            return self.tried(explain_one, plan, shard, number)
        except Died:
            item = item_of(plan, shard, number)
            return {"key": item.key, "question": item.question, "error": KILLED}

    def tried(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What comes of it by a worker, while no other works. Raises `Died` where it kills one."""
        for _ in range(LOST):
            while not self.idle:
                self.ended()
            worker = self.idle.pop()
            future = worker.submit(work, *arguments)
            problem = future.exception()
            if not isinstance(problem, Died):
                self.idle.append(worker)
                return future.result()
            self.again(worker, loading=False)
            if not problem.lost:
                break
        raise Died


def ready(plan: Plan) -> None:
    """Load the model, and see that the plan's folder is there. Raises `UserError` where it is another's here."""
    explainer_of(plan)
    if opened(plan.out).hash != plan.hash:
        raise UserError(f"'{plan.out}' holds another plan on the worker's machine; give a folder that all share")


def failed(problem: BaseException) -> Future[Any]:
    """A future that has failed already."""
    future: Future[Any] = Future()
    future.set_exception(problem)
    return future


def translated(future: Future[Any], meant: Callable[[BaseException], BaseException]) -> Future[Any]:
    """The same future, whose exceptions are replaced by what `meant` makes of them."""
    ours: Future[Any] = Future()

    def pass_on(theirs: Future[Any]) -> None:
        problem = theirs.exception()
        if problem is None:
            ours.set_result(theirs.result())
        else:
            ours.set_exception(meant(problem))

    future.add_done_callback(pass_on)
    return ours
