"""The control on the mean feature: scores against a slow twin in NumPy, maps, and training by the command's name."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import vqa
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.trunks import save_seeing_trunk
from data.words.vocabulary import SPECIAL, Vocabulary
from tests.test_coattention import ANSWERS, HALF, QUESTION, WORDS, Network
from vqa.answerer import Answerer
from vqa.network import PooledNetwork
from vqa.pooled import PooledModel
from vqa.training import stages
from vqa.training.settings import EASY


@pytest.fixture
def model():
    torch.manual_seed(4)
    trunk = SeeingTrunk(Network(), Evidence(6, ["dog", "red"], counted=1), Preprocessing((32, 32), HALF, HALF))
    made = PooledModel(trunk, Vocabulary([*SPECIAL, *WORDS]), ANSWERS, embedding=5, hidden=4, joint=7)
    return made.eval().requires_grad_(False)


def _layer(w, level, steps):
    """The outputs (L,D) and the last cell state of one LSTM layer."""
    h = c = np.zeros(4)
    out = []
    for x in steps:
        gates = w[f"weight_ih_l{level}"] @ x + w[f"bias_ih_l{level}"] + w[f"weight_hh_l{level}"] @ h
        i, f, g, o = np.split(gates + w[f"bias_hh_l{level}"], 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        out.append(h)
    return np.array(out), c


def test_scores_are_those_of_the_twin(model):
    model.double()
    w = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    lstm = {name.removeprefix("question.lstm."): tensor for name, tensor in w.items() if "lstm" in name}
    features, tokens = torch.rand(2, 6, 2, 3, dtype=torch.float64), torch.tensor([[4, 5, 6], [8, 3, 0]])
    for b, length in enumerate((3, 2)):
        lower, c0 = _layer(lstm, 0, np.tanh(w["question.embedding.weight"][tokens[b, :length].numpy()]))
        upper, c1 = _layer(lstm, 1, lower)
        query = np.tanh(w["query.weight"] @ np.concatenate([lower[-1], c0, upper[-1], c1]) + w["query.bias"])
        mean = features[b].mean((1, 2)).numpy()
        image = np.tanh(w["image.weight"] @ (mean / np.linalg.norm(mean)) + w["image.bias"])
        expected = w["classifier.weight"] @ (image * query) + w["classifier.bias"]
        np.testing.assert_allclose(model.head(features, tokens)[b], expected, atol=1e-12)
    assert torch.isfinite(model.head(features, torch.zeros(2, 3, dtype=torch.long))).all()


def test_with_fewer_answers_the_scores_of_these_are_as_they_were(model):
    features, tokens = torch.rand(2, 6, 3, 3), torch.tensor([[4, 5, 6], [8, 9, 0]])
    fewer = model.with_answers(["blue", "yes"]).head(features, tokens)
    torch.testing.assert_close(fewer, model.head(features, tokens)[:, [3, 0]])


def test_its_answers_are_explained_by_the_same_facade(model):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    answerer = Answerer(PooledNetwork(model))
    found, A = answerer.explain(photo, QUESTION, ["red", "no"]), answerer.encode(photo).features
    leaf = A.clone().requires_grad_()
    score = model.head(leaf, torch.tensor([[4, 5, 6, 7, 9]]))[0, 2]
    (gradient,) = torch.autograd.grad(score, leaf)
    expected = (gradient.mean((2, 3), keepdim=True) * A).sum(1).relu()[0]
    torch.testing.assert_close(found.heatmaps[0, 0], expected, atol=1e-6, rtol=1e-4)
    assert found.word_gradients.shape == found.word_drops.shape == (2, 5)


def test_the_command_trains_it_by_its_name(tmp_path):
    pytest.importorskip("easy_vqa")
    torch.manual_seed(0)
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), ["circle", "red"], 0)
    save_seeing_trunk(tmp_path / "trunk" / "trunk", trunk, {"network": "small_cnn"})
    tiny = dataclasses.replace(EASY, model="pooled", hidden=16, joint=32, embedding=16, head_epochs=1, batch=32)
    stages.train_vqa(["easyvqa"], tmp_path / "run", tiny, limit=20, trunk=tmp_path / "trunk")
    assert isinstance(vqa.load(tmp_path / "run").network, PooledNetwork)
    assert json.loads((tmp_path / "run" / "vqa.json").read_text())["model"] == "pooled"
    assert list((tmp_path / "run" / "features").glob("means-*.h5"))
