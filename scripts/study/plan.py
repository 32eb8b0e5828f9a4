"""A study's folder: what was planned before anybody took part, and what is right, which is served to nobody.

    plan.json       the design, exclusions, comparisons, lists, seed, versions, the networks' weights
    key.json        of each trial: photograph, method, what was explained, what is right
    public/         all that is served: pages, pictures under names that say nothing, texts to edit
    results/        answers.jsonl, one answer a line

A plan bears the hash of itself; each answer bears the study's id, so that answers to another study are told apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_json

PLAN, KEY, PUBLIC, RESULTS = "plan.json", "key.json", "public", "results"
DESIGN = "design.json"  # what the pages read of a plan
ANSWERS = "answers.jsonl"

EXCLUSIONS: dict[str, float] = {
    "most_checks_wrong": 0,
    "least_share_answered": 0.5,
    "least_median_seconds": 0.5,
    "least_seconds": 0.2,
}
"""People are left out who fail more checks, answer a smaller share of their trials, or answer half of them
faster; and of the others the single answers that came faster than the last."""


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _pair(value: Any) -> bool:
    return _texts(value) and len(value) == 2


def _listed(value: Any) -> bool:
    return _texts(value) and len(value) > 0


_NEEDED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys("id kind title question photographs sha256".split(), lambda value: isinstance(value, str)),
    "measure": lambda value: value in ("choice", "rating"),
    **dict.fromkeys(("options", "count"), lambda value: type(value) is int and 2 <= value <= 10**6),
    "seed": lambda value: type(value) is int,
    "methods": _listed,
    **dict.fromkeys(("notes", "checks"), _texts),
    "comparisons": lambda value: isinstance(value, list) and all(map(_pair, value)),
    "lists": lambda value: isinstance(value, list) and len(value) > 0 and all(map(_listed, value)),
    "networks": lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
    **dict.fromkeys("labels exclusions published versions".split(), lambda value: isinstance(value, dict)),
}
"""What a plan holds, and whether a value is of its kind."""


@dataclass(frozen=True)
class Study:
    """A study that was built: its folder, plan and key."""

    folder: Path
    plan: dict[str, Any]
    key: dict[str, dict[str, Any]]

    @property
    def id(self) -> str:
        return self.plan["id"]

    @property
    def methods(self) -> list[str]:
        return self.plan["methods"]

    @property
    def lists(self) -> list[list[str]]:
        """The trials that a person sees, by the number of the list."""
        return self.plan["lists"]

    @property
    def rates(self) -> bool:
        """Whether people rate from -2 to +2; else they choose, and a choice is right or wrong."""
        return self.plan["measure"] == "rating"

    @property
    def guess(self) -> float:
        """What a person scores who knows nothing: the share of guesses that are right, or 0 of a rating."""
        return 0.0 if self.rates else 1 / self.plan["options"]

    @property
    def changed(self) -> bool:
        """Whether the plan is another than the one that was built."""
        return fingerprint(self.plan) != self.plan["sha256"]

    def score(self, trial: str, response: int) -> float:
        """What an answer counts: 1 right, 0 wrong; or -2 to +2, positive where the strong network is preferred."""
        known = self.key[trial]
        if "strong" in known:
            return float(response - 2) * (1 if known["strong"] == "B" else -1)
        return float(response == known["right"])


def fingerprint(plan: Mapping[str, Any]) -> str:
    """The SHA-256 of a plan without its own hash."""
    rest = {name: value for name, value in plan.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_study(folder: Path, plan: dict[str, Any], key: dict[str, Any]) -> Study:
    """Write plan and key, the plan last: a folder without one holds no study."""
    plan = {**plan, "sha256": fingerprint(plan)}
    (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    write_json(folder / KEY, key)
    write_json(folder / PLAN, plan)
    return Study(folder, plan, key)


def open_study(folder: str | Path) -> Study:
    """The study in a folder. Raises `UserError` where there is none, or where its files are not a study's."""
    place = Path(folder)
    if not (place / PLAN).is_file():
        raise UserError(f"'{folder}' holds no study: it has no {PLAN}; make one with `saywhy study build`")
    plan, key = _read(place / PLAN), _read(place / KEY)
    _check(plan, place / PLAN)
    trials = {trial for each in plan["lists"] for trial in each}
    if trials - key.keys():
        raise UserError(f"'{place / KEY}' is not this plan's: trial {sorted(trials - key.keys())[0]} is not in it")
    wrong = [trial for trial in trials if not _is_known(key[trial], plan["methods"])]
    wrong += [check for check in plan["checks"] if not _is_check(key.get(check))]
    if wrong:
        raise UserError(f"'{place / KEY}': of trial {wrong[0]} it doesn't say what a study needs; build it again")
    shown = [{key[trial]["photograph"] for trial in each} for each in plan["lists"]]
    if any(each != shown[0] for each in shown):
        raise UserError(f"'{place / KEY}': the lists show different photographs; build the study again")
    return Study(place, plan, key)


def _check(plan: dict[str, Any], file: Path) -> None:
    """Raise `UserError` for the first entry of a plan that is missing or of another kind."""
    lacking = _NEEDED.keys() - plan.keys()
    if lacking:
        raise UserError(f"'{file}' is not a study's plan: it has no '{sorted(lacking)[0]}'")
    wrong = [name for name, fits in _NEEDED.items() if not fits(plan[name])]
    named = {*plan["methods"], *(method for pair in plan["comparisons"] for method in pair)} if not wrong else set()
    if wrong or named - plan["labels"].keys() or not named <= {*plan["methods"]}:
        what = wrong[0] if wrong else "labels"
        raise UserError(f"'{file}': '{what}' is not as a plan has it; a study needs it as it was built")
    unknown = plan["exclusions"].keys() ^ EXCLUSIONS.keys()
    odd = [name for name, value in plan["exclusions"].items() if not _is_number(value)]
    if unknown or odd:
        amiss = sorted([*unknown, *odd])[0]
        raise UserError(f"'{file}': exclusions are numbers, {', '.join(EXCLUSIONS)}; '{amiss}' is amiss")


def _is_known(known: Any, methods: Sequence[str]) -> bool:
    """Whether the key says of a trial its photograph, its method, and what is right."""
    if not isinstance(known, dict) or not isinstance(known.get("photograph"), str):
        return False
    right = known.get("strong") in ("A", "B") if "strong" in known else type(known.get("right")) is int
    return right and isinstance(known.get("method"), str) and known["method"] in methods


def _is_check(known: Any) -> bool:
    return isinstance(known, dict) and "check" in known and type(known.get("right")) is int


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and -1e9 <= value <= 1e9


def trial_options(study: Study) -> dict[str, int]:
    """How many answers each trial and attention check has; practice is not sent."""
    path = study.folder / PUBLIC / DESIGN
    try:
        design = json.loads(path.read_text(encoding="utf-8"))
        if design["id"] != study.id:
            raise UserError(f"'{path}' is of another study than the plan beside it; build the study again")
        return {name: len(design["trials"][name]["options"]) for name in study.key}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"'{path}' is not as it was built ({problem}); build the study again") from problem


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"cannot read '{path}' ({problem}); a study needs it as it was built") from problem
    if not isinstance(found, dict):
        raise UserError(f"'{path}' holds no JSON object; a study needs it as it was built")
    return found
