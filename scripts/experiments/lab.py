"""What experiments share: the data they may use, their classifier, and cells that are measured once."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch

import classification
from common.draw import save_picture
from common.errors import MethodError, UserError
from common.files import atomic_path, write_json, write_text
from common.metrics.comparison import difference
from common.metrics.grounding import Summary, summary
from common.networks.trunk import fingerprint
from scripts import console as cli
from scripts.experiments.report import Picture, Widget

Item = TypeVar("Item")
KINDS = (
    "imagenet",
    "voc",
    "coco",
    "flickr8k",
    "vqa2",
    "vqa",
    "vqahat",
    "salicon",
    "aird",
    "gqa",
    "densecap",
    "visualgenome",
    "samples",
)
# The models of other tasks: the package that loads them, and what trains them.
_PACKAGES = {"captioner": ("captioning", "captioner"), "VQA model": ("vqa", "vqa")}
# Where each kind of data lies in a folder of data sets.
PLACES = {"flickr8k": "flickr8k", "vqa2": "coco", "samples": "imagenet_samples"}


class Absent(UserError):
    """The data or the model of an experiment is not at hand; the report says so and goes on."""


@dataclass
class Lab:
    """Where results go, what data there is, and how many images an experiment may take."""

    out: Path
    data: dict[str, Path] = field(default_factory=dict)
    limit: int | None = None
    quick: bool = False
    model: str = "efficientnet_lite0"
    device: str = "cpu"
    ten_crop: bool = False  # classes of table 1 from ten crops
    source: str = ""  # the kind of data that cells are measured on
    neuron_names: Path | None = None  # a CSV of names for the classifier's units
    neuron_layer: str | None = None  # which layer's names to take of it
    shared: dict[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # tasks whose models cells of an earlier run were made by

    def on(self, kind: str) -> "Lab":
        """This lab, its cells measured on one kind of data. Raises `Absent` when there is none."""
        self.need(kind)
        bound = copy.copy(self)
        bound.source = kind
        return bound

    def need(self, kind: str) -> Path:
        """The folder of one kind of data. Raises `Absent` when there is none."""
        if kind not in self.data:
            raise Absent(f"no {kind} data; give its folder with --{kind} PATH")
        return self.data[kind]

    def count(self, full: int, quick: int, on_cpu: int | None = None) -> int:
        """How many images to take: `full`, or as many as the limit says, be it more or fewer.

        In a quick pass `quick`, at most the limit. On a CPU `on_cpu`, where `full` would take an hour.
        """
        if self.limit is None:
            usual = full if on_cpu is None or self.device != "cpu" else on_cpu
            return quick if self.quick else usual
        return min(quick, self.limit) if self.quick else self.limit

    def trained_on(self, full: int, quick: int, on_cpu: int) -> int:
        """The same of photographs to train a classifier on, which no limit lowers: it would know nothing."""
        return quick if self.quick else on_cpu if self.device == "cpu" else full

    def cell(self, name: str, measure: Callable[[], dict[str, Any]], **settings: Any) -> dict[str, Any]:
        """The result of `measure`, from `cells/<name>.json` when it was done before with the same settings."""
        path = self.out / "cells" / f"{name}.json"
        about = {"model": self.model, "data": self.data.get(self.source, ""), **settings}
        wanted = json.loads(json.dumps(about, default=str))
        known = _read(path)
        if known is not None and known.get("settings") == wanted:
            self.used.update(known.get("models", ()))
            return known["result"]
        start, used = time.monotonic(), time.process_time()
        result = _plain(measure())
        seconds, used = round(time.monotonic() - start, 2), round(time.process_time() - used, 2)
        took = {"seconds": seconds, "processor_seconds": used, "models": self.models()}
        write_json(path, {"settings": wanted, "result": result, **took})
        cli.report(f"measured {name} in {seconds:.1f} s ({used:.1f} s of processor time)")
        return result

    def attempt(self, name: str, measure: Callable[[], dict[str, Any]], **settings: Any) -> dict[str, Any] | None:
        """Like `cell`, but None for a method that is not defined for the network (CAM needs a head of its kind)."""
        try:
            return self.cell(name, measure, **settings)
        except MethodError as refused:
            cli.report(f"{name} left out: {refused}")
            return None

    def picture(self, name: str, caption: str, draw: Callable[[], Any], **settings: Any) -> Picture:
        """A picture that `draw` makes (a Pillow image), kept as `cells/<name>.jpg` with its settings."""

        def write(path: Path) -> None:
            save_picture(draw().convert("RGB"), path, quality=88)

        return Picture(self._kept(f"{name}.jpg", f"{name}.picture", write, settings), caption)

    def widget(self, name: str, caption: str, explain: Callable[[], Any], **settings: Any) -> Widget:
        """The explanation that `explain` gives, to click, kept as `cells/<name>.html` with its settings."""

        def write(path: Path) -> None:
            write_text(path, explain().html())

        return Widget(self._kept(f"{name}.html", f"{name}.widget", write, settings), caption)

    def _kept(self, file: str, name: str, write: Callable[[Path], None], settings: dict[str, Any]) -> Path:
        """The file that `write` writes, from before when it was written with the same settings."""
        path = self.out / "cells" / file

        def make() -> dict[str, Any]:
            with atomic_path(path) as temporary:
                write(temporary)
            return {"bytes": path.stat().st_size}

        if not path.is_file():
            (self.out / "cells" / f"{name}.json").unlink(missing_ok=True)
        self.cell(name, make, **settings)
        return path

    def models(self) -> list[str]:
        """The tasks whose models were loaded, now or when cells were measured that are at hand."""
        return [task for task in ("classifier", *_PACKAGES) if task in self.shared or task in self.used]

    def facade(self, task: str) -> Any:
        """The classifier, the shipped captioner or the shipped VQA model, loaded once; `Absent` when there is none."""
        if task == "classifier":
            return self.classifier
        if task not in self.shared:
            package, command = _PACKAGES[task]
            try:
                self.shared[task] = import_module(package).load(device=self.device)
            except UserError as problem:
                raise Absent(f"no {task} ({problem}); train one with `saywhy train {command}`") from problem
        return self.shared[task]

    def mark(self, task: str) -> str:
        """What tells the weights of a facade from others, for the settings of cells."""
        return self.model if task == "classifier" else self.weights(task)

    def weights(self, task: str) -> str:
        """The SHA-256 of a facade's weights as they were trained, its first 12 digits; taken once."""
        name = f"weights of {task}"
        if name not in self.shared:
            facade = self.plain_classifier if task == "classifier" else self.facade(task)
            self.shared[name] = fingerprint(facade.network.module)[:12]
        return self.shared[name]

    @property
    def classifier(self) -> Any:
        """The classifier that is explained, folded: same maps, twice as fast, and as excitation backprop needs it."""
        if "classifier" not in self.shared:
            self.shared["classifier"] = classification.load(self.model, fast=True, device=self.device)
        return self.shared["classifier"]

    @property
    def plain_classifier(self) -> Any:
        """The classifier with its weights as they were trained, not folded for speed."""
        known = self.classifier
        return classification.load(self.model, device=self.device) if known.changes else known


