"""What was found, as Parquet: one file a shard, there whole or not at all. See docs/scale.md for its columns."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError
from scripts.batch import files
from scripts.batch.plan import Plan

ROWS, BYTES = 256, 32 << 20  # a row group ends after so many rows, or bytes of maps


def schema(methods: Sequence[str]) -> Any:
    """The columns, with one field of `maps` for each method."""
    pa = files.needed("pyarrow")
    text, number, texts, numbers = pa.string(), pa.float64(), pa.list_(pa.string()), pa.list_(pa.float32())
    map_ = pa.struct([("data", pa.binary()), ("shape", pa.list_(pa.int32())), ("scale", pa.float32())])
    choice = pa.struct([("text", text), ("probability", number)])
    maps = [("maps", pa.struct([(method, map_) for method in methods]))] if methods else []
    return pa.schema([
        ("key", text), ("number", pa.int64()), ("sha256", text), ("width", pa.int32()), ("height", pa.int32()),
        ("question", text), ("text", text), ("probability", number), ("choices", pa.list_(choice)),
        ("words", texts), ("log_probabilities", numbers), ("unknown", texts),
        ("names", texts), ("scores", numbers), ("visual", numbers),
        ("word_gradients", numbers), ("word_drops", numbers), ("layer", text), *maps, ("error", text),
    ])  # fmt: skip


@dataclass
class Writer:
    """Rows of a shard on their way to its file, a row group at a time."""

    parquet: Any
    schema: Any
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    count: int = 0
    errors: int = 0

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append({**row, "number": self.count})
        self.size += sum(len(map_["data"]) for map_ in (row.get("maps") or {}).values())
        self.count, self.errors = self.count + 1, self.errors + (row.get("error") is not None)
        if len(self.rows) >= ROWS or self.size >= BYTES:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.parquet.write_table(files.needed("pyarrow").Table.from_pylist(self.rows, self.schema))
        self.rows, self.size = [], 0


@contextmanager
def writer(plan: Plan, shard: int) -> Iterator[Writer]:
    """Where a shard's rows are written: its file is there when the block is left without an error.

    The file's metadata says `saywhy`: the plan's hash and what it asks, the shard, the numbers of rows
    and errors, when it was begun, and how many seconds it took by the clock and of its process's processors.
    """
    pq, columns = files.needed("pyarrow.parquet"), schema(plan.asked.get("methods", ()))
    began, processors = time.time(), time.process_time()
    known = {"plan": plan.hash, "shard": shard, "task": plan.task, "asked": plan.asked, "model": plan.model}
    with files.written_whole(plan.shard_address(shard)) as temporary:
        try:
            with pq.ParquetWriter(str(temporary), columns, compression="zstd") as parquet:
                out = Writer(parquet, columns)
                yield out
                out.flush()
                record = {**known, "rows": out.count, "errors": out.errors, "began": began}
                record |= {"seconds": time.time() - began, "processor_seconds": time.process_time() - processors}
                parquet.add_key_value_metadata({"saywhy": json.dumps(record, ensure_ascii=False)})
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write '{plan.shard_address(shard)}': {reason}; free some space") from error


def about(address: str) -> dict[str, Any] | None:
    """What a shard's file says of itself; None for a file that is not there, or not one of ours."""
    fs, path = files.place(address)
    try:
        with fs.open(path, "rb") as stream:
            return json.loads(files.needed("pyarrow.parquet").read_metadata(stream).metadata[b"saywhy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def done(plan: Plan) -> dict[int, dict[str, Any]]:
    """What the shards' files say of themselves that are there with this plan's hash, by number."""
    names = set(files.names_in(plan.out))
    there = [shard for shard in range(plan.shards) if f"shard-{shard:05d}.parquet" in names]
    found = {shard: about(plan.shard_address(shard)) for shard in there}
    hash_, kept = plan.hash, ("shard", "rows", "errors", "began", "seconds")  # millions of them are held
    ours = ((shard, record) for shard, record in found.items() if record and record["plan"] == hash_)
    return {shard: {name: record[name] for name in kept} for shard, record in ours}


def rows_of(address: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one shard's file, a few at a time."""
    fs, path = files.place(address)
    try:
        with fs.open(path, "rb") as stream:
            for batch in files.needed("pyarrow.parquet").ParquetFile(stream).iter_batches(64, columns=columns):
                yield from batch.to_pylist()
    except (OSError, files.needed("pyarrow").ArrowException) as problem:
        line = " ".join(str(problem).split())[:120]
        raise UserError(f"'{address}' is damaged ({line}); delete it and run the batch again") from None


def rows(out: str, columns: Sequence[str] | None = None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, what its file says of itself) of every row in a folder, shard by shard."""
    for name in files.names_in(out):
        if name.startswith("shard-") and name.endswith(".parquet"):
            address = files.joined(out, name)
            known = about(address)
            if known is None:
                raise UserError(f"'{address}' was not written by `saywhy batch`")
            yield from ((row, known) for row in rows_of(address, columns))
