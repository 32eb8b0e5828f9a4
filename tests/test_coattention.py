"""Hierarchical co-attention: scores and attention against a slow twin in NumPy, explaining, training, checkpoints."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import captioning
import vqa
from common.errors import UserError
from common.formulas import localisation
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.maps import Maps
from common.training.summaries import Summaries
from common.training.trunks import save_seeing_trunk
from data.records import Question
from data.words.vocabulary import SPECIAL, Vocabulary
from scripts.experiments import figure12
from vqa import grounding
from vqa.answerer import Answerer
from vqa.coattention import ATTENTION, LEVELS, CoattentionModel
from vqa.network import CoattentionNetwork
from vqa.training import stages
from vqa.training.settings import ATTENTIONS, EASY

WORDS = ["what", "color", "is", "the", "dog", "hat"]
ANSWERS = ["yes", "no", "red", "blue"]
QUESTION = "what color is the hat"
HALF = (0.5, 0.5, 0.5)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 3, stride=2)

    def forward_features(self, images):
        return self.body(self.first(images).relu()).relu()


@pytest.fixture(params=ATTENTIONS)
def model(request):
    torch.manual_seed(3)
    trunk = SeeingTrunk(Network(), Evidence(6, ["dog", "red"], counted=1), Preprocessing((32, 32), HALF, HALF))
    vocabulary = Vocabulary([*SPECIAL, *WORDS])
    made = CoattentionModel(trunk, vocabulary, ANSWERS, embedding=5, joint=7, attention=request.param)
    return made.eval().requires_grad_(False)


@pytest.fixture
def answerer(model):
    return Answerer(CoattentionNetwork(model))


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))


# The twin: one image and one question, vectors as columns, as the paper writes them.


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def _line(w, name, x):
    """A linear layer of columns."""
    out = w[f"{name}.weight"] @ x
    return out + w[f"{name}.bias"][:, None] if f"{name}.bias" in w else out


def _phrases(w, words):
    count, width = len(words), words.shape[1]
    found = np.zeros((count, width))
    for t in range(count):
        grams = []
        for size in range(3):
            total = w[f"question.grams.{size}.bias"].copy()
            for step in range(size + 1):
                if t + step < count:
                    total += w[f"question.grams.{size}.weight"][:, :, step] @ words[t + step]
            grams.append(np.tanh(total))
        found[t] = np.max(grams, axis=0)
    return found


def _lstm(w, steps):
    h = c = np.zeros(steps.shape[1])
    out = []
    for x in steps:
        gates = w["question.lstm.weight_ih_l0"] @ x + w["question.lstm.bias_ih_l0"]
        i, f, g, o = np.split(gates + w["question.lstm.weight_hh_l0"] @ h + w["question.lstm.bias_hh_l0"], 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        out.append(h)
    return np.array(out)


def _parallel(w, level, V, Q):
    at = f"attend.{level}"
    C = np.tanh(Q.T @ w[f"{at}.affinity.weight"].T @ V)  # L x P
    Wv, Wq = _line(w, f"{at}.image", V), _line(w, f"{at}.question", Q)
    av = _softmax((w[f"{at}.image_score.weight"] @ np.tanh(Wv + Wq @ C))[0])
    aq = _softmax((w[f"{at}.question_score.weight"] @ np.tanh(Wq + Wv @ C.T))[0])
    return av, aq


def _alternating(w, level, V, Q):
    def attend(step, X, g):
        H = _line(w, f"attend.{level}.own.{step}", X)
        if g is not None:
            H = H + w[f"attend.{level}.guide.{step - 1}.weight"] @ g[:, None]
        return _softmax((w[f"attend.{level}.score.{step}.weight"] @ np.tanh(H))[0])

    asked = Q @ attend(0, Q, None)
    av = attend(1, V, asked)
    return av, attend(2, Q, V @ av)


def _twin(model, features, tokens):
    """Scores (N,), image attention (3,P) and word attention (3,L) of a map (K,h,w) and its question's tokens (L,)."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    words = w["question.embedding.weight"][tokens]
    phrases = _phrases(w, words)
    V = np.tanh(_line(w, "image", features.reshape(len(features), -1)))
    attend = _parallel if model.attention == "parallel" else _alternating
    joint, maps, heard = np.zeros(0), [], []
    for level, Q in enumerate((words, phrases, _lstm(w, phrases))):
        av, aq = attend(w, level, V, Q.T)
        together = np.concatenate([V @ av + Q.T @ aq, joint])
        joint = np.tanh(_line(w, f"join.{level}", together[:, None])[:, 0])
        maps.append(av)
        heard.append(aq)
    return _line(w, "classifier", joint[:, None])[:, 0], np.array(maps), np.array(heard)


