"""A photograph that is captioned is answered about for nothing: captioner and answerer on one trunk share its pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.captioner import Captioner
from captioning.network import LstmNetwork as CaptionNetwork
from common.errors import UserError
from data.words.vocabulary import SPECIAL, Vocabulary
from tests.captioners import small
from vqa.answerer import Answerer
from vqa.model import VqaModel
from vqa.network import LstmNetwork as AnswerNetwork

QUESTION = "is there a dog"


def _answerer(trunk):
    torch.manual_seed(2)
    vocabulary = Vocabulary([*SPECIAL, *QUESTION.split()])
    model = VqaModel(trunk, vocabulary, ["yes", "no", "dog"], embedding=5, hidden=4, joint=7)
    return Answerer(AnswerNetwork(model.eval()))


@pytest.fixture
def pair():
    """A captioner and an answerer on the same trunk."""
    model = small(dtype=torch.float32)
    model.trunk.fingerprint = "one"
    return Captioner(CaptionNetwork(model)), _answerer(model.trunk)


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))


def _all(captioner, answerer, seen):
    """What both say of a photograph, and their maps."""
    said = captioner.caption(seen).text, answerer.answer(seen, QUESTION).text
    maps = captioner.explain(seen).heatmaps, answerer.explain(seen, QUESTION, ["yes", "dog"]).heatmaps
    return said, maps


@pytest.mark.parametrize("first", [0, 1])
def test_caption_and_answers_cost_one_pass_of_the_trunk(pair, photo, first):
    captioner, answerer = pair
    said, maps = _all(captioner, answerer, photo)
    runs = []
    captioner.network.module.trunk.network.last.register_forward_hook(lambda *_: runs.append(1))
    said_together, maps_together = _all(captioner, answerer, pair[first].encode(photo))
    assert len(runs) == 1 and said_together == said
    torch.testing.assert_close(maps_together, maps)


def test_what_another_trunk_encoded_is_one_line(pair, photo):
    captioner, answerer = pair
    other = small(seed=1, dtype=torch.float32)
    other.trunk.fingerprint = "other"
    for given in (Captioner(CaptionNetwork(other)).encode(photo), _answerer(other.trunk).encode(photo)):
        for ask in (lambda seen: captioner.caption(seen), lambda seen: answerer.answer(seen, QUESTION)):
            with pytest.raises(UserError, match="encoded by another trunk .*other.* than this model's .*one"):
                ask(given)
