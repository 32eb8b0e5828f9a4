"""What a report was made of and by: command, commit, date, weights, layers, settings, versions."""

import datetime
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.explanation import versions
from scripts.experiments.paper import reported

_ROOT = Path(__file__).parents[2]


def manifest(lab: Any, seconds: dict[str, float]) -> dict[str, Any]:
    """The record that goes with every report (docs/results.md); data by kind, without the reader's own paths."""
    loaded = lab.models()
    return {
        "command": command(sys.argv),
        **commit(_ROOT),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "model": lab.model,
        "device": lab.device,
        "limit": "none" if lab.limit is None else str(lab.limit),
        "quick": bool(lab.quick),
        "data": ", ".join(sorted(lab.data)) or "none",
        "weights": {task: lab.weights(task) for task in loaded},
        "layers": {task: explained_layer(lab.facade(task)) for task in loaded},
        "seconds": seconds,
        "versions": versions(),
        "paper": reported(lab),
    }


def command(arguments: Sequence[str]) -> str:
    """The command as it was typed, of paths no more than their last part."""
    return " ".join(Path(part).name if "/" in part else part for part in arguments)


def commit(folder: Path) -> dict[str, str]:
    """The commit of a checkout, and whether files were changed since; nothing where there is no repository."""
    found = [_git(folder, "rev-parse", "--short=12", "HEAD"), _git(folder, "status", "--porcelain", "-uno")]
    if found[0] is None:
        return {}
    return {"commit": f"{found[0]}{' with changes' if found[1] else ''}"}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def explained_layer(model: Any) -> str:
    """The name of the layer whose map a facade explains, said so that it means something."""
    layer = model.layer or model.network.layer
    parent = type(model.network.module).__name__
    return f"'{layer}' of {parent}, the module whose output is the map that is explained"