def test_scores_and_attention_are_those_of_the_twin(model):
    model.double()
    features = torch.rand(2, 6, 2, 3, dtype=torch.float64)
    tokens = torch.tensor([[4, 5, 6, 7], [8, 3, 0, 0]])
    output = model.output(features, tokens)
    for b, length in enumerate((4, 2)):
        scores, maps, heard = _twin(model, features[b].numpy(), tokens[b, :length].numpy())
        np.testing.assert_allclose(output.logits[b], scores, atol=1e-12)
        np.testing.assert_allclose(output.image_attention[b].flatten(1), maps, atol=1e-12)
        np.testing.assert_allclose(output.word_attention[b, :, :length], heard, atol=1e-12)
    assert not output.word_attention[1, :, 2:].any()
    torch.testing.assert_close(output.image_attention.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_one_map_serves_several_questions_and_a_question_without_words_has_a_score(model):
    features = torch.rand(3, 6, 2, 2)
    tokens = torch.tensor([[4, 5], [6, 7], [0, 0]])
    assert model.head(features[:1], tokens).shape == model.head(features, tokens[:1]).shape == (3, 4)
    torch.testing.assert_close(model.head(features[:1], tokens)[1], model.head(features[:1], tokens[1:2])[0])
    assert torch.isfinite(model.head(features, tokens)).all()


def test_with_fewer_answers_the_scores_of_these_are_as_they_were(model):
    features, tokens = torch.rand(2, 6, 3, 3), torch.tensor([[4, 5, 6], [8, 9, 0]])
    torch.testing.assert_close(
        model.with_answers(["blue", "yes"]).head(features, tokens), model.head(features, tokens)[:, [3, 0]]
    )


def test_grad_cam_of_answers_is_eq_1_and_2_by_autograd(answerer, photo):
    found = answerer.explain(photo, QUESTION, ["red", "no"])
    model, encoded = answerer.network.module, answerer.encode(photo)
    A = encoded.features.clone().requires_grad_()
    scores = model.head(A, torch.tensor([[4, 5, 6, 7, 9]]))[0]
    for t, answer in enumerate((2, 1)):
        (gradient,) = torch.autograd.grad(scores[answer], A, retain_graph=True)
        expected = (gradient.mean((2, 3), keepdim=True) * A).sum(1).relu()[0]
        torch.testing.assert_close(found.heatmaps[t, 0], expected.detach(), atol=1e-6, rtol=1e-4)
    assert found.scores[:, 0].tolist() == pytest.approx(scores[[2, 1]].tolist(), rel=1e-5)
    assert localisation(A.detach(), torch.zeros(1, 1, 6)).max() == 0


def test_words_are_attributed_by_the_gradient_and_by_leaving_them_out(answerer, photo):
    found = answerer.explain(photo, QUESTION, ["red", "no"])
    model, features = answerer.network.module, answerer.encode(photo).features
    without = model.head(features, torch.tensor([[4, 5, 6, 7]]))[0]  # all but the hat
    whole = model.head(features, torch.tensor([[4, 5, 6, 7, 9]]))[0]
    assert found.word_drops[:, 4].tolist() == pytest.approx((whole - without)[[2, 1]].tolist(), abs=1e-5)
    assert found.word_gradients.shape == (2, 5)


def test_attention_is_shown_level_by_level_for_each_question(answerer, photo):
    found = answerer.attention(photo, [QUESTION, "dog"])
    assert [each.words for each in found] == [("what", "color", "is", "the", "hat"), ("dog",)]
    for each in found:
        assert each.levels == LEVELS and each.image.shape[0] == 3 and each.of_words.shape == (3, len(each.words))
        torch.testing.assert_close(each.of_words.sum(1), torch.ones(3))
    alone = answerer.attention(photo, "dog")
    torch.testing.assert_close(alone.image, found[1].image)


def test_its_own_attention_is_ranked_against_occlusion_beside_grad_cam(answerer, photo):
    question, encoded = Question("1", QUESTION, Path("x.jpg"), "x:1"), answerer.encode(photo)
    row = grounding.reference_correlations(answerer, question, encoded, {"cells": None})["cells"]
    assert {f"attention_{level}" for level in LEVELS} | {"gradcam", "cells"} <= set(row)
    A, tokens = encoded.features, torch.tensor([[4, 5, 6, 7, 9]])
    scores = answerer.network.module.head(A, tokens)[0]
    best, drops = int(scores.argmax()), []
    for cell in range(A[0, 0].numel()):
        without = A.flatten(2).clone()
        without[:, :, cell] = 0
        drops.append(float(scores[best] - answerer.network.module.head(without.view_as(A), tokens)[0, best]))
    looked = answerer.attention(encoded, QUESTION).image[1].flatten()
    assert row["attention_phrase"] == pytest.approx(spearmanr(looked.numpy(), drops).statistic, abs=1e-4)


def test_figure_12_shows_where_each_level_looks(answerer, photo):
    tiles = figure12.attention_tiles(answerer.attention(photo, QUESTION), photo)
    assert [tile.title for tile in tiles] == [f"(b) its attention, {level} level" for level in LEVELS]
    assert all(tile.note.startswith("hears ") and tile.note.count("%") == 3 for tile in tiles)
    plain = Answerer(OwnWithout(answerer.network.module))
    both = [figure12.draw(model, photo, QUESTION, ["red", "no"]) for model in (answerer, plain)]
    assert both[0].height > both[1].height + 200


class OwnWithout(CoattentionNetwork):
    """The same, but for where it looks."""

    def __getattribute__(self, name):
        if name == "attention":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_model_without_attention_says_so(photo):
    with pytest.raises(UserError, match="no attention to show"):
        vqa.load().attention(photo, QUESTION)


def test_a_layer_before_the_last_is_explained_as_well(answerer, photo):
    found = answerer.explain(photo, QUESTION, "red", layer="trunk.network.first")
    assert found.heatmaps.shape[2:] == (15, 15) and found.heatmaps.max() > 0


def test_the_names_that_settings_take_are_the_models_own():
    assert tuple(ATTENTION) == ATTENTIONS and set(stages.TRAININGS) == set(stages.MODELS)


TINY = dataclasses.replace(EASY, model="coattention", joint=48, embedding=16, head_epochs=3, batch=32)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(0)
    words = ["circle", "rectangle", "triangle", "red", "blue"]
    save_seeing_trunk(folder / "trunk", SeeingTrunk.of(load_trunk("small_cnn"), words, 0), {"network": "small_cnn"})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, trunk):
    pytest.importorskip("easy_vqa")
    folder = tmp_path_factory.mktemp("run")
    stages.train_vqa(["easyvqa"], folder, TINY, limit=40, trunk=trunk)
    return folder


