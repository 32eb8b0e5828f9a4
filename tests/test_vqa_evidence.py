"""Where the VQA model's evidence words start, and which words they are."""

import pytest
import torch
from torch import nn

from common.training.evidence import commonest_words
from data.words.imagenet import classes_of_noun, imagenet_classes
from vqa.training.evidence import SCALE, start_evidence


def test_a_noun_has_the_classes_whose_names_end_in_it():
    assert len(imagenet_classes()) == 1000 and imagenet_classes()[285] == ("n02124075", ("Egyptian cat",))
    assert set(range(281, 286)) <= set(classes_of_noun()["cat"])  # tabby, tiger cat, Persian, Siamese, Egyptian
    assert classes_of_noun()["pizza"] == (963,)
    assert "tabby cat" not in classes_of_noun()


def test_words_start_at_their_share_and_at_the_weights_of_their_classes():
    torch.manual_seed(0)
    classifier, evidence = nn.Linear(6, 1000), nn.Conv2d(6, 3, 1)
    shown = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    start_evidence(evidence, ["pizza", "sliced", "cat"], shown, classifier)
    mean = classifier.weight.mean(0)
    assert torch.allclose(evidence.weight[0, :, 0, 0], SCALE * (classifier.weight[963] - mean))
    cats = classifier.weight[list(classes_of_noun()["cat"])].mean(0)
    assert torch.allclose(evidence.weight[2, :, 0, 0], SCALE * (cats - mean))
    assert not evidence.weight[1].any()
    assert evidence.bias.sigmoid().tolist() == pytest.approx([0.5, 1e-4, 0.5])


@pytest.mark.parametrize("classifier", [None, nn.Linear(6, 10)])
def test_a_trunk_without_imagenets_classes_leaves_the_weights_alone(classifier):
    evidence = nn.Conv2d(6, 1, 1)
    before = evidence.weight.clone()
    start_evidence(evidence, ["pizza"], torch.zeros(2, 1), classifier)
    assert torch.equal(evidence.weight, before)


def test_words_that_are_answers_come_first_then_the_commonest():
    shown = [{"dog", "grass"} | ({"kite"} if i < 3 else set()) | ({"rare"} if i < 2 else set()) for i in range(5)]
    assert commonest_words(shown, 3, minimum=3) == ["dog", "grass", "kite"]
    assert commonest_words(shown, 2, 3, {"kite", "rare"}) == ["kite", "dog"]
    assert commonest_words(shown, 4) == ["dog", "grass", "kite", "rare"]
