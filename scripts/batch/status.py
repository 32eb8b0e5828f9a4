"""What is done of a batch, by what lies in its folder."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from common.errors import UserError
from scripts.batch import files, store
from scripts.batch.plan import FOLDER, Plan, opened


def status(out: str) -> dict[str, Any]:
    """Shards (and rows) done, running and failed, images a second of all workers together, seconds left.

    A shard is running while the process that said so lives, as far as that can be seen from this machine. The time
    left is that of the shards that are left, at the mean of those done, by as many workers as are running.
    """
    plan = opened(out)
    done = store.done(plan)
    running = [shard for shard in _running(plan) if shard not in done]
    rows, errors, seconds = (sum(record[key] for record in done.values()) for key in ("rows", "errors", "seconds"))
    speed = rows / seconds if seconds else 0.0  # of one worker
    left = plan.shards - len(done)
    each = seconds / len(done) if done else 0.0
    return {
        "task": plan.task, "shards": plan.shards, "done": len(done), "running": len(running), "left": left,
        "rows": rows, "errors": errors, "images_per_second": speed * max(1, len(running)),
        "seconds_left": each * left / max(1, len(running)) if done else None,
    }  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """The same for people."""
    text = f"{found['task']}: {found['done']} of {found['shards']} shards done, {found['running']} running;"
    text += f" {found['rows']} rows, {found['errors']} with an error"
    if found["rows"]:
        text += f"; {found['images_per_second']:.1f} images/s"
    if found["left"] and found["seconds_left"] is not None:
        minutes = found["seconds_left"] / 60
        text += f", {minutes:.0f} minutes left" if minutes < 120 else f", {minutes / 60:.1f} hours left"
    return text


def _running(plan: Plan) -> list[int]:
    """The shards that a process works at."""
    found = []
    for name in files.names_in(plan.address(FOLDER, "running")):
        try:
            mark = json.loads(files.read_bytes(plan.address(FOLDER, "running", name)))
            if mark["host"] != socket.gethostname() or _lives(mark["pid"]):
                found.append(int(name.removeprefix("shard-").removesuffix(".json")))
        except (UserError, ValueError, KeyError, TypeError):  # it was done meanwhile, or is no mark
            continue
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
