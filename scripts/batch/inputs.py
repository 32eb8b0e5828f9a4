"""Photographs wherever they lie: folders, globs, lists, JSONL and CSV, tar shards, Parquet, data sets of the Hub.

`sources` lists them, without opening any; `items` reads a source's photographs. A source is one photograph, or a file
that holds many: a tar shard as WebDataset writes it, a row group of a Parquet file. All but the Hub's may lie at any
address of `fsspec`.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from common.errors import UserError
from scripts.batch import files, hub, records
from scripts.batch.records import Item, Source, question_of

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif")


def sources(inputs: Sequence[str], question: str | None = None) -> Iterator[Source]:
    """What is named on the command line, in the order given; within a folder by name.

    Of one folder or glob a photograph's key is its path below; of several inputs it is its address.
    Raises `UserError` for what is not there, of no known kind, or without a photograph.
    """
    for given in inputs:
        found, any_found = _of_argument(given), False
        for source in found:
            any_found = True
            source = source._replace(key=source.address) if len(inputs) > 1 else source
            yield source if source.question or not question else source._replace(question=question)
        if not any_found:
            raise UserError(f"'{given}' holds no photographs ({', '.join(IMAGES[:4])}, ...), tar or Parquet files")


def _of_argument(given: str) -> Iterator[Source]:
    with files.reached(given):
        for address in _expanded(given):
            yield from _of_address(address, given)


def _expanded(given: str) -> Iterator[str]:
    """The addresses of one argument: `{000..099}` counts, `*` and `?` match names."""
    if hub.is_hub(given):
        yield given
        return
    span = re.search(r"\{(\d+)\.\.(\d+)\}", given)
    if span:
        low, high = span.groups()
        for number in range(int(low), int(high) + 1):
            yield from _expanded(f"{given[: span.start()]}{number:0{len(low)}d}{given[span.end() :]}")
    elif any(letter in given for letter in "*?["):
        fs, path = files.place(given)
        here = files.is_local(given) and not given.startswith("/")
        found = sorted(fs.glob(path))
        if not found:
            raise UserError(f"no file matches '{given}'")
        for name in found:
            yield posixpath.relpath(name) if here else name if files.is_local(given) else fs.unstrip_protocol(name)
    else:
        yield given


def _of_address(address: str, given: str) -> Iterator[Source]:
    if hub.is_hub(address):
        yield from hub.spans(address)
        return
    fs, path = files.place(address)
    if fs.isdir(path):
        yield from _of_folder(address)
        return
    if not fs.exists(path):
        raise UserError(f"'{address}' is not there; give a folder, photographs, a list, tar or Parquet files")
    fixed = files.parent(re.split(r"[*?\[{]", given)[0]) if address != given else ""
    yield from _of_file(address, address.removeprefix(fixed).lstrip("/") if fixed else address, files.stat(address))


def _of_folder(folder: str) -> Iterator[Source]:
    """The photographs of a folder; where it has none, its tar and Parquet files."""
    for wanted in (IMAGES, (".tar", ".tar.gz", ".tgz", ".parquet")):
        any_found = False
        for address, stat in files.walk(folder):
            if address.lower().endswith(wanted):
                any_found = True
                yield from _of_file(address, _below(folder, address), stat)
        if any_found:
            return


def _below(folder: str, address: str) -> str:
    base = folder if files.is_local(folder) else files.place(folder)[0].unstrip_protocol(files.place(folder)[1])
    return address[len(base.removeprefix("file://")) :].lstrip("/")


def _of_file(address: str, key: str, stat: files.Stat) -> Iterator[Source]:
    name = address.lower()
    if name.endswith(IMAGES):
        yield Source("image", address, key, *stat)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        yield Source("tar", address, key, *stat)
    elif name.endswith(".parquet"):
        groups = _parquet_groups(address)
        yield from (Source("parquet", address, key, *stat, part) for part in range(groups))
    elif name.endswith((".jsonl", ".csv", ".json")):
        yield from _of_table(address)
    elif name.endswith((".txt", ".lst")):
        lines = files.read_text(address).splitlines()
        yield from (_listed(address, line.strip()) for line in lines if line.strip())
    else:
        raise UserError(
            f"'{address}' is of no known kind; give a folder, photographs, .txt, .jsonl, .csv, .tar or .parquet"
        )


def _listed(table: str, image: str, question: str | None = None, answers: tuple[str, ...] = ()) -> Source:
    """A photograph that a list names, relative to the list."""
    address = files.joined(files.parent(table), image)
    known = files.stat(address) if files.is_local(address) else files.Stat()
    return Source("image", address, image, *known, 0, question, answers)


def _of_table(address: str) -> Iterator[Source]:
    """The photographs of a JSONL, JSON or CSV, with their questions and answers where it has such columns."""
    text, kind = files.read_text(address), address.lower()
    rows: Iterable[tuple[int, Any]]
    if kind.endswith(".csv"):
        rows = enumerate(csv.DictReader(io.StringIO(text)), 2)
    elif kind.endswith(".json"):
        rows = enumerate(_json(text, address), 1)
    else:
        lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        rows = ((number, _json(line, f"{address}, line {number}")) for number, line in lines)
    for number, row in rows:
        where = f"{address}, line {number}"
        if not isinstance(row, dict) or not isinstance(row.get("image"), str):
            held = ", ".join(map(str, row)) if isinstance(row, dict) else str(row)[:60]
            raise UserError(f"{where}: expected an image's path as 'image', and 'question' for vqa; has {held}")
        yield _listed(address, row["image"], *question_of(row, where))


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def _parquet_groups(address: str) -> int:
    """The number of row groups. Raises `UserError` for a file that is none, or that has no column of images."""
    with _parquet(address) as file:
        _image_column(file.schema_arrow, address)
        return file.num_row_groups


def _parquet(address: str) -> Any:
    pq, pa = files.needed("pyarrow.parquet"), files.needed("pyarrow")
    fs, path = files.place(address)
    try:
        return pq.ParquetFile(fs.open(path, "rb"))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"'{address}' is no Parquet file ({str(error).splitlines()[0][:100]})") from None


def _image_column(schema: Any, address: str) -> str:
    """The column that holds images: their bytes, or {bytes, path} as `datasets` writes them."""
    types = files.needed("pyarrow").types

    def holds(field: Any) -> bool:
        kind = field.type
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    return records.image_column([field.name for field in schema if holds(field)], schema.names, address)


def items(source: Source) -> Iterator[Item]:
    """The photographs of a source. Raises `UserError`, after those that could be read, for a file that is broken."""
    return {"image": _one, "tar": _of_tar, "parquet": _of_parquet, "hf": hub.items}[source.kind](source)


def _one(source: Source) -> Iterator[Item]:
    def read() -> bytes:
        data = files.read_bytes(source.address)
        if source.size >= 0 and len(data) != source.size:
            raise UserError(f"{source.key}: had {source.size} bytes when the plan was made, has {len(data)} now")
        return data

    yield Item(source.key, read, source.question, source.answers)


def _of_tar(source: Source) -> Iterator[Item]:
    """A tar shard as WebDataset writes it: files of one name and several endings are one sample, side by side."""
    fs, path = files.place(source.address)
    sample: dict[str, bytes] = {}
    current, count = "", 0
    try:
        with fs.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, name = posixpath.split(member.name)
                stem, _, ending = name.partition(".")
                key = posixpath.join(folder, stem)
                if sample and key != current:
                    yield from _of_sample(source, current, sample)
                    sample = {}
                current, count = key, count + 1
                sample[f".{ending.lower()}"] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        yield from _of_sample(source, current, sample)
        raise UserError(
            f"{source.key}: the tar is broken or truncated after {count} files ({error}); get it again"
        ) from None
    yield from _of_sample(source, current, sample)


def _of_sample(source: Source, key: str, sample: dict[str, bytes]) -> Iterator[Item]:
    image = next((data for ending, data in sample.items() if ending.endswith(IMAGES)), None)
    if image is None:
        return
    where = f"{source.key}/{key}"
    about = _json(sample[".json"].decode("utf-8"), where) if ".json" in sample else {}
    question, answers = question_of(about if isinstance(about, dict) else {}, where)
    question = question or (sample[".txt"].decode("utf-8").strip() if ".txt" in sample else None)
    yield Item(where, lambda: image, question or source.question, answers)


def _of_parquet(source: Source) -> Iterator[Item]:
    with _parquet(source.address) as file:
        image = _image_column(file.schema_arrow, source.address)
        columns = records.columns(image, file.schema_arrow.names)
        before = sum(file.metadata.row_group(group).num_rows for group in range(source.part))
        for batch in file.iter_batches(16, row_groups=[source.part], columns=columns):
            for row in batch.to_pylist():
                yield records.item_of_row(source, row, image, before)
                before += 1
