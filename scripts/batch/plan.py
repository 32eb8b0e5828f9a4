"""What a run is to do, written down once: what is asked of which model, and the input in shards.

    DIR/.plan/plan.json      what is asked, by which model and versions; its hash; the number of shards
    DIR/.plan/items.parquet  the sources, a row group a shard
    DIR/shard-00000.parquet  what was found, see `store`

A folder holds one plan. Whoever comes with another is refused and told what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from common.errors import UserError
from scripts.batch import files
from scripts.batch.records import Source

FOLDER = ".plan"
SHARD = 256  # sources in a shard, where there are thousands
_PARTS = 16  # fewer are split in as many shards


@dataclass(frozen=True)
class Plan:
    """`asked` and `model` decide what is found, and make the hash with the input; `how` does not: device, batch size.

    `loader` names the function, "module:name", that makes the model's explainer (see `tasks`) of a plan.
    """

    out: str
    task: str
    loader: str
    asked: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    shards: int = 0
    how: dict[str, Any] = field(default_factory=dict)

    def what(self) -> dict[str, Any]:
        """All that decides what is found."""
        return {name: value for name, value in asdict(self).items() if name not in ("out", "how")}

    @property
    def hash(self) -> str:
        return _digest(self.what())

    def address(self, *names: str) -> str:
        return files.joined(self.out.rstrip("/") or "/", "/".join(names))

    def shard_address(self, shard: int) -> str:
        return self.address(f"shard-{shard:05d}.parquet")

    def sources(self, shard: int) -> list[Source]:
        """What is in a shard."""
        return next(self.sources_of([shard]))

    def sources_of(self, shards: Iterable[int]) -> Iterator[list[Source]]:
        """What is in each of these shards, a shard at a time."""
        address = self.address(FOLDER, "items.parquet")
        fs, path = files.place(address)
        with fs.open(path, "rb") as stream:
            table = files.needed("pyarrow.parquet").ParquetFile(stream, metadata=_footer(address, self.hash))
            for shard in shards:
                rows = table.read_row_group(shard).to_pylist()
                yield [Source(**{**row, "answers": tuple(row["answers"])}) for row in rows]


@lru_cache(1)
def _footer(address: str, hash_: str) -> Any:
    """Where in a plan's list its shards are: read once in a process, since that of a million sources takes its time."""
    fs, path = files.place(address)
    with fs.open(path, "rb") as stream:
        return files.needed("pyarrow.parquet").read_metadata(stream)


def prepared(plan: Plan, sources: Iterable[Source], shard_size: int | None = None) -> Plan:
    """The plan as it lies in its folder, written there first if there is none.

    Raises `UserError`, naming what differs, where another plan lies there, and the file where the input has changed.
    """
    stored = stored_plan(plan.out)
    if stored is None:
        plan = _written(plan, sources, shard_size)
        stored = stored_plan(plan.out)  # another worker may have been first
        assert stored is not None
        return replace(_checked(plan, stored), how=plan.how)
    _same(plan, stored, ("task", "loader", "asked", "model"))
    if shard_size is not None and shard_size != stored.input["shard_size"]:
        raise UserError(_refused(plan.out, "shard_size", stored.input["shard_size"], shard_size))
    changed = _first_change(stored, sources)
    if changed:
        raise UserError(f"the input has changed since '{plan.out}' was begun: {changed}; give another --out")
    return replace(stored, how=plan.how)


def stored_plan(out: str) -> Plan | None:
    """The plan in a folder; None where there is none."""
    empty = Plan(out, "", "", {})
    try:
        record = json.loads(files.read_bytes(empty.address(FOLDER, "plan.json")))
        plan = Plan(out, **record["what"])
    except UserError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the plan in '{out}' cannot be read ({error}); give another folder with --out") from None
    if plan.hash != record["hash"]:
        raise UserError(f"the plan in '{out}' does not fit its hash: it was changed by hand; give another folder")
    return plan


