"""Building a study's folder: pictures, balanced lists, the plan, the key, the pages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import UserError
from common.explanation import versions
from common.files import write_json
from common.methods.names import label
from scripts.study.kinds import discriminate, trust, words
from scripts.study.material import Asked, Cell, Material, Pictures, Shown, latin_lists
from scripts.study.pages import PageOptions, write_pages
from scripts.study.plan import ANSWERS, DESIGN, EXCLUSIONS, PLAN, PUBLIC, RESULTS, Study, fingerprint, write_study

KINDS: dict[str, ModuleType] = {"discriminate": discriminate, "trust": trust, "words": words}
STIMULI = "stimuli"
COLOURS = ("red", "green", "blue", "yellow")  # what attention checks ask for
CHECKS = 2


@dataclass(frozen=True)
class Trials:
    """Trials by their ids: what a person sees of each, and what the key says of it."""

    seen: dict[str, dict[str, Any]]
    key: dict[str, dict[str, Any]]

    def add(self, name: str, cell: Cell, photograph: str, practice: bool = False) -> str:
        """A trial of one cell; returns its id."""
        seen = {"images": cell.images, "options": cell.options, "about": cell.about}
        self.seen[name] = {**seen, "feedback": cell.feedback, "right": _best(cell)} if practice else seen
        if not practice:
            self.key[name] = {"photograph": photograph, "method": cell.method, **cell.truth}
        return name


def build_study(kind: str, asked: Asked, out: Path, options: PageOptions) -> Study:
    """Make a study of one kind in a folder. Raises `UserError` where there is one already: answers are never lost."""
    new_folder(out)
    pictures = Pictures(out / PUBLIC / STIMULI, asked.seed)
    return write_material(kind, asked, KINDS[kind].material(asked, pictures), pictures, options)


def write_material(kind: str, asked: Asked, made: Material, pictures: Pictures, options: PageOptions) -> Study:
    """Make a study's folder around its pictures, of what is shown."""
    public, trials = pictures.folder.parent, Trials({}, {})
    lists = trial_lists(made.shown, asked.seed, trials, pictures)
    practice = [trials.add(pictures.name(), each.cells[0], each.name, practice=True) for each in made.practice]
    checks = _checks(trials, pictures)
    plan = {**_plan(kind, KINDS[kind], asked, made), "lists": lists, "checks": checks, "practice": practice}
    plan["id"] = fingerprint({"plan": plan, "key": trials.key})[:16]
    write_json(public / DESIGN, _design(plan, trials.seen, options))
    _remove_unused(pictures.folder, trials.seen)
    write_pages(public, kind, plan["title"], options)
    return write_study(public.parent, plan, trials.key)


def new_folder(out: Path) -> None:
    """Make room for a study. Raises `UserError` where the folder holds one, or anything of somebody's own."""
    if (out / PLAN).exists() or (out / RESULTS / ANSWERS).exists():
        raise UserError(f"'{out}' holds a study already; give another folder with --out, or remove this one yourself")
    if out.exists() and not out.is_dir():
        raise UserError(f"'{out}' is a file; give a folder with --out")
    public = out / PUBLIC
    if public.exists() and not (public / STIMULI).is_dir() and any(public.iterdir()):
        raise UserError(f"'{public}' is there and no study's; give another folder with --out")
    _clear(public)


def _clear(public: Path) -> None:
    """Remove the pages of a study whose building was stopped, last of all what tells that they are a study's."""
    rest = [place for place in public.glob("*") if place.name != STIMULI]
    for place in [*rest, public / STIMULI, public]:
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)


def trial_lists(shown: Sequence[Shown], seed: int, trials: Trials, pictures: Pictures) -> list[list[str]]:
    """The lists' trials, by their ids: each photograph once a list, over all lists once in each cell."""
    names = [[trials.add(pictures.name(), cell, each.name) for cell in each.cells] for each in shown]
    return [
        [names[place][cell] for place, cell in enumerate(cells)]
        for cells in latin_lists(len(shown), len(shown[0].cells), seed)
    ]


def comparisons(methods: Sequence[str]) -> list[list[str]]:
    """The planned pairs: each method within Grad-CAM against itself alone, else each against the last one."""
    pairs = [[f"{method}_gradcam", method] for method in methods if f"{method}_gradcam" in methods]
    return pairs or [[methods[-1], method] for method in methods[:-1]]


def _plan(kind: str, module: ModuleType, asked: Asked, made: Material) -> dict[str, Any]:
    return {
        "kind": kind,
        "title": module.TITLE,
        "question": module.QUESTION,
        "measure": module.MEASURE,
        "options": module.OPTIONS,
        "methods": list(asked.methods),
        "labels": {method: label(method) for method in asked.methods},
        "comparisons": comparisons(asked.methods),
        "exclusions": dict(EXCLUSIONS),
        "networks": made.networks,
        "photographs": made.source,
        "count": len(made.shown),
        "notes": made.notes,
        "published": {"about": module.PUBLISHED_ABOUT, "values": _known(module.PUBLISHED, asked.methods)},
        "seed": asked.seed,
        "versions": versions(),
    }


def _known(published: dict[str, float], methods: Sequence[str]) -> dict[str, float]:
    return {method: published[method] for method in methods if method in published}


def _checks(trials: Trials, pictures: Pictures) -> list[str]:
    """Attention checks: they say which answer to give."""
    found = []
    for number in range(CHECKS):
        right = pictures.random.randrange(len(COLOURS))
        about = f"To show that you are reading this, please choose '{COLOURS[right]}'."
        trials.seen[name := pictures.name()] = {"images": (), "options": COLOURS, "about": about, "question": ""}
        trials.key[name] = {"check": number + 1, "right": right}
        found.append(name)
    return found


def _best(cell: Cell) -> int:
    """The answer that practice calls right: of a rating, the end of the scale."""
    return int(cell.truth["right"]) if "right" in cell.truth else 4 * (cell.truth["strong"] == "B")


def _design(plan: dict[str, Any], seen: dict[str, dict[str, Any]], options: PageOptions) -> dict[str, Any]:
    """What the pages are told: nothing of photographs, methods, or what is right."""
    told = {name: plan[name] for name in ("id", "title", "question", "measure", "lists", "practice", "checks")}
    return {**told, "trials": seen, "completion": options.completion}


def _remove_unused(folder: Path, seen: dict[str, dict[str, Any]]) -> None:
    used = {image for each in seen.values() for image in each["images"]}
    for file in folder.iterdir():
        if file.name not in used:
            file.unlink()
