"""One row of a batch, and the photograph that it is of."""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from scripts.batch import store
from scripts.batch.plan import opened
from scripts.batch.shard import item_of


def found_row(out: str, key: str, question: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(row, what its file says of itself) of the photograph whose key is, or ends in, `key`.

    Raises `UserError` where there is none, or where there are several, with the first of them.
    """
    found = []
    for row, about in store.rows(out, ["key", "number", "question"]):
        if _fits(row["key"], key) and question in (None, row["question"]):
            found.append((row, about))
    exact = [each for each in found if each[0]["key"] == key] or found
    if len(exact) != 1:
        shown = ", ".join(f"'{row['key']}'" + (f" ({row['question']})" * bool(row["question"])) for row, _ in exact[:4])
        which = "give the whole key, or --question" if exact else "`saywhy batch status` says how far the batch is"
        raise UserError(f"{len(exact)} rows of '{key}' in '{out}'" + (f": {shown}" * bool(shown)) + f"; {which}")
    number, about = exact[0][0]["number"], exact[0][1]
    rows = store.rows_of(opened(out).shard_address(about["shard"]))
    return next(row for row in rows if row["number"] == number), about


def photograph(out: str, shard: int, number: int) -> bytes:
    """The bytes of a row's photograph, where it lay when the plan was made."""
    return item_of(opened(out), shard, number).read()


def provenance(row: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """What an explanation says of where it came from, as the facades say it."""
    model, asked = about["model"], about["asked"]
    known = {"layer": row.get("layer") or model["layer"], "methods": asked["methods"], "versions": model["versions"]}
    known |= {"task": about["task"], "model": model["name"], "weights": model["weights"]}
    score = asked.get("score", model.get("score"))  # a chat model that answers says it of itself
    known |= {"score": score} if score else {}
    return {**known, **({"question": row["question"]} if row["question"] else {})}


def _fits(key: str, asked: str) -> bool:
    """Whether a key is, or ends in, what was asked for; the ending of a file may be left out."""
    stem = key.rpartition(".")[0] or key
    return any(each == asked or each.endswith(f"/{asked}") for each in (key, stem))
