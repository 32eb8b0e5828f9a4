"""How well a trunk says what is in photographs: mean average precision of concepts, and counts that are right.

Letters: n photographs, E concepts, C of them counted.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.training.trunk.corpus import Targets

MOST = 5  # the largest number of things that counting is measured on
FEWEST = {"classes": 1, "words": 3}  # photographs that show a concept, for its precision to be measured


def average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Mean, over the true ones of n, of the share of true ones among those ranked no lower. In [0, 1], up is better."""
    ranked = truths[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def mean_average_precision(scores: np.ndarray, values: np.ndarray, weights: np.ndarray, fewest: int) -> float:
    """The mean over concepts that `fewest` photographs or more show, on photographs where they are wholly known.

    All (n,E); a concept is shown where its target is above 0. NaN where no concept is shown.
    """
    found = []
    for concept in range(scores.shape[1]):
        known = weights[:, concept] >= 1
        shown = values[known, concept] > 0
        if fewest <= shown.sum() < len(shown):
            found.append(average_precision(scores[known, concept], shown))
    return float(np.mean(found)) if found else float("nan")


def right_counts(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Whether the rounded expected number is right, where there are 1 to `MOST` things, else -1: all (n,C)."""
    asked = (counts >= 1) & (counts <= MOST)
    return np.where(asked, np.rint(numbers).clip(1) == counts, -1)


def figures(summaries: np.ndarray, targets: Targets, draws: int = 0) -> dict[str, tuple[float, float, int]]:
    """Figure -> (value, standard error, n) of photographs' summaries (n,E+C); those that nothing is known of left out.

    Errors are of a bootstrap with `draws` over photographs, since all that is said of one falls under one hat; NaN
    without draws.
    """
    size = targets.counts.shape[1]
    concepts = summaries.shape[1] - size
    found: dict[str, tuple[float, float, int]] = {}
    for name, part in (("classes", slice(0, size)), ("words", slice(size, concepts))):
        known = targets.weights[:, part].max(1, initial=0) >= 1
        each = [array[known, part] for array in (summaries, targets.values, targets.weights)]
        measure = partial(_mean_precision, each, FEWEST[name])
        if known.any() and not np.isnan(measure(np.arange(known.sum()))):
            found[name] = (*_with_error(measure, int(known.sum()), draws), int(known.sum()))
    right = right_counts(summaries[:, concepts:], targets.counts)
    asked = right[(right >= 0).any(1)]
    if len(asked):
        found["counts"] = (*_with_error(lambda rows: _share(asked[rows]), len(asked), draws), int((right >= 0).sum()))
    return found


def _mean_precision(arrays: Sequence[np.ndarray], fewest: int, rows: np.ndarray) -> float:
    scores, values, weights = (array[rows] for array in arrays)
    return mean_average_precision(scores, values, weights, fewest)


def _with_error(measure: Callable[[np.ndarray], float], number: int, draws: int) -> tuple[float, float]:
    """A measure of all `number` photographs, and its spread over draws of as many with replacement."""
    rng = np.random.default_rng(0)
    drawn = [measure(rng.integers(0, number, number)) for _ in range(draws)]
    return measure(np.arange(number)), float(np.nanstd(drawn)) if drawn else float("nan")


def _share(right: np.ndarray) -> float:
    return float((right == 1).sum() / max(1, (right >= 0).sum()))
