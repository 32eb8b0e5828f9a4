"""Means of methods and their differences, with errors over people and photographs.

Answers of one person are alike, and so are answers about one photograph; a study asks about both as samples. So
whole people are drawn anew with replacement (a bootstrap), and, apart from that, whole photographs. Each of the two
gives a covariance of the methods' means, and both hold the noise of single answers, which is therefore taken off once:

    V = V_people + V_photographs - V_answers

(Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 2011). Drawing both at the same time would count that noise three
times (Owen, Ann. Appl. Stat. 2007), and its intervals would be too wide. n answers, M methods, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scripts.study.answers import Scores

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, its standard error, its 95 % interval, and the p of no difference from `against`."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True)
class Estimates:
    """The means (M,) of methods and what their errors follow from."""

    scores: Scores
    means: np.ndarray
    spreads: dict[str, np.ndarray]  # (M, M): over people, photographs, answers
    freedom: int

    def mean(self, method: int, against: float = 0.0) -> Estimate:
        """One method's mean, and whether it differs from `against`, such as a guess."""
        weights = np.zeros(len(self.means))
        weights[method] = 1.0
        return self._estimate(weights, against)

    def difference(self, one: int, other: int) -> Estimate:
        """One method's mean less another's."""
        weights = np.zeros(len(self.means))
        weights[one], weights[other] = 1.0, -1.0
        return self._estimate(weights, 0.0)

    def _estimate(self, weights: np.ndarray, against: float) -> Estimate:
        mean, error = float(weights @ self.means), self._error(weights)
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, self.freedom)) * error
        # Without any error a difference is certain, and equality is none.
        away = abs(mean - against) / error if error else math.inf * (mean != against) if mean != against else 0.0
        p = 2 * float(stats.t.sf(away, self.freedom))
        count = int(np.isin(self.scores.methods, np.flatnonzero(weights)).sum())
        return Estimate(mean, error, mean - reach, mean + reach, p, count)

    def _error(self, weights: np.ndarray) -> float:
        """Never less than over people alone or over photographs alone."""
        over = {name: float(weights @ spread @ weights) for name, spread in self.spreads.items()}
        both = over["people"] + over["photographs"] - over["answers"]
        return math.sqrt(max(both, over["people"], over["photographs"]))


def estimated(scores: Scores, draws: int = DRAWS, seed: int = 0) -> Estimates:
    """The methods' means with their errors."""
    rng = np.random.default_rng(seed)
    groups = {"people": scores.people, "photographs": scores.photographs}
    spreads = {name: _spread(scores, each, draws, rng) for name, each in groups.items()}
    each = [scores.of(method) for method in range(len(scores.names))]
    spreads["answers"] = np.diag([values.var(ddof=min(1, len(values) - 1)) / len(values) for values in each])
    means = np.array([values.mean() for values in each])
    freedom = max(1, min(len(np.unique(scores.people)), len(np.unique(scores.photographs))) - 1)
    return Estimates(scores, means, spreads, freedom)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for being several, by Holm's method.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable")):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        found[place] = least
    return found


def _spread(scores: Scores, groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The covariance (M, M) of the methods' means when whole groups are drawn anew."""
    count, methods = int(groups.max()) + 1, len(scores.names)
    sums, answers = np.zeros((count, methods)), np.zeros((count, methods))
    np.add.at(sums, (groups, scores.methods), scores.values)
    np.add.at(answers, (groups, scores.methods), 1.0)
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)  # (B, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (times @ sums) / (times @ answers)
    found = np.atleast_2d(np.cov(means[np.isfinite(means).all(1)], rowvar=False))
    return found * count / max(1, count - 1)  # means of drawn groups vary less than those of new ones
