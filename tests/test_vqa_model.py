"""The VQA model against a slow float64 twin written from the formulas, and what its seam promises."""

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk
from data.words.vocabulary import SPECIAL, Vocabulary
from vqa.model import VqaModel

WORDS = ["what", "color", "is", "the", "dog", "hat"]
ANSWERS = ["yes", "no", "red", "blue", "2", "1", "dog"]
CONCEPTS = ["dog", "red", "dog"]  # the first is a class, which is counted
NAMED = {8: np.array([1.0, 0.0, 1.0])}  # token 8 is 'dog'


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4)

    def forward_features(self, images):
        return self.conv(images).relu()


@pytest.fixture
def model():
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    trunk = SeeingTrunk(Network(), Evidence(6, CONCEPTS, counted=1), Preprocessing((16, 16), half, half))
    made = VqaModel(trunk, Vocabulary([*SPECIAL, *WORDS]), ANSWERS, embedding=5, hidden=4, joint=7)
    for weights in made.parameters():
        nn.init.normal_(weights, std=0.5)
    return made.double().eval().requires_grad_(False)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _cell(weights, x, h, c):
    """One step of an LSTM, gate by gate."""
    gates = weights["weight_ih"] @ x + weights["bias_ih"] + weights["weight_hh"] @ h + weights["bias_hh"]
    i, f, g, o = np.split(gates, 4)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(c), c


def _summary(w, features):
    """Log-mean-exp of each concept's logits, and the expected number of dogs, of a map (K,h,w)."""
    places = [features[:, i, j] for i in range(features.shape[1]) for j in range(features.shape[2])]
    logits = []
    for weight, bias in zip(w["trunk.evidence.classifier.weight"], w["trunk.evidence.classifier.bias"], strict=True):
        logits.append(np.log(np.mean([np.exp(weight[:, 0, 0] @ place + bias) for place in places])))
    weight, bias = w["trunk.evidence.counter.weight"][0, :, 0, 0], w["trunk.evidence.counter.bias"][0]
    return np.array(logits), sum(np.log1p(np.exp(weight @ place + bias)) for place in places)


