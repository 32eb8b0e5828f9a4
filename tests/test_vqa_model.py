"""The VQA model against a slow float64 twin written from the formulas, and what its seam promises."""

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from data.words.vocabulary import SPECIAL, Vocabulary
from vqa.model import VqaModel

WORDS = ["what", "color", "is", "the", "dog", "hat"]
ANSWERS = ["yes", "no", "red", "blue", "2"]
EVIDENCE = ["red", "dog"]


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4)

    def forward_features(self, images):
        return self.conv(images).relu()


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = VqaModel(
        Trunk(), Vocabulary([*SPECIAL, *WORDS]), ANSWERS, 6, evidence_words=EVIDENCE, embedding=5, hidden=4, joint=7
    )
    for weights in (made.image.evidence.weight, made.image.answer_offset, made.trust.weight):
        nn.init.normal_(weights)
    return made.double().eval().requires_grad_(False)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _cell(weights, x, h, c):
    """One step of an LSTM, gate by gate."""
    gates = weights["weight_ih"] @ x + weights["bias_ih"] + weights["weight_hh"] @ h + weights["bias_hh"]
    i, f, g, o = np.split(gates, 4)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(c), c


def _twin(model, features, tokens):
    """Scores of one map (K,h,w) and one question, with loops."""
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    h1 = c1 = h2 = c2 = np.zeros(4)
    first, second = (
        {part: w[f"question.lstm.{part}_{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        for layer in ("l0", "l1")
    )
    for token in tokens:
        h1, c1 = _cell(first, w["question.embedding.weight"][token], h1, c1)
        h2, c2 = _cell(second, h1, h2, c2)
    bag = w["question.embedding.weight"][list(tokens)].sum(0) / np.sqrt(len(tokens))
    asked = np.concatenate([h1, c1, h2, c2, bag])
    query = np.tanh(w["query.weight"] @ asked + w["query.bias"])
    K, height, width = features.shape
    mean = features.reshape(K, -1).mean(1)
    norm = mean / np.sqrt((mean**2).sum()) * np.sqrt(K)
    evidence = []
    for e in range(2):
        values = [
            w["image.evidence.weight"][e, :, 0, 0] @ features[:, i, j] + w["image.evidence.bias"][e]
            for i in range(height)
            for j in range(width)
        ]
        evidence.append(np.log(np.mean(np.exp(values))))
    seen = np.concatenate([norm, 4 * _sigmoid(np.array(evidence))])
    image = np.tanh(w["image.project.weight"] @ seen + w["image.project.bias"])
    scores = w["classifier.weight"] @ (image * query) + w["classifier.bias"]
    trust = w["trust.weight"][0] @ asked + w["trust.bias"][0]
    for number, answer in enumerate(ANSWERS):
        own = evidence[EVIDENCE.index(answer)] if answer in EVIDENCE else 0
        scores[number] += trust * (own + w["image.answer_offset"][number])
    return scores


def test_scores_are_those_of_the_twin(model):
    features = torch.rand(2, 6, 3, 4, dtype=torch.float64)
    tokens = torch.tensor([[4, 5, 6, 7], [8, 9, 0, 0]])
    scores = model.head(features, tokens)
    for row, question in enumerate(([4, 5, 6, 7], [8, 9])):
        np.testing.assert_allclose(scores[row].numpy(), _twin(model, features[row].numpy(), question), rtol=1e-9)


@pytest.mark.parametrize("tokens", [[[4, 5, 6, 7], [8, 9, 5, 4]], [[4, 5, 6, 7], [8, 9, 0, 0]]])
def test_gradients_of_the_embedding_are_those_of_one_backward_pass_each(model, tokens):
    question, tokens = model.question, torch.tensor(tokens)
    given = torch.randn(3, 2, 4 * 4 + 5, dtype=torch.float64)
    embedded = question.embedding(tokens).detach().requires_grad_()
    encoded = question.encode(embedded, tokens != 0)
    expected = [torch.autograd.grad((encoded * one).sum(), embedded, retain_graph=True)[0] for one in given]
    torch.testing.assert_close(question.embedding_gradients(given, tokens), torch.stack(expected))


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
    assert model.head(features[:1], tokens).shape == model.head(features, tokens[:1]).shape == (3, 5)
    torch.testing.assert_close(model.head(features[:1], tokens)[1], model.head(features[:1], tokens[1:2])[0])


@pytest.mark.parametrize("question", ["", "   ", "?!", None, 7])
def test_a_question_without_a_word_is_refused(model, question):
    with pytest.raises(UserError):
        model.encode(question)


def test_a_question_of_ten_thousand_words_is_refused_and_a_long_one_is_read(model):
    with pytest.raises(UserError, match="10000 words"):
        model.encode("what " * 10_000)
    tokens = torch.tensor([model.encode("what color " * 200)])
    assert torch.isfinite(model.head(torch.rand(1, 6, 2, 2, dtype=torch.float64), tokens)).all()


def test_british_spelling_and_unknown_words_are_read(model):
    assert model.encode("What colour is the zebra?") == [4, 5, 6, 7, 3]


def test_tokens_outside_the_vocabulary_are_refused(model):
    with pytest.raises(UserError, match="vocabulary of 10"):
        model.head(torch.rand(1, 6, 2, 2, dtype=torch.float64), torch.tensor([[99]]))
