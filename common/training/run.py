"""A training's folder: `log.jsonl` (one record an epoch), `state.pt` (to go on from) and `curve.png`."""

import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import atomic_path, write_bytes, write_text


class Run:
    """A training's folder: its log, its state, its picture. `fresh` begins anew where a run was before."""

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any], fresh: bool = False):
        self.folder, self.settings = Path(folder), settings
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make '{folder}': {error.strerror or error}; choose another --out") from error
        self.log_path, self.state_path = self.folder / "log.jsonl", self.folder / "state.pt"
        if fresh:
            self.state_path.unlink(missing_ok=True)
            self.log_path.unlink(missing_ok=True)

    def log(self, record: dict[str, Any]) -> None:
        line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()})
        self._keep([*self._lines(), line])
        print(line, flush=True)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.startswith("{") and line.endswith("}")]  # a killed run's may be cut

    def _keep(self, lines: list[str]) -> None:
        write_text(self.log_path, "".join(f"{line}\n" for line in lines))

    def save(self, state: dict[str, Any]) -> None:
        with atomic_path(self.state_path) as temporary:
            torch.save({**state, "settings": self.settings, "logged": len(self._lines())}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The state to go on from, on the CPU wherever it was saved, or None where there is none yet.

        The log and its picture are brought to where the state is. Raises when the run was started with other settings.
        """
        state = self._state()
        lines = self._lines()
        if state is None or len(lines) > state.get("logged", len(lines)):
            self._keep(lines[: state["logged"] if state else 0])
        if state is not None:
            self.picture()
        return state

    def _state(self) -> dict[str, Any] | None:
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
                raise ValueError("no state of a training")
        except Exception as error:  # what is no pickle raises a dozen types
            raise UserError(f"'{self.state_path}' cannot be read; delete it or start with --restart") from error
        changed = [k for k in self.settings if state["settings"].get(k) != self.settings[k]]
        if changed:
            raise UserError(
                f"'{self.folder}' holds a run with {changed[0]} = {state['settings'].get(changed[0])!r}, not "
                f"{self.settings[changed[0]]!r}; name another --out, or start again with --restart"
            )
        return state

    def picture(self) -> None:
        """Draw the log: the loss of each epoch, and each figure that was taken after it."""
        records = [r for r in self.records() if "epoch" in r]
        if records:
            draw_curve(records, self.folder / "curve.png")


def draw_curve(records: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Learning curve: one panel for each number in the records, over the epochs of all stages."""
    from matplotlib.figure import Figure

    left_out = {"stage", "epoch", "of", "seconds", "train_seconds"}
    names = list(dict.fromkeys(k for r in records for k in r if k not in left_out))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    stages = list(dict.fromkeys(r["stage"] for r in records))
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        for stage in stages:
            points = [(x + 1, r[name]) for x, r in enumerate(records) if r["stage"] == stage and name in r]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=stage)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100)
    write_bytes(path, stream.getvalue())
