import itertools
import math

import captioners
import pytest
import torch

from captioning import decoding
from common.errors import UserError
from common.text import padded
from data.words.vocabulary import END, PAD, START, UNKNOWN


@pytest.fixture
def model():
    return captioners.small(seed=3, scale=0.8)


@pytest.fixture
def maps():
    return torch.rand(3, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _every_caption(model, maps, longest):
    """(log-probability with the end, words) of every ended caption of up to `longest` words, best first."""
    words = range(4, len(model.vocabulary))
    captions = [c for n in range(1, longest + 1) for c in itertools.product(words, repeat=n)]
    tokens = padded([[*c, END] for c in captions])
    scores = model.head(maps, tokens).log_probs.sum(1).tolist()
    return sorted(zip(scores, captions, strict=True), reverse=True)


def test_a_wide_beam_finds_the_best_of_all_captions(model, maps):
    for i, found in enumerate(decoding.beam(model, model.start(maps), width=300, max_length=3)):
        expected = _every_caption(model, maps[i : i + 1], 3)[:5]
        for (score, words), hypothesis in zip(expected, found, strict=False):
            assert hypothesis.tokens == words
            assert hypothesis.total == pytest.approx(score)
            assert hypothesis.score == pytest.approx(score)


def test_a_beam_of_one_takes_the_best_word_at_each_step(model, maps):
    for i, (found,) in enumerate(decoding.beam(model, model.start(maps), width=1, max_length=6)):
        words = []
        for place in range(6):
            distribution = model.head(maps[i : i + 1], torch.tensor([[*words, 4]])).distributions[0, -1].clone()
            distribution[[PAD, START, UNKNOWN] + ([END] if place == 0 else [])] = -math.inf
            if int(distribution.argmax()) == END:
                break
            words.append(int(distribution.argmax()))
        assert found.tokens == tuple(words)


def test_log_probabilities_are_those_of_the_model(model, maps):
    for i, found in enumerate(decoding.beam(model, model.start(maps), width=4, max_length=5)):
        for hypothesis in found:
            given = torch.tensor([[*hypothesis.tokens, END]])
            output = model.head(maps[i : i + 1], given).log_probs[0]
            torch.testing.assert_close(torch.tensor(hypothesis.log_probs, dtype=torch.float64), output[:-1])
            assert hypothesis.total == pytest.approx(float(output.sum()))


def test_captions_do_not_depend_on_what_else_is_in_the_batch(model, maps):
    together = decoding.beam(model, model.start(maps), width=3, max_length=5)
    alone = [decoding.beam(model, model.start(maps[i : i + 1]), width=3, max_length=5)[0] for i in range(3)]
    assert [[h.tokens for h in found] for found in together] == [[h.tokens for h in found] for found in alone]


def test_a_length_penalty_of_one_ranks_by_the_mean(model, maps):
    for found in decoding.beam(model, model.start(maps), width=50, max_length=4, length_penalty=1.0):
        for hypothesis in found:
            assert hypothesis.score == pytest.approx(hypothesis.total / (len(hypothesis.tokens) + 1))
        scores = [hypothesis.score for hypothesis in found]
        assert scores == sorted(scores, reverse=True) and len(found) > 1


def test_captions_are_never_empty_and_never_hold_special_words(model, maps):
    with torch.no_grad():
        model.decoder.bias[[PAD, START, UNKNOWN, END]] = 50.0
    for found in decoding.beam(model, model.start(maps), width=3, max_length=4):
        for hypothesis in found:
            assert hypothesis.tokens and min(hypothesis.tokens) > UNKNOWN
    drawn = decoding.sample(model, model.start(maps), 4, max_length=4)
    assert not bool(((drawn == START) | (drawn == UNKNOWN)).any()) and bool((drawn[:, 0] > UNKNOWN).all())


def test_a_caption_of_the_maximum_length_ends_however_unlikely_its_end_is(model, maps):
    """All open beams end there: their ends don't stand back behind further words, for which there is no room."""
    with torch.no_grad():
        model.decoder.bias[END] = -30.0
    for i, found in enumerate(decoding.beam(model, model.start(maps), width=300, max_length=2)):
        longest = [each for each in _every_caption(model, maps[i : i + 1], 2) if len(each[1]) == 2]
        assert len(longest) > 4 and {words for _, words in longest} <= {h.tokens for h in found}
        totals = {h.tokens: h.total for h in found}
        assert all(totals[words] == pytest.approx(score) for score, words in longest)


def test_samples_follow_the_models_distribution(model, maps):
    generator = torch.Generator().manual_seed(0)
    drawn = decoding.sample(model, model.start(maps[:1]), 4000, max_length=1, generator=generator)[:, 0]
    expected = model.head(maps[:1], torch.tensor([[4]])).distributions[0, 0].clone()
    expected[[PAD, START, UNKNOWN, END]] = -math.inf
    shares = torch.bincount(drawn, minlength=len(expected)) / 4000
    torch.testing.assert_close(shares.double(), expected.softmax(-1), atol=0.03, rtol=0)


def test_samples_are_the_same_for_the_same_seed_and_padded_after_their_end(model, maps):
    one, two = (
        decoding.sample(model, model.start(maps), 5, max_length=6, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert torch.equal(one, two) and len(one) == 15
    for row in one.tolist():
        if END in row:
            assert set(row[row.index(END) + 1 :]) <= {PAD}


def test_content_words_are_said_once_and_others_as_often_as_is_likely(model, maps):
    once = decoding.content_words(model.vocabulary)
    assert once.tolist() == [False] * 4 + [w not in ("a", "the") for w in model.vocabulary.words[4:]]
    best = [
        [
            each
            for each in _every_caption(model, maps[i : i + 1], 3)
            if all(each[1].count(w) == 1 or not once[w] for w in each[1])
        ]
        for i in range(3)
    ]
    for expected, found in zip(best, decoding.beam(model, model.start(maps), 300, 3, once=once), strict=True):
        assert [h.tokens for h in found[:5]] == [words for _, words in expected[:5]]
        assert [h.total for h in found[:5]] == pytest.approx([score for score, _ in expected[:5]])
    drawn = decoding.sample(model, model.start(maps), 50, max_length=6, once=once)
    for row in drawn.tolist():
        said = [word for word in row if once[word]]
        assert len(set(said)) == len(said)


def test_widths_lengths_and_temperatures_that_make_no_sense_are_refused(model, maps):
    for width, length in ((0, 5), (3, 0)):
        with pytest.raises(UserError, match="at least 1"):
            decoding.beam(model, model.start(maps), width, length)
