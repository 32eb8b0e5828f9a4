"""Simulated people: how many are needed (power), a rehearsal of the analysis, tests of the intervals.

P people, I photographs, M methods.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from common.files import write_text
from scripts.study.answers import Scores
from scripts.study.estimates import estimated
from scripts.study.plan import ANSWERS, Study, trial_options


@dataclass(frozen=True)
class World:
    """How people answer: each method's mean (M,), and how far people and photographs differ (standard deviations).

    A choice is right with a probability whose logit varies so; a rating is normal about its mean, rounded to the scale.
    `interaction`: how much better single photographs are shown by single methods.
    """

    means: tuple[float, ...]
    rates: bool = False
    person: float = 0.5
    photograph: float = 0.5
    interaction: float = 0.3
    noise: float = 1.0  # of single ratings

    @cached_property
    def levels(self) -> np.ndarray:
        """Each method's level (M,): of a choice the logit at which the share of right answers is its mean."""
        if self.rates:
            return np.array(self.means)
        spread = float(np.sqrt(self.person**2 + self.photograph**2 + self.interaction**2))
        nodes, weights = np.polynomial.hermite_e.hermegauss(41)
        weights = weights / weights.sum()

        def share(level: float) -> float:
            return float(weights @ expit(level + spread * nodes))

        return np.array([brentq(lambda x, m=mean: share(x) - m, -30, 30) for mean in self.means])

    def answers(self, shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What people answer (P, I) about photographs that they are shown by methods `shown` (P, I)."""
        people, photographs = shown.shape
        own = rng.normal(0, self.interaction, (photographs, len(self.means)))
        level = self.levels[shown] + own[np.arange(photographs), shown]
        level += rng.normal(0, self.person, (people, 1)) + rng.normal(0, self.photograph, photographs)
        if self.rates:
            return np.clip(np.rint(level + rng.normal(0, self.noise, shown.shape)), -2, 2)
        return (rng.random(shown.shape) < expit(level)).astype(float)


def world_of(study: Study, difference: float) -> World:
    """A world in which the first methods of the planned pairs are ahead of the others by so much."""
    ahead = {pair[0] for pair in study.plan["comparisons"]}
    low = 0.0 if study.rates else min(study.guess + 0.05, 0.95 - difference)
    return World(tuple(low + difference * (method in ahead) for method in study.methods), study.rates)


def simulated_scores(shown: np.ndarray, world: World, names: Sequence[str], rng: np.random.Generator) -> Scores:
    """A whole study's answers: `shown` (P, I) is the method by which a person sees a photograph."""
    people, photographs = np.indices(shown.shape)
    values = world.answers(shown, rng)
    return Scores(values.ravel(), shown.ravel(), people.ravel(), photographs.ravel(), names)


def trials_shown(study: Study, people: int, rng: np.random.Generator) -> np.ndarray:
    """(P, I): the trial by which each of so many people sees each photograph, lists given out evenly."""
    by_photo = [{study.key[trial]["photograph"]: trial for trial in trials} for trials in study.lists]
    names = sorted(by_photo[0])
    return np.array([[by_photo[number][name] for name in names] for number in _lists(study, people, rng)])


def methods_shown(study: Study, people: int, rng: np.random.Generator) -> np.ndarray:
    """(P, I): the methods of `trials_shown`."""
    return _methods(study, trials_shown(study, people, rng))


@dataclass(frozen=True)
class Power:
    """Of so many people: how often the first planned difference was found, and how wide its interval is, one way."""

    people: int
    share: float
    reach: float


def power(study: Study, people: Sequence[int], difference: float, studies: int, seed: int = 0) -> list[Power]:
    """How often studies with so many people find a true difference of the first planned pair, by simulation."""
    rng, world = np.random.default_rng(seed), world_of(study, difference)
    one, other = (study.methods.index(name) for name in study.plan["comparisons"][0])
    found = []
    for count in people:
        each = []
        for number in range(studies):
            shown = methods_shown(study, count, rng)
            scores = simulated_scores(shown, world, study.methods, rng)
            each.append(estimated(scores, 400, number).difference(one, other))
        share = float(np.mean([estimate.low > 0 for estimate in each]))
        reach = float(np.mean([estimate.high - estimate.mean for estimate in each]))
        found.append(Power(count, share, reach))
    return found


def rehearse(study: Study, people: int, difference: float, folder: Path, seed: int = 0) -> Path:
    """Write the answers of simulated people, as the receiver would; marked, so that a report says so."""
    lines = [json.dumps({**each, "simulated": True}) for each in simulated_answers(study, people, difference, seed)]
    write_text(folder / ANSWERS, "\n".join(lines) + "\n")
    return folder / ANSWERS


def simulated_answers(study: Study, people: int, difference: float, seed: int = 0) -> list[dict[str, Any]]:
    """The answers of so many people, one after the other, as lines of a results file."""
    rng, options = np.random.default_rng(seed), trial_options(study)
    trials = trials_shown(study, people, rng)
    scores = world_of(study, difference).answers(_methods(study, trials), rng)
    found = []
    for person in range(people):
        name = f"simulated-{person + 1}"
        who = {"study": study.id, "participant": name, "session": name}
        for number, (trial, response) in enumerate(_session(study, trials[person], scores[person], rng)):
            order, taken = rng.permutation(options[trial]).tolist(), int(rng.lognormal(7.9, 0.5))
            found.append({**who, "number": number, "trial": trial, "response": response, "ms": taken, "order": order})
    return found


def _session(study: Study, trials: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> list[tuple[str, int]]:
    """One person's trials in a random order, each with the answer, and the attention checks, which are passed."""
    asked = [(str(trial), _response(study, trial, score, rng)) for trial, score in zip(trials, scores, strict=True)]
    checks = [(check, int(study.key[check]["right"])) for check in study.plan["checks"]]
    return [asked[place] for place in rng.permutation(len(asked))] + checks


def _lists(study: Study, people: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(people) % len(study.lists))


def _methods(study: Study, trials: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda trial: study.methods.index(study.key[trial]["method"]), otypes=[int])(trials)


def _response(study: Study, trial: str, score: float, rng: np.random.Generator) -> int:
    """An answer that counts so much."""
    known = study.key[trial]
    if "strong" in known:
        return int(2 + score * (1 if known["strong"] == "B" else -1))
    others = [n for n in range(study.plan["options"]) if n != known["right"]]
    return known["right"] if score else int(rng.choice(others))
