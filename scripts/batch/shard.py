"""One shard of a plan, from photographs to rows. Nothing here knows who runs it, or what else is run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from common.errors import UserError
from scripts.batch import files, store
from scripts.batch.inputs import items
from scripts.batch.plan import FOLDER, Plan
from scripts.batch.records import Item


class Read(NamedTuple):
    """A photograph that was read, as the model takes it; or why it could not be."""

    item: Item
    sha256: str | None = None
    sample: Any = None
    error: str | None = None
    row: dict[str, Any] | None = None  # what an earlier run has found of it


def explain_shard(plan: Plan, shard: int, retry: bool = False, alone: Callable[[Plan, int], Any] | None = None) -> int:
    """Explain a shard's photographs and write its file; returns the number of rows with an error.

    A photograph that can't be read or explained is a row with its `error`. `retry` explains those alone of which an
    earlier run could not. `alone(plan, number)` explains one photograph in place of the model at hand.
    """
    with _marked(plan, shard), store.writer(plan, shard) as out:
        kept = _kept(plan, shard) if retry else {}
        if alone is None:
            for row in _rows(plan, _items(plan, shard), kept):
                out.write(row)
        else:
            for number, _ in enumerate(_items(plan, shard)):
                out.write(kept.get(number) or alone(plan, number))
    return out.errors


def explain_one(plan: Plan, shard: int, number: int) -> dict[str, Any]:
    """The row of one photograph of a shard."""
    return next(_rows(plan, [item_of(plan, shard, number)], {}))


def item_of(plan: Plan, shard: int, number: int) -> Item:
    """One photograph of a shard."""
    return next(item for place, item in enumerate(_items(plan, shard)) if place == number)


def explainer_of(plan: Plan) -> Any:
    """The model of a plan, loaded once in a process. Raises `UserError` where it is not the plan's any more."""
    explainer = _loaded(plan.loader, plan.task, json.dumps(plan.asked), json.dumps(plan.how))
    if plan.model and explainer.about != plan.model:
        raise UserError("the model is not the one the plan was made with: its weights or versions have changed")
    return explainer


@lru_cache(1)
def _loaded(loader: str, task: str, asked: str, how: str) -> Any:
    module, _, name = loader.partition(":")
    return getattr(import_module(module), name)(task, json.loads(asked), json.loads(how))


def _items(plan: Plan, shard: int) -> Iterator[Item]:
    """The photographs of a shard; a file that breaks off ends in one that can't be read."""
    for source in plan.sources(shard):
        try:
            yield from items(source)
        except (UserError, OSError, ValueError) as problem:
            yield Item(source.key, partial(_refuse, " ".join(str(problem).split())))


def _refuse(problem: str) -> bytes:
    raise UserError(problem)


def _kept(plan: Plan, shard: int) -> dict[int, dict[str, Any]]:
    """The rows without an error that an earlier run has written, by number."""
    if store.about(plan.shard_address(shard)) is None:
        return {}
    rows = store.rows_of(plan.shard_address(shard))
    return {row["number"]: row for row in rows if row["error"] is None}


def _rows(plan: Plan, found: Iterable[Item], kept: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of photographs, in order: read and decoded by threads while the model explains those before."""
    explainer, size = explainer_of(plan), int(plan.how.get("batch", 1))
    read: list[Read] = []
    for each in _ahead(partial(_read, explainer, kept), enumerate(found), int(plan.how.get("decoders", 1)), 2 * size):
        read.append(each)
        if sum(one.sample is not None for one in read) == size or len(read) == 4 * size:
            yield from _explained(explainer, read)
            read = []
    yield from _explained(explainer, read)


def _ahead(work: Callable[[Any], Any], given: Iterable[Any], threads: int, ahead: int) -> Iterator[Any]:
    """`map(work, given)` by threads, at most `ahead` of them done before they are asked for."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Any]] = deque()
        for each in given:
            under_way.append(pool.submit(work, each))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _read(explainer: Any, kept: dict[int, dict[str, Any]], numbered: tuple[int, Item]) -> Read:
    number, item = numbered
    if number in kept:
        return Read(item, row=kept[number])
    sha256 = None
    try:
        data = item.read()
        sha256 = hashlib.sha256(data).hexdigest()
        return Read(item, sha256, explainer.prepare(data, item))
    except UserError as problem:
        return Read(item, sha256, error=str(problem))


def _explained(explainer: Any, read: Sequence[Read]) -> Iterator[dict[str, Any]]:
    found = iter(_found(explainer, [each.sample for each in read if each.sample is not None]))
    for each in read:
        known = {"key": each.item.key, "sha256": each.sha256, "question": each.item.question}
        if each.row is not None:
            yield each.row
        else:
            yield {**known, **({"error": each.error} if each.sample is None else next(found))}


def _found(explainer: Any, samples: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows of samples; where they can't be explained together, one by one, to find the one that can't."""
    if not samples:
        return []
    try:
        return explainer.explain(samples)
    except (UserError, RuntimeError, MemoryError) as problem:
        if len(samples) == 1:
            return [{"error": " ".join(str(problem).split())[:500] or type(problem).__name__}]
        return [row for sample in samples for row in _found(explainer, [sample])]


def clear_marks(plan: Plan, done: Collection[int]) -> None:
    """Remove the marks of shards that are done, which processes left that were killed right then."""
    for name in files.names_in(plan.address(FOLDER, "running")):
        if name.removeprefix("shard-").removesuffix(".json") in {f"{shard:05d}" for shard in done}:
            files.remove(plan.address(FOLDER, "running", name))


@contextmanager
def _marked(plan: Plan, shard: int) -> Iterator[None]:
    """Say, for `saywhy batch status`, that a shard is under way."""
    mark = plan.address(FOLDER, "running", f"shard-{shard:05d}.json")
    files.write_text(mark, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}))
    try:
        yield
    finally:
        files.remove(mark)