def _question(w, tokens):
    """The states of a question, and how far it asks about each concept."""
    h1 = c1 = h2 = c2 = np.zeros(4)
    first, second = (
        {part: w[f"question.lstm.{part}_{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        for layer in ("l0", "l1")
    )
    embedded = w["question.embedding.weight"][list(tokens)]
    about = np.zeros(3)
    for token, row in zip(tokens, embedded, strict=True):
        h1, c1 = _cell(first, row, h1, c1)
        h2, c2 = _cell(second, h1, h2, c2)
        about += NAMED.get(token, np.zeros(3)) * _sigmoid(
            w["question.counts.weight"][0] @ h2 + w["question.counts.bias"][0]
        )
    bag = embedded.sum(0) / np.sqrt(len(tokens))
    return np.concatenate([h1, c1, h2, c2, bag]), about.clip(-1.5, 1.5)


def _twin(model, features, tokens):
    """Scores of one map (K,h,w) and one question, with loops."""
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    logits, count = _summary(w, features)
    states, about = _question(w, tokens)
    counted = 0.5 * np.log(count + 0.05)
    query = np.tanh(w["query.weight"] @ states + w["query.bias"])
    seen = np.concatenate([4 * _sigmoid(logits), [counted]])
    trust, sure, number, counting, trust_named, named = w["reader.gates.weight"] @ states + w["reader.gates.bias"]
    dogs = max(0, about[0])
    left = 1 - _sigmoid(counting) * min(1, dogs)
    image = left * np.tanh(w["image.project.weight"] @ seen + w["image.project.bias"])
    scores = w["classifier.weight"] @ ((1 + image) * query) + w["classifier.bias"]
    own = left * (w["reader.own.weight"] @ np.concatenate([logits, [counted]]) + w["reader.own.bias"])
    above = ((logits + w["reader.threshold"]) * about).sum() / max(1, about.clip(0).sum())
    yes = sure * above + w["reader.leaning.weight"][0] @ states + w["reader.leaning.bias"][0]
    share = dogs / max(0.5, dogs)
    expected = share * count * np.exp(w["reader.counts"][0])
    told = np.array([np.log(expected + 0.1), expected / 10, share * logits[0] / 10]) @ w["reader.slopes"]
    told = told + w["reader.offsets"]
    told = (told - told.mean()) * min(1, dogs) * np.log1p(np.exp(number))
    for place, answer in enumerate(ANSWERS):
        in_question = {"red": about[1], "dog": (about[0] + about[2]) / 2}.get(answer, 0)
        scores[place] += (trust + trust_named * in_question) * own[place] + named * in_question
        scores[place] += yes * {"yes": 1, "no": -1}.get(answer, 0)
        scores[place] += {"1": told[0], "2": told[1]}.get(answer, 0)
    return scores


def test_scores_are_those_of_the_twin(model):
    features = torch.rand(2, 6, 3, 4, dtype=torch.float64)
    tokens = torch.tensor([[4, 5, 6, 7], [8, 9, 0, 0]])
    scores = model.head(features, tokens)
    for row, question in enumerate(([4, 5, 6, 7], [8, 9])):
        np.testing.assert_allclose(scores[row].numpy(), _twin(model, features[row].numpy(), question), rtol=1e-9)


def test_padding_changes_nothing(model):
    features = torch.rand(1, 6, 3, 3, dtype=torch.float64)
    short, padded = torch.tensor([[4, 5, 6]]), torch.tensor([[4, 5, 6, 0, 0, 0]])
    torch.testing.assert_close(model.head(features, short), model.head(features, padded), rtol=0, atol=0)


def test_the_image_is_seen_only_through_the_map(model):
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    tokens = torch.tensor([[4, 5], [6, 7]])
    torch.testing.assert_close(model(images, tokens), model.head(model.features(images), tokens))


def test_the_gradient_of_a_score_is_that_of_finite_differences(model):
    features = torch.rand(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[4, 5, 6]])
    assert torch.autograd.gradcheck(lambda A: model.head(A, tokens)[:, 2], features, atol=1e-6)


def test_gradients_of_all_answers_come_from_one_batched_backward_pass_in_eval_mode(model):
    model.requires_grad_(True)  # so that the question's LSTM is in the graph as well
    features = torch.rand(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    scores = model.head(features, torch.tensor([[4, 5, 6]]))[0]
    eye = torch.eye(len(ANSWERS), dtype=torch.float64)
    (together,) = torch.autograd.grad(scores, features, eye, retain_graph=True, is_grads_batched=True)
    for number, score in enumerate(scores):
        (alone,) = torch.autograd.grad(score, features, retain_graph=True)
        torch.testing.assert_close(together[number], alone)


def test_one_map_serves_several_questions_and_one_question_several_maps(model):
    features = torch.rand(3, 6, 2, 2, dtype=torch.float64)
    tokens = torch.tensor([[4, 5], [6, 7], [8, 9]])
    assert model.head(features[:1], tokens).shape == model.head(features, tokens[:1]).shape == (3, 7)
    torch.testing.assert_close(model.head(features[:1], tokens)[1], model.head(features[:1], tokens[1:2])[0])


@pytest.mark.parametrize("question", ["", "   ", "?!", None, 7])
def test_a_question_without_a_word_is_refused(model, question):
    with pytest.raises(UserError):
        model.encode(question)


def test_a_question_of_ten_thousand_words_is_refused_and_a_long_one_is_read(model):
    with pytest.raises(UserError, match="50000 characters"):
        model.encode("what " * 10_000)
    with pytest.raises(UserError, match="1500 words"):
        model.encode("what " * 1_500)
    tokens = torch.tensor([model.encode("what color " * 200)])
    assert torch.isfinite(model.head(torch.rand(1, 6, 2, 2, dtype=torch.float64), tokens)).all()


def test_british_spelling_and_unknown_words_are_read(model):
    assert model.encode("What colour is the zebra?") == [4, 5, 6, 7, 3]


def test_tokens_outside_the_vocabulary_are_refused(model):
    with pytest.raises(UserError, match="vocabulary of 10"):
        model.head(torch.rand(1, 6, 2, 2, dtype=torch.float64), torch.tensor([[99]]))


def test_with_fewer_answers_the_scores_of_these_are_as_they_were(model):
    features, tokens = torch.rand(2, 6, 3, 3, dtype=torch.float64), torch.tensor([[4, 5, 6], [8, 9, 0]])
    kept = ["dog", "yes", "1", "2"]
    fewer = model.with_answers(kept).double()
    expected = model.head(features, tokens)[:, [ANSWERS.index(answer) for answer in kept]]
    torch.testing.assert_close(fewer.head(features, tokens), expected, rtol=1e-5, atol=1e-5)
    assert fewer.answers == tuple(kept) and fewer.trunk is model.trunk
