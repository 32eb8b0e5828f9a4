"""Training the trunk at small size: it learns, goes on where it was stopped, and tells heads what is new to it."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.run import Run
from common.training.store import FeatureStore
from common.training.summaries import FILE, Summaries
from common.training.trunk.corpus import Targets
from common.training.trunk.figures import average_precision, figures, mean_average_precision, right_counts
from common.training.trunk.settings import EASY, Settings
from common.training.trunk.stages import train_trunk
from common.training.trunk.training import count_loss, start_evidence
from common.training.trunks import load_seeing_trunk
from data.derived.concepts import read_corpus
from data.words.coco_classes import CLASSES
from tests import coco_copy, flickr

TINY = Settings(
    trunk="small_cnn", words=12, trunk_epochs=2, folds=2, guess_epochs=2, batch=8, trunk_rate=2e-3, evidence_rate=1e-2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = [f"coco:{coco_copy.make(folder / 'coco')}", f"flickr8k:{flickr.make(folder / 'flickr8k')}"]
    return partial(read_corpus, names)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert train_trunk(data, out, TINY) == out / "trunk.safetensors"
    return out


def test_a_trained_trunk_knows_classes_words_and_what_is_typical(run):
    trunk = load_seeing_trunk(run)
    assert trunk.evidence.classes == CLASSES and len(trunk.evidence.caption_words) == 12
    assert "square" in trunk.evidence.caption_words and bool((trunk.evidence.typical != 0).all())
    config = json.loads((run / "trunk.json").read_text())
    assert config["trained_on"] == {"coco": 11, "flickr8k": 12} and config["network"] == "small_cnn"
    assert config["figures"]["coco_classes"]["n"] == 4
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines() if "loss" in line]
    assert losses[0] > losses[1]


def test_heads_are_told_of_training_photographs_by_a_trunk_that_never_saw_them(run):
    summaries = Summaries.open(run, run)
    store = FeatureStore(run / FILE, summaries.trunk.fingerprint)
    assert len(store) == 23 and not store.missing() and store.shape == (2, 172)
    assert summaries.fitted("coco:1") and not summaries.fitted("coco:0") and not summaries.fitted("coco:13")
    assert {path.name for path in run.iterdir() if path.name.startswith("fold")} == {"fold-1", "fold-2"}


def test_a_stopped_training_goes_on_and_ends_as_it_would_have(data, run, tmp_path, monkeypatch):
    save, calls = Run.save, []

    def stopped(self, state):
        save(self, state)
        calls.append(self.folder)
        if len(calls) in (4, 7):  # after an epoch of the trunk's own; in the second fold's
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopped)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train_trunk(data, tmp_path, TINY)
    train_trunk(data, tmp_path, TINY)
    assert load_seeing_trunk(tmp_path).fingerprint == load_seeing_trunk(run).fingerprint
    whole, again = (FeatureStore(folder / FILE, load_seeing_trunk(run).fingerprint) for folder in (run, tmp_path))
    rows = list(range(len(whole)))
    assert np.array_equal(whole.read(rows), again.read(rows))


def test_captions_alone_are_enough(data, tmp_path):
    settings = dataclasses.replace(TINY, folds=0, trunk_epochs=1)
    train_trunk(partial(read_corpus, data.args[0][1:]), tmp_path, settings, limit=6)
    assert not (tmp_path / FILE).exists() and not (tmp_path / "guess").exists()
    assert json.loads((tmp_path / "trunk.json").read_text())["trained_on"] == {"flickr8k": 6}


def test_easy_vqa_teaches_shapes_and_colours(tmp_path):
    pytest.importorskip("easy_vqa")
    settings = dataclasses.replace(EASY, trunk_epochs=1, folds=0)
    train_trunk(partial(read_corpus, ["easyvqa"]), tmp_path, settings, limit=60)
    trunk = load_seeing_trunk(tmp_path)
    assert trunk.evidence.counted == 0 and {"circle", "red", "teal"} <= set(trunk.evidence.words)
    assert len(trunk.evidence.words) == 11
    assert json.loads((tmp_path / "trunk.json").read_text())["figures"]["easyvqa-test_words"]["n"] == 60


def test_a_number_of_folds_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="folds is 0, or 2 or more; received 1"):
        Settings(folds=1)


def test_evidence_starts_at_what_imagenet_knows():
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), ["dog", "grass"], 1)
    classifier = torch.nn.Linear(trunk.channels, 1000)
    before = trunk.evidence.classifier.weight.detach().clone()
    start_evidence(trunk, np.array([0.5, 0.1], np.float32), [(151, 152), ()], classifier)
    torch.testing.assert_close(trunk.evidence.classifier.bias.detach().sigmoid(), torch.tensor([0.5, 0.1]))
    assert not torch.equal(trunk.evidence.classifier.weight[0], before[0])
    assert torch.equal(trunk.evidence.classifier.weight[1], before[1])


def test_counts_are_learned_as_poissons_where_they_are_known():
    numbers = torch.tensor([[0.5, 2.0], [3.0, 1.0]], dtype=torch.float64)
    counts = torch.tensor([[1, -1], [0, 20]])
    expected = (0.5 - np.log(0.5)) + 3.0 + (1.0 - 12 * np.log(1.0))
    assert float(count_loss(numbers, counts)) == pytest.approx(expected / 2, rel=1e-4)


def test_precision_is_averaged_over_those_that_are_shown():
    scores, shown = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(scores, shown) == pytest.approx((1 + 2 / 3) / 2)
    columns = np.stack([scores, -scores, scores], 1)
    values = np.stack([shown, shown, np.zeros(4)], 1)
    weights = np.ones((4, 3))
    expected = ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 4) / 2) / 2  # nobody shows the third
    assert mean_average_precision(columns, values, weights, 1) == pytest.approx(expected)
    weights[1, 0] = 0.3  # known by half: left out
    assert mean_average_precision(columns, values, weights, 1) == pytest.approx((1 + 0.5) / 2)
    assert np.isnan(mean_average_precision(columns, values, weights, 3))


def test_counting_is_measured_on_one_to_five_things():
    right = right_counts(np.array([[0.2, 2.6, 9.0, 1.4]]), np.array([[1, 2, 9, -1]]))
    assert right.tolist() == [[1, 0, -1, -1]]


def test_figures_come_with_an_error_and_a_number():
    rng = np.random.default_rng(0)
    values = (rng.random((40, 3)) < 0.4).astype(np.float32)
    summaries = np.concatenate([values + rng.normal(0, 0.1, values.shape), values[:, :2]], 1)
    targets = Targets(values, np.ones_like(values), values[:, :2].astype(np.int16))
    found = figures(summaries, targets, draws=5)
    assert found["classes"][0] == found["words"][0] == found["counts"][0] == 1.0
    assert found["classes"][1:] == (0.0, 40) and found["counts"][2] == int(values[:, :2].sum())
