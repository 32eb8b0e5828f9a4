"""VGG's head on Lite0's convolutions: what coincides behind one linear layer differs here; and its training."""

import dataclasses
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import classification
from classification.finetuning import has_cam, with_classes
from common.errors import UserError
from common.gradcam import explain
from common.networks.vgg_head import hidden_layers, with_vgg_head
from common.training.run import Run
from common.training.vgg_head.settings import Settings
from common.training.vgg_head.training import condensed, train_vgg_head
from data.derived.concepts import read_corpus
from scripts.experiments.maps import deconv_sees
from tests import coco_copy, flickr

TINY = Settings(batch=8, crops=1, head_epochs=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = [f"coco:{coco_copy.make(folder / 'coco')}", f"flickr8k:{flickr.make(folder / 'flickr8k')}"]
    return partial(read_corpus, names)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert train_vgg_head(data, out, TINY) == out / "vgg_head.safetensors"
    return out


@pytest.fixture(scope="module")
def shipped():
    return classification.load("saywhy:vgg_head", fast=True)


def test_the_shipped_network_knows_what_lite0_knows_and_has_no_batch_normalisation(shipped):
    assert shipped.layer == "bn2" and {layer.name: tuple(layer.shape) for layer in shipped.layers()}["bn2"][1:] == (
        7,
        7,
    )
    assert not any(isinstance(part, nn.BatchNorm2d) for part in shipped.network.module.modules())
    path = "data/samples/cat.jpg"
    best = {found.label for found in classification.load(fast=True).predict(path, top=5)}
    assert shipped.predict(path, top=1)[0].label in best
    assert shipped.network.name == "saywhy:vgg_head" and "shipped with saywhy" in shipped.network.source


def test_what_coincides_behind_one_linear_layer_differs_here(shipped):
    """There are no such differences in Lite0 itself, whose gradient is equal at every position."""
    names = ("gradcam", "hirescam", "guided_relu", "deconv_relu", "max_pooled")
    for classifier, alike in ((classification.load(fast=True), True), (shipped, False)):
        image = classifier.images("data/samples/cat.jpg")
        maps = explain(classifier.explainable, image, 281, methods=names).maps
        for name in names[1:]:
            likeness = float(F.cosine_similarity(maps[name].flatten(), maps["gradcam"].flatten(), dim=0))
            assert (likeness > 0.9999) == alike, name
        assert has_cam(classifier) == alike and deconv_sees(classifier) != alike


def test_a_data_sets_classes_take_the_place_of_the_last_layer_alone(shipped):
    tuned, last = with_classes(shipped.network.module, 20)
    assert tuned.classifier.fc8 is last and tuned(shipped.network.blank()).shape == (1, 20)


def test_the_head_reads_what_is_stored_of_a_map():
    torch.manual_seed(0)
    maps, layers = torch.rand(2, 6, 7, 7), hidden_layers(6, 4)
    stored = condensed(maps)
    assert stored.shape == (2, 6, 10)
    torch.testing.assert_close(stored[..., -1], maps.mean((-2, -1)))
    network = nn.Module()
    network.global_pool, network.classifier = nn.Identity(), nn.Linear(6, 4)
    with_vgg_head(network, 4).classifier.load_state_dict(layers.state_dict())
    torch.testing.assert_close(network.classifier(network.global_pool(maps)), layers(stored[..., :9].flatten(1)))


def test_a_head_learns_what_its_teacher_says(run, data):
    config = json.loads((run / "vgg_head.json").read_text())
    assert config["photographs"] == 23 and config["agreement"]["coco"]["n"] == 5
    assert 0 <= config["agreement"]["coco"]["top1"] <= config["agreement"]["coco"]["top5"] <= 100
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    own = classification.load("saywhy:vgg_head", weights=run / "vgg_head.safetensors")
    assert own.network.source == str(run / "vgg_head.safetensors")
    assert len(own.predict(data(1, None).photographs[0].path, top=3)) == 3


def test_a_stopped_training_goes_on_and_ends_as_it_would_have(run, data, tmp_path, monkeypatch):
    save = Run.save

    def stopped(self, state):
        save(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save", stopped)
        train_vgg_head(data, tmp_path, TINY, features=run / "features")
    train_vgg_head(data, tmp_path, TINY, features=run / "features")
    assert (tmp_path / "vgg_head.safetensors").read_bytes() == (run / "vgg_head.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run with"):
        train_vgg_head(data, tmp_path, dataclasses.replace(TINY, dropout=0.5), features=run / "features")


def test_other_names_weights_and_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is saywhy:vgg_head"):
        classification.load("saywhy:alexnet")
    with pytest.raises(UserError, match="no pooling and linear layer"):
        with_vgg_head(nn.Sequential(nn.Linear(2, 2)))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not fit"):
        classification.load("saywhy:vgg_head", weights=tmp_path / "other.pth")