def opened(out: str) -> Plan:
    """The plan in a folder. Raises `UserError` where there is none."""
    plan = stored_plan(out)
    if plan is None:
        raise UserError(f"'{out}' has no plan; it is not a folder that `saywhy batch` writes to")
    return plan


def shard_size_of(first: Sequence[Source]) -> int:
    """Sources a shard, of the input's first `SHARD * 16`: one for a file of many, else so many that work divides."""
    if first[0].kind != "image":
        return 1
    return SHARD if len(first) >= SHARD * _PARTS else max(1, -(-len(first) // _PARTS))


def _written(plan: Plan, sources: Iterable[Source], shard_size: int | None) -> Plan:
    """List the sources in shards, without holding them all, and then what is asked: who sees the plan sees its list."""
    pa, pq = files.needed("pyarrow"), files.needed("pyarrow.parquet")
    texts = ("kind", "address", "key", "version", "question")
    columns = [(name, pa.string() if name in texts else pa.int64()) for name in Source._fields[:-1]]
    schema = pa.schema([*columns, ("answers", pa.list_(pa.string()))])
    sources = iter(sources)
    first = list(islice(sources, SHARD * _PARTS))
    size = shard_size or shard_size_of(first)
    count = shards = 0
    digest = hashlib.sha256()
    with (
        files.written_whole(plan.address(FOLDER, "items.parquet")) as temporary,
        pq.ParquetWriter(str(temporary), schema, compression="zstd") as writer,
    ):
        for part in _parts(chain(first, sources), size):
            for source in part:
                digest.update(repr(tuple(source)).encode())
            writer.write_table(pa.Table.from_pylist([each._asdict() for each in part], schema), len(part))
            count, shards = count + len(part), shards + 1
    known = {"sources": count, "sha256": digest.hexdigest(), "shard_size": size}
    plan = replace(plan, input={**plan.input, **known}, shards=shards)
    text = json.dumps({"hash": plan.hash, "what": plan.what()}, indent=2, ensure_ascii=False)
    files.write_text(plan.address(FOLDER, "plan.json"), text + "\n")
    return plan


def _parts(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    sources = iter(sources)
    while part := list(islice(sources, size)):
        yield part


def _first_change(plan: Plan, sources: Iterable[Source]) -> str:
    """What of the input is not as the plan has it, file by file; '' where nothing is."""
    found = iter(sources)
    for before in chain.from_iterable(plan.sources_of(range(plan.shards))):
        now = next(found, None)
        if now is None or now != before:
            return _change(before, now)
    more = next(found, None)
    return f"'{more.key}' is new" if more else ""


def _change(before: Source, now: Source | None) -> str:
    if now is None or now.key > before.key:
        return f"'{before.key}' is not there any more"
    if now.key != before.key:
        return f"'{now.key}' is new"
    if now.question != before.question or now.answers != before.answers:
        return f"the question about '{now.key}' is '{now.question}', was '{before.question}'"
    return f"'{now.key}' was written again (it has {now.size} bytes, had {before.size})"


def _checked(plan: Plan, stored: Plan) -> Plan:
    _same(plan, stored, ("task", "loader", "asked", "model", "input"))
    return stored


def _same(plan: Plan, stored: Plan, names: Sequence[str]) -> None:
    """Raises `UserError` for the first of these in which two plans differ."""
    for name in names:
        before, now = _flat(name, getattr(stored, name)), _flat(name, getattr(plan, name))
        for key in [*before, *(key for key in now if key not in before)]:
            if before.get(key) != now.get(key):
                raise UserError(_refused(plan.out, key, before.get(key), now.get(key)))


def _refused(out: str, what: str, before: Any, now: Any) -> str:
    return (
        f"'{out}' was begun with {what} {_shown(before)}, and this is {_shown(now)};"
        " give the same again, or another folder with --out"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: json.loads(json.dumps(value))}
    return {key: each for part, inner in value.items() for key, each in _flat(f"{name}.{part}", inner).items()}


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