def test_the_command_of_the_first_model_trains_the_second(run):
    answerer = vqa.load(run)
    assert isinstance(answerer.network, CoattentionNetwork)
    config = json.loads((run / "vqa.json").read_text())
    assert config["model"] == "coattention" and config["attention"] == "parallel"
    assert set(config["baselines"]) == {"commonest", "commonest_of_type", "without_image"}
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record.get("stage") == "head"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("changed", [{"attention": "sideways"}, {"model": "other"}, {"attention": None}])
def test_a_checkpoint_with_an_unknown_model_or_attention_is_refused(run, tmp_path, changed):
    for file in ("vqa.safetensors", "vqa.json", "trunk.safetensors", "trunk.json"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    config = {**json.loads((run / "vqa.json").read_text()), **changed}
    (tmp_path / "vqa.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(UserError, match="one of"):
        vqa.load(tmp_path)


def test_stored_maps_are_the_trunks_of_the_photograph_and_its_mirror(trunk, tmp_path):
    files = {}
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        files[f"x:{number}"] = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(files[f"x:{number}"])
    maps = Maps(Summaries.open(trunk, tmp_path / "features"))
    stored = maps.of("x", files)
    found = stored[[2, 0], [0, 1]]
    images = torch.stack([maps.trunk.preprocessing(files[name])[0] for name in ("x:2", "x:0")])
    images[1] = images[1].flip(-1)
    torch.testing.assert_close(found, maps.trunk.features(images).detach(), atol=2e-3, rtol=2e-3)
    means = Maps(maps.summaries, mean=True).of("x", files)[[2, 0], [0, 1]]
    torch.testing.assert_close(means, found.mean((2, 3)), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("package", [vqa, captioning])
def test_files_of_torch_7_are_refused_in_one_line(package, tmp_path):
    (tmp_path / "lstm.t7").write_bytes(b"\x04\x00\x00\x00")
    with pytest.raises(UserError, match=r"lstm.t7' is a file of Torch 7, .* are not read, see docs/own_model.md"):
        package.load(tmp_path / "lstm.t7")
