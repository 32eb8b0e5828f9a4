"""Paired differences against SciPy's, and the one function that puts them into words."""

import math

import pytest
import torch
from scipy import stats

from common.errors import UserError
from common.metrics.comparison import difference, direction, verdict
from common.metrics.grounding import Summary
from common.metrics.localisation import class_summary


def test_a_difference_is_that_of_a_paired_test():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 30, generator=generator, dtype=torch.float64)
    found = difference(a, b)
    statistic = stats.ttest_rel(a.numpy(), b.numpy()).statistic
    assert found.mean / found.error == pytest.approx(statistic, rel=1e-9) and found.n == 30
    assert difference([1.0, math.nan, 3.0], [0.0, 1.0, 1.0]).n == 2
    # Pairs of one photograph are no more than one: each of them twice gives the same error.
    twice = difference(a.repeat_interleave(2), b.repeat_interleave(2), [n // 2 for n in range(60)])
    assert twice.error == pytest.approx(found.error, rel=1e-9)
    with pytest.raises(UserError, match="2 values do not pair with 1"):
        difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("mean", "error", "expected"), [
    (0.2, 0.1, 0), (0.21, 0.1, 1), (-0.21, 0.1, -1), (0.0, 0.0, 0), (1.0, math.nan, 0), (math.nan, 0.1, 0),
])  # fmt: skip
def test_a_difference_counts_beyond_two_standard_errors(mean, error, expected):
    assert direction(Summary(mean, error, 5)) == expected


def test_the_sentence_says_no_more_than_was_found():
    up, down, none = Summary(0.3, 0.1, 5), Summary(-0.3, 0.1, 5), Summary(-0.1, 0.1, 5)
    assert verdict("A", {"b": down, "c": down, "d": up, "e": none}, digits=1) == (
        "A is ahead of b (0.3 ± 0.1) and c (0.3 ± 0.1); A is behind d (0.3 ± 0.1); no difference found from e"
        " (0.1 ± 0.1)."
    )
    assert verdict("A", {"b": down}, "low", 1) == "A is behind b (0.3 ± 0.1)."
    assert verdict("A", {"b": none}, digits=1) == "A: no difference found from b (0.1 ± 0.1)."
    assert verdict("A", {}) == verdict("A", {"b": Summary(math.nan, math.nan, 0)}) == ""
    with pytest.raises(UserError, match="better is 'lower'; give 'high' or 'low'"):
        verdict("A", {"b": up}, "lower")


def test_values_of_one_photograph_do_not_make_a_mean_over_classes_surer():
    values = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classes = ["a", "b"] * 6
    alone = class_summary(values, classes)
    assert class_summary(values, classes, list(range(12))).error == pytest.approx(alone.error, rel=1e-12)
    together = class_summary(values, classes, [n // 2 for n in range(12)])
    parts = [(values[n] - values[n % 2 :: 2].mean()) / math.sqrt(30) for n in range(12)]
    expected = math.sqrt(sum(float(parts[n] + parts[n + 1]) ** 2 for n in range(0, 12, 2))) / 2
    assert together.error == pytest.approx(expected, rel=1e-9) and together.mean == pytest.approx(alone.mean)