def data_folders(given: dict[str, str | None], datasets: str | None) -> dict[str, Path]:
    """Folders by kind: those given, then those found in a folder of data sets, else in that of SAYWHY_DATA.

    Raises `UserError` for a folder that does not exist.
    """
    found = {}
    for kind, path in given.items():
        if path is not None:
            if not Path(path).is_dir():
                raise UserError(f"--{kind}: '{path}' is not a folder; give the folder of the data")
            found[kind] = Path(path)
    root, source = (datasets, "--datasets") if datasets else (os.environ.get("SAYWHY_DATA"), "SAYWHY_DATA")
    if not root:
        return found
    if not Path(root).is_dir():
        raise UserError(f"{source}: '{root}' is not a folder; give the folder with flickr8k, coco, ...")
    places = {kind: Path(root) / place for kind, place in PLACES.items()}
    return {**{kind: place for kind, place in places.items() if place.is_dir()}, **found}


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly over all."""
    if len(items) <= most:
        return list(items)
    return [items[place] for place in torch.linspace(0, len(items) - 1, most).round().int().tolist()]


def summarised(values: Any, groups: Sequence[int] | None = None) -> dict[str, Any]:
    """Mean, standard error, n and left out, ready for JSON."""
    return vars(summary(values, groups))


def measured(
    items: Iterable[Item], measure: Callable[[int, Item], Mapping[str, Any]], names: Iterable[str] = (), broken: int = 0
) -> dict[str, Any]:
    """Summaries by name of the values that `measure(number, item)` gives of each item, errors over items.

    The values themselves are kept by the item's number, for `paired`.
    What cannot be read is left out and counted, with the `broken` before; raises its `UserError` when that is all.
    """
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problem = None
    for number, item in enumerate(items):
        try:
            rows.append((number, measure(number, item)))
        except MethodError:
            raise
        except UserError as unread:
            problem, broken = problem or unread, broken + 1
            cli.report(f"left out: {unread}")
    if problem is not None and not rows:
        raise problem
    found = {}
    for name in dict.fromkeys([*names, *(name for _, row in rows for name in row)]):
        known = [(n, torch.as_tensor(row[name], dtype=torch.float64).flatten()) for n, row in rows if name in row]
        values = [value for _, these in known for value in these.tolist()]
        each = summarised(values, [n for n, these in known for _ in these])
        by_item = {str(n): these.tolist() for n, these in known}
        found[name] = {**each, "left_out": each["left_out"] + broken, "by_item": by_item}
    return found


def paired(these: Mapping[str, Any], those: Mapping[str, Any]) -> Summary | None:
    """The difference of two results of `measured`, these less those, over the values of the same items.

    None where they have no item in common.
    """
    a, b = (result.get("by_item", {}) for result in (these, those))
    rows = [(n, x, y) for n in a if n in b and len(a[n]) == len(b[n]) for x, y in zip(a[n], b[n], strict=True)]
    if not rows:
        return None
    numbers, *values = zip(*rows, strict=True)
    first, second = ([math.nan if value is None else value for value in column] for column in values)
    return difference(first, second, numbers)


def _plain(value: Any) -> Any:
    """What JSON can hold: tensors as lists, NaN and infinity as None."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "result" in found else None
