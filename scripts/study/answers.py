"""What people answered: the lines of a study's results, each answer once, and who is left out and why.

Whatever is odd is told in a line, and the files are never changed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from common.errors import UserError
from scripts.study.plan import RESULTS, Study


@dataclass(frozen=True)
class Answer:
    """One answer: `score` is what it counts (`Study.score`); of an attention check whether it was right."""

    participant: str
    session: str
    number: int
    trial: str
    response: int
    milliseconds: int
    score: float
    check: bool


@dataclass(frozen=True)
class Results:
    """The answers to one study, in the order in which they came, and what was odd about the files."""

    answers: list[Answer]
    remarks: list[str] = field(default_factory=list)
    simulated: bool = False

    def by_session(self) -> dict[str, list[Answer]]:
        found: dict[str, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            found[answer.session].append(answer)
        return dict(found)


@dataclass(frozen=True)
class Judged:
    """The answers that count, and what was left out: sessions and single answers, each with the reason."""

    counted: list[Answer]
    sessions: dict[str, str]  # left out -> why
    hasty: int  # single answers


@dataclass(frozen=True)
class Scores:
    """Answers as arrays (n,): values, and the numbers of their method, person and photograph."""

    values: np.ndarray
    methods: np.ndarray
    people: np.ndarray
    photographs: np.ndarray
    names: Sequence[str]  # of the methods

    def of(self, method: int) -> np.ndarray:
        """The values of one method."""
        return self.values[self.methods == method]


def read_results(study: Study, folder: str | Path | None = None) -> Results:
    """All answers in the `.jsonl` files of a folder, by default the study's own.

    Raises `UserError` where there is no answer to this study.
    """
    place = Path(folder) if folder is not None else study.folder / RESULTS
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place] if place.is_file() else []
    odd: Counter[str] = Counter()
    records = [record for file in files for record in _records(file, study, odd)]
    answers = _once(records, study, odd)
    remarks = [f"{count} {what}" for what, count in odd.items()]
    if not answers:
        told = f" ({'; '.join(remarks)})" if remarks else ""
        raise UserError(f"no answer to this study in '{place}'{told}; serve it, or put downloaded answers there")
    simulated = any(record.get("simulated") for record in records)
    return Results(answers, [*remarks, *_twice(answers)], simulated)


def judge(study: Study, results: Results) -> Judged:
    """Leave out by the plan's exclusions, and all but a participant's first session."""
    rules, out = study.plan["exclusions"], {}
    counted: list[Answer] = []
    seen: set[str] = set()
    hasty = 0
    for session, answers in results.by_session().items():
        why = "took part before" if answers[0].participant in seen else _reason(study, answers, rules)
        seen.add(answers[0].participant)
        if why:
            out[session] = why
            continue
        trials = [answer for answer in answers if not answer.check]
        slow = [answer for answer in trials if answer.milliseconds >= 1000 * rules["least_seconds"]]
        hasty += len(trials) - len(slow)
        counted += slow
    return Judged(counted, out, hasty)


def scores_of(study: Study, answers: Sequence[Answer]) -> Scores:
    """The answers as arrays. Raises `UserError` where a method has none."""
    methods = [study.key[answer.trial]["method"] for answer in answers]
    for method in study.methods:
        if method not in methods:
            raise UserError(f"no answer that counts is about {method}; more people are needed")
    people = _numbered([answer.participant for answer in answers])
    photographs = _numbered([study.key[answer.trial]["photograph"] for answer in answers])
    values = np.array([answer.score for answer in answers])
    return Scores(values, np.array([study.methods.index(m) for m in methods]), people, photographs, study.methods)


def tidy(study: Study, results: Results, judged: Judged) -> list[dict[str, Any]]:
    """One row an answer, for other programs; `left_out` says why, or nothing."""
    counted = {(answer.session, answer.number) for answer in judged.counted}
    rows = []
    for a in results.answers:
        key = study.key[a.trial]
        hasty = "" if a.check or (a.session, a.number) in counted else "too fast"
        rows.append({
            "participant": a.participant, "session": a.session, "number": a.number, "trial": a.trial,
            "check": int(a.check), "photograph": key.get("photograph", ""), "method": key.get("method", ""),
            "target": key.get("target", ""), "strong": key.get("strong", ""), "response": a.response, "score": a.score,
            "milliseconds": a.milliseconds, "left_out": judged.sessions.get(a.session, hasty),
        })  # fmt: skip
    return rows


def _records(file: Path, study: Study, odd: Counter[str]) -> Iterator[dict[str, Any]]:
    """The lines of a file that are answers to this study; of the others is told."""
    for line in file.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            other = record["study"]
        except (ValueError, TypeError, KeyError, RecursionError):
            odd[f"broken lines of {file.name} left out"] += 1
            continue
        if other != study.id:
            odd[f"answers of {file.name} are to another study ({str(other)[:16]}), left out"] += 1
        elif not record.get("begin"):
            yield record


def _once(records: Sequence[Mapping[str, Any]], study: Study, odd: Counter[str]) -> list[Answer]:
    """The answers, the first of each session and number."""
    found: dict[tuple[str, int], Answer] = {}
    for record in records:
        try:
            answer = _answer(record, study)
        except (KeyError, TypeError, ValueError):
            odd["lines that are no answers to this study's trials left out"] += 1
            continue
        first = found.setdefault((answer.session, answer.number), answer)
        if first is not answer:
            what = "answers sent twice, counted once"
            odd[what if first == answer else "second answers to the same question, the first of each counted"] += 1
    return list(found.values())


def _answer(record: Mapping[str, Any], study: Study) -> Answer:
    """Raises `KeyError`, `TypeError` or `ValueError` for what is no answer."""
    trial, response = record["trial"], record["response"]
    numbers = (record["number"], response, record["ms"])
    if not all(type(each) is int and each >= 0 for each in numbers) or response > 9:
        raise ValueError("not whole numbers")
    participant, session = record["participant"], record["session"]
    if not (isinstance(participant, str) and isinstance(session, str)):
        raise TypeError("no text")
    check = "check" in study.key[trial]
    return Answer(
        participant, session, record["number"], trial, response, record["ms"], study.score(trial, response), check
    )


def _twice(answers: Sequence[Answer]) -> list[str]:
    """Who took part in more than one session."""
    sessions: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        sessions[answer.participant].add(answer.session)
    several = sorted(name for name, each in sessions.items() if len(each) > 1)
    return [f"'{name}' took part {len(sessions[name])} times; the first session counts" for name in several]


def _reason(study: Study, answers: Sequence[Answer], rules: Mapping[str, float]) -> str:
    """Why a session is left out, or nothing."""
    trials = [answer for answer in answers if not answer.check]
    wrong = sum(answer.check and not answer.score for answer in answers)
    if wrong > rules["most_checks_wrong"]:
        return f"attention checks failed: {wrong}"
    share = len(trials) / len(study.lists[0])
    if share < rules["least_share_answered"]:
        return f"answered {share:.0%} of the trials"
    seconds = median(answer.milliseconds for answer in trials) / 1000
    if seconds < rules["least_median_seconds"]:
        return f"half of the answers within {seconds:.2f} s"
    return ""


def _numbered(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]
