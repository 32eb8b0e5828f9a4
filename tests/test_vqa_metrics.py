"""The official VQA accuracy: against a slow twin over literal subsets, literal normal forms, and its limits."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.records import Question
from vqa import metrics

WORDS = ["yes", "no", "2", "two", "a cat", "cat", "Dog."]


def _twin(prediction, answers):
    """The definition: for each choice of nine of the ten answers, at most 1, a third for each that agrees."""
    plain = [metrics.normalise_answer(a) for a in answers]
    scores = []
    for nine in itertools.combinations(range(len(plain)), len(plain) - 1):
        agree = len([i for i in nine if plain[i] == metrics.normalise_answer(prediction)])
        scores.append(1.0 if agree >= 3 else agree / 3)
    return math.fsum(scores) / len(scores)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS), min_size=10, max_size=10))
def test_accuracy_is_the_mean_over_the_subsets_of_nine(prediction, answers):
    assert metrics.vqa_accuracy(prediction, answers) == pytest.approx(_twin(prediction, answers))


@pytest.mark.parametrize("count, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_of_an_answer_that_so_many_of_ten_people_gave(count, expected):
    assert metrics.vqa_accuracy("red", ["red"] * count + ["blue"] * (10 - count)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "answer, plain",
    [
        ("The Dog", "dog"), ("two", "2"), ("none", "0"), ("a cat and an owl", "cat and owl"),
        ("dont know", "don't know"),
        ("t-shirt", "t shirt"), ("red, white", "red white"), ("1,000", "1000"), ("2.5", "2.5"), ("yes.", "yes"),
        ("shouldntve", "shouldn't've"), ("shouldn'tve", "shouldn't've"), ("well", "well"),
        ("black/white", "black white"),
        ("U.S.A.", "usa"), ("", ""), ("Ten men\n", "10 men"), ("its", "its"), ("oclock", "o'clock"), ("what?", "what"),
    ],
)  # fmt: skip
def test_normal_form_of_an_answer(answer, plain):
    assert metrics.normalise_answer(answer) == plain


def test_normal_form_of_a_normal_form_is_itself():
    for answer in ("yes", "2", "black and white", "don't know", "o'clock"):
        assert metrics.normalise_answer(answer) == answer


def _question(answer, kind="object", answers=None, number=0):
    return Question(str(number), "what?", Path("x.jpg"), "x", answer, answers or (answer,), kind)


def test_soft_targets_are_what_each_answer_would_score():
    scores = metrics.accuracy_scores(["red"] * 6 + ["Blue"] * 2 + ["a rose"] * 2)
    assert scores == pytest.approx({"red": 1.0, "blue": 0.6, "rose": 0.6})


def test_accuracy_by_type_with_standard_errors():
    questions = [_question("cat"), _question("dog"), _question("two", "number")]
    found = metrics.by_kind(["cat", "cat", "2"], questions)
    assert found["object"] == pytest.approx({"accuracy": 0.5, "se": 0.5, "n": 2})
    assert found["number"]["accuracy"] == 1.0 and found["all"]["n"] == 3
    assert found["all"]["accuracy"] == pytest.approx(2 / 3)


def test_no_questions_give_nan_and_a_count_of_nothing():
    found = metrics.by_kind([], [])["all"]
    assert math.isnan(found["accuracy"]) and found["n"] == 0
    assert math.isnan(metrics.vqa_accuracy("yes", []))


def test_baselines_say_the_commonest_answer_of_all_and_of_the_type():
    train = [_question("red", "color")] * 3 + [_question("2", "number")] * 2 + [_question("one", "number")]
    assert metrics.commonest_answer(train)(_question("", "number")) == "red"
    assert metrics.commonest_per_kind(train)(_question("", "number")) == "2"
    assert metrics.commonest_per_kind(train)(_question("", "never seen")) == "red"
