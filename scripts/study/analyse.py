"""The analysis of a study: what counts, means and differences, a second opinion, and the figures for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.explanation import versions
from common.metrics.comparison import direction
from common.metrics.grounding import Summary
from scripts.study.answers import Judged, Results, judge, read_results, scores_of
from scripts.study.estimates import DRAWS, Estimate, Estimates, estimated, holm
from scripts.study.mixed import Mixed, mixed_model
from scripts.study.plan import Study

LEAST_PEOPLE = 2  # of which a spread can be estimated


@dataclass(frozen=True)
class Pair:
    """One method less another; `planned` before the study, `p_holm` corrected for all that were planned."""

    one: str
    other: str
    planned: bool
    found: Estimate
    p_holm: float | None
    mixed: tuple[float, float] | None  # difference and standard error of the mixed-effects model


@dataclass(frozen=True)
class Analysis:
    """All that a report says."""

    study: Study
    results: Results
    judged: Judged
    means: dict[str, Estimate]
    pairs: list[Pair]
    mixed: Mixed | None
    remarks: list[str]

    @property
    def people(self) -> int:
        """How many people count."""
        return len({answer.participant for answer in self.judged.counted})


def analyse(study: Study, folder: str | Path | None = None, draws: int = DRAWS) -> Analysis:
    """Analyse a study's answers. Raises `UserError` where none are left after the exclusions."""
    results = read_results(study, folder)
    judged = judge(study, results)
    people = {answer.participant for answer in judged.counted}
    if len(people) < LEAST_PEOPLE:
        left = "; ".join(sorted(set(judged.sessions.values()))) or "nobody was left out"
        raise UserError(
            f"{len(people)} people count, of {len(results.by_session())} sessions ({left});"
            f" an error needs at least {LEAST_PEOPLE}"
        )
    scores = scores_of(study, judged.counted)
    estimates = estimated(scores, draws, study.plan["seed"])
    remarks, mixed = list(results.remarks), None
    if study.changed:
        remarks.append("plan.json is not as it was when the study was built: what follows was not all planned before")
    try:
        mixed = mixed_model(scores)
    except UserError as problem:
        remarks.append(str(problem))
    means = {name: _within(estimates.mean(n, study.guess), study) for n, name in enumerate(study.methods)}
    return Analysis(study, results, judged, means, _pairs(study, estimates, mixed), mixed, remarks)


def verdicts(analysis: Analysis) -> list[str]:
    """What the planned differences say: the only sentences that rank methods."""
    labels, sentences = analysis.study.plan["labels"], []
    for pair in analysis.pairs:
        if pair.planned:
            one, other, found = labels[pair.one], labels[pair.other], pair.found
            side = _side(found)
            words = {1: f"{one} is ahead of {other}", -1: f"{one} is behind {other}"}
            told = words.get(side, f"No difference found between {one} and {other}")
            sentences.append(f"{told} ({shown_interval(found, analysis.study.rates, '+')}).")
    return sentences


def shown(value: float, rates: bool, sign: str = "") -> str:
    """A share in per cent, a difference of shares (with its sign) in percentage points, or a rating."""
    return f"{value:{sign}.2f}" if rates else f"{100 * value:{sign}.1f} {'points' if sign else '%'}"


def spread_shown(value: float, rates: bool) -> str:
    """A standard error or deviation, in the units of a difference."""
    return shown(value, rates, " ").strip()


def shown_range(found: Estimate, rates: bool, sign: str = "") -> str:
    """A 95 % interval."""
    if rates:
        return f"{found.low:{sign}.2f} to {found.high:{sign}.2f}"
    return f"{100 * found.low:{sign}.1f} to {shown(found.high, rates, sign)}"


def shown_interval(found: Estimate, rates: bool, sign: str = "") -> str:
    """A mean with its 95 % interval."""
    return f"{shown(found.mean, rates, sign)}, 95 % interval {shown_range(found, rates, sign)}"


def record(analysis: Analysis) -> dict[str, Any]:
    """The figures of a report."""
    study, mixed = analysis.study, analysis.mixed
    return {
        "study": study.id, "kind": study.plan["kind"], "measure": study.plan["measure"],
        "simulated": analysis.results.simulated, "plan_changed": study.changed,
        "people": analysis.people, "answers": len(analysis.judged.counted),
        "left_out": {"sessions": sorted(analysis.judged.sessions.values()), "answers_too_fast": analysis.judged.hasty},
        "methods": {name: _plain(vars(each)) for name, each in analysis.means.items()},
        "pairs": [_plain({**vars(pair), "found": _plain(vars(pair.found))}) for pair in analysis.pairs],
        "mixed": mixed and {"people": mixed.people, "photographs": mixed.photographs, "rest": mixed.rest},
        "published": study.plan["published"], "remarks": analysis.remarks, "versions": versions(),
    }  # fmt: skip


def _pairs(study: Study, estimates: Estimates, mixed: Mixed | None) -> list[Pair]:
    """All pairs of methods, the planned ones first."""
    planned = [tuple(pair) for pair in study.plan["comparisons"]]
    place = study.methods.index
    known = {frozenset(pair) for pair in planned}
    others = [(a, b) for n, a in enumerate(study.methods) for b in study.methods[n + 1 :] if {a, b} not in known]
    found = {(a, b): estimates.difference(place(a), place(b)) for a, b in [*planned, *others]}
    corrected = dict(zip(planned, holm([found[pair].p for pair in planned]), strict=True))
    second = {(a, b): None if mixed is None else mixed.difference(place(a), place(b)) for a, b in found}
    return [Pair(*pair, pair in corrected, found[pair], corrected.get(pair), second[pair]) for pair in found]


def _within(found: Estimate, study: Study) -> Estimate:
    """An interval within the scale: few people make it wider than that."""
    least, most = (-2.0, 2.0) if study.rates else (0.0, 1.0)
    return replace(found, low=max(found.low, least), high=min(found.high, most))


def _side(found: Estimate) -> int:
    """1 or -1 for a difference that counts: beyond the house's two standard errors, and its interval without 0."""
    sure = found.low > 0 or found.high < 0
    return direction(Summary(found.mean, found.error, found.n)) if sure else 0


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with a head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula: a visitor chose it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
