"""What the decoder reads beside captions that have no photograph."""

import numpy as np
import pytest
import torch

from common.training.lookalikes import Lookalikes, Shown, overlap

PRESENT = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
# Two classes, one word; two counts last. Each number says its photograph, view and place.
SEEN = np.array([[[p + 0.1 * v + 0.01 * e for e in range(5)] for v in range(2)] for p in range(4)], np.float32)


def _lookalikes(classes, words, seen=SEEN, present=PRESENT, **options):
    texts = Shown(np.array(classes, np.float32), np.array(words, np.float32))
    return Lookalikes(texts, present, seen, noise=0.0, **options)


def test_overlap_is_the_weighted_share_of_what_either_has():
    a, b = np.array([[1, 1, 0], [0, 0, 0]]), np.array([[1, 0, 1], [0, 0, 0]])
    found = overlap(a, b, np.array([1.0, 2.0, 3.0], np.float32))
    np.testing.assert_allclose(found, [[1 / 6, 0.0], [0.0, 1.0]])


def test_the_photograph_with_the_same_classes_stands_in():
    found = _lookalikes(PRESENT, np.zeros((4, 1)), count=1)
    assert found.found[:, 0].tolist() == [0, 1, 2, 3]
    drawn = found.draw([2, 1], np.random.default_rng(0))
    place = drawn[:, [0, 1, 3, 4]].numpy()
    views = np.round((place[:, 0] - [2, 1]) * 10)
    np.testing.assert_allclose(place, SEEN[[2, 1], views.astype(int)][:, [0, 1, 3, 4]], atol=1e-6)


def test_of_photographs_alike_in_class_the_one_with_the_words_stands_in():
    seen = np.zeros((2, 1, 5), np.float32)
    seen[1, 0, 2] = 3.0
    found = _lookalikes([[1, 0], [1, 0]], [[1.0], [0.0]], seen, np.array([[1, 0], [1, 0]]), count=1)
    assert found.found[:, 0].tolist() == [1, 0]


def test_a_class_that_differs_comes_with_its_count_from_a_photograph_that_agrees():
    present = np.array([[1, 0], [1, 0], [0, 1]])
    found = _lookalikes([[1, 1]], [[0.0]], SEEN[:3], present, count=1)
    assert found.found[0, 0] == 2  # it has the rarer of the two
    drawn = found.draw([0], np.random.default_rng(0))[0]
    assert int(drawn[1]) == int(drawn[4]) == 2  # the class they share is its own
    assert int(drawn[0]) == int(drawn[3]) < 2  # the other is that of a photograph that has it


def test_a_class_that_no_photograph_has_stays_as_it_is():
    found = _lookalikes([[0, 1]], [[0.0]], SEEN[:1], np.array([[1, 0]]))
    assert torch.isfinite(found.draw([0] * 3, np.random.default_rng(0))).all()


def test_words_move_by_what_the_captions_say_more_or_less_than_was_seen():
    seen = np.zeros((1, 1, 5), np.float32)  # a logit of 0: as likely as not
    found = _lookalikes([[0, 0], [0, 0]], [[1.0], [0.2]], seen, np.array([[0, 0]]))
    np.testing.assert_allclose(found.draw([0, 1], np.random.default_rng(0))[:, 2], [0.5, -0.3], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_text_is_shown_by_several_photographs_in_both_views_and_the_same_for_a_seed(seed):
    found = _lookalikes([[1, 0]] * 64, np.zeros((64, 1)), count=4)
    drawn, again = (found.draw(range(64), np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert len({round(float(x), 2) for x in drawn[:, 0]}) > 2
