"""Training the captioner, whole but tiny: a drawn Flickr8k, a drawn COCO, and a trunk that knows nothing."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import captioning
from captioning.checkpoint import load_model
from captioning.training import stages
from captioning.training.corpus import Corpus
from captioning.training.rewards import Rewards, Weights, repetitions
from captioning.training.settings import Settings
from captioning.training.stages import Training, train_captioner
from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.checkpoints import load_checkpoint
from common.training.evidence import evidence_targets, word_shares
from common.training.run import Run
from common.training.store import FeatureStore
from common.training.summaries import FILE, Summaries
from common.training.trunks import load_seeing_trunk, save_seeing_trunk
from data.readers import flickr8k
from data.words.vocabulary import END
from scripts import saywhy
from tests import coco_copy, flickr

TINY = Settings(
    hidden=8, minimum_count=2, batch=8, text_share=0.5, caption_epochs=2, reward_epochs=1, last_epochs=1, beam=2
)
CONCEPTS = ["dog", "cat", "pizza", "bus", "square", "ground", "paper", "street"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return flickr.make(tmp_path_factory.mktemp("data") / "flickr8k")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return coco_copy.make(tmp_path_factory.mktemp("data") / "coco", captioned=1)


@pytest.fixture(scope="module")
def data(copy, coco):
    return [f"flickr8k:{copy}", f"coco:{coco}"]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A run's folder with a trunk that knows nothing."""
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(0)
    save_seeing_trunk(folder / "trunk", SeeingTrunk.of(load_trunk("small_cnn"), CONCEPTS, 4), {"network": "small_cnn"})
    return folder


@pytest.fixture(scope="module")
def trained(data, trunk, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train_captioner(data, out, TINY, trunk=trunk)
    return out


def _tensors(folder):
    return load_file(folder / "captioner.safetensors")


def test_training_writes_checkpoint_log_and_curve(trained):
    records = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [r.get("stage") for r in records] == ["captions", "captions", "reward", "last", None]
    assert all(math.isfinite(v) for r in records for v in r.values() if isinstance(v, float))
    final = records[-1]
    assert final["flickr8k_images"] == 4 and final["coco_images"] == 5 and final["coco_captioned"] == 1
    assert {"flickr8k_BLEU-4", "flickr8k_CIDEr", "coco_CIDEr", "coco_CHAIRs", "coco_class recall"} <= final.keys()
    assert (trained / "curve.png").stat().st_size > 1000
    config = json.loads((trained / "captioner.json").read_text())
    assert config["settings"]["seed"] == 1 and config["train_images"] == 12 and config["train_texts"] == 12
    assert config["figures"]["coco"]["CHAIRs"] == pytest.approx(final["coco_CHAIRs"], abs=1e-6)


def test_the_checkpoint_loads_and_captions(trained, copy):
    captioner = captioning.load(trained)
    photographs = sorted((copy / "Flicker8k_Dataset").iterdir())[:2]
    captions = captioner.caption(photographs)
    assert len(captions) == 2 and all(caption.words for caption in captions)
    model, _ = load_model(trained)
    assert not model.training and model.decoder.embedding.weight.dtype == torch.float32


def test_the_checkpoint_holds_the_decoder_alone_and_the_run_the_trunk_that_it_reads(trained, trunk):
    assert not [name for name in _tensors(trained) if not name.startswith("decoder.")]
    assert load_seeing_trunk(trained).same_as(load_seeing_trunk(trunk))
    before, after = (load_file(folder / "trunk.safetensors") for folder in (trunk, trained))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_same_seed_gives_the_same_checkpoint_and_another_seed_another(trained, data, trunk, tmp_path):
    for seed, same in ((1, True), (2, False)):
        settings = Settings(**{**vars(TINY), "seed": seed})
        train_captioner(data, tmp_path / str(seed), settings, trunk=trunk)
        again = _tensors(tmp_path / str(seed))
        assert all(torch.equal(v, again[k]) for k, v in _tensors(trained).items()) == same


@pytest.mark.parametrize("stop", [("captions", 1), ("reward", 1)])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(trained, data, trunk, tmp_path, monkeypatch, stop):
    save, kinds = Run.save, ["captions", "reward", "last"]

    def interrupted(self, state):
        save(self, state)
        if (kinds[state["stage"]], state["epoch"]) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_captioner(data, tmp_path, TINY, trunk=trunk)
    monkeypatch.undo()
    train_captioner(data, tmp_path, TINY, trunk=trunk)
    resumed = _tensors(tmp_path)
    assert all(torch.equal(v, resumed[k]) for k, v in _tensors(trained).items())


def test_going_on_with_other_settings_is_refused(trained, data, trunk):
    with pytest.raises(UserError, match="hidden = 8, not 9; name another --out, or start again with --restart"):
        train_captioner(data, trained, Settings(**{**vars(TINY), "hidden": 9}), trunk=trunk)


def test_going_on_with_another_trunk_is_refused(trained, data, tmp_path):
    torch.manual_seed(1)
    save_seeing_trunk(
        tmp_path / "trunk", SeeingTrunk.of(load_trunk("small_cnn"), CONCEPTS, 4), {"network": "small_cnn"}
    )
    with pytest.raises(UserError, match="holds another trunk than '.*'; name another --out"):
        train_captioner(data, trained, TINY, trunk=tmp_path)


def test_evidence_targets_are_shares_of_an_images_captions(copy):
    image = flickr8k.read(copy, "train")[0]
    targets = evidence_targets([word_shares(image.tokens)], ["square", "box", "paper", "absent"])
    np.testing.assert_allclose(targets[0], [4 / 5, 1 / 5, 2 / 5, 0], atol=1e-6)


def _training(data, trunk, folder, **settings):
    settings = Settings(**{**vars(TINY), "samples": 2, **settings})
    return Training(Corpus.read(data), settings, Summaries.open(trunk, folder))


@pytest.fixture
def training(data, trunk, tmp_path):
    return _training(data, trunk, tmp_path)


def test_flickr8k_alone_trains_as_well(copy, trunk, tmp_path):
    training = _training([f"flickr8k:{copy}"], trunk, tmp_path)
    batch = next(training.loader.epoch(1, 0.5))
    assert training.loader.lookalikes is None and training.loader.steps(0.5) == 2
    assert all(math.isfinite(stage.loss(batch)[0]) for stage in training.stages())


def test_coco_alone_trains_as_well(coco, trunk, tmp_path):
    training = _training([f"coco:{coco}"], trunk, tmp_path)
    batch = next(training.loader.epoch(1, 0.5))
    assert not training.corpus.photographs and batch.summary.shape == (6, 8 + 4)
    assert all(math.isfinite(stage.loss(batch)[0]) for stage in training.stages())


def test_the_few_captioned_photographs_of_coco_and_its_val_split_are_for_validation_alone(training):
    trained_on = {subject.image_id for subject in (*training.corpus.photographs, *training.corpus.boxed)}
    watched = {subject.image_id for subject in training.corpus.val["coco"]}
    assert "coco:0" in watched and {"coco:12", "coco:15"} <= watched and not watched & trained_on


def test_an_epoch_has_each_photograph_and_a_share_of_the_texts_with_all_their_captions(training):
    batches = list(training.loader.epoch(1, 0.5))
    numbers = [number for batch in batches for number in batch.numbers]
    assert len(batches) == training.loader.steps(0.5) and len(set(numbers)) == len(numbers) == 12 + 6
    assert {n for n in numbers if n < 12} == set(range(12))
    assert sum(len(batch.tokens) for batch in batches) == 12 * 5 + 6
    assert [b.numbers for b in training.loader.epoch(1, 0.5)] == [b.numbers for b in batches]
    assert [b.numbers for b in training.loader.epoch(2, 0.5)] != [b.numbers for b in batches]
    assert sum(len(batch.numbers) for batch in training.loader.epoch(1, 0.0)) == 12


def test_batches_come_on_the_device_of_the_training(training):
    training.loader.device = torch.device("meta")
    batch = next(training.loader.epoch(1, 0.5))
    assert {tensor.device.type for tensor in (batch.summary, batch.tokens, batch.image)} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_each_stage_trains_on_cuda(data, trunk, tmp_path):
    training = Training(Corpus.read(data), TINY, Summaries.open(trunk, tmp_path, "cuda"))
    for stage in training.stages():
        loss, _ = stage.loss(next(iter(stage.batches(1))))
        loss.backward()
        assert loss.device.type == "cuda" and torch.isfinite(loss)


def test_photographs_are_read_as_a_trunk_without_them_saw_them(data, trunk, tmp_path):
    """A row of summaries.h5 beside the trunk is what the decoder reads of the photograph."""
    for name in ("trunk.json", "trunk.safetensors"):
        (tmp_path / name).write_bytes((trunk / name).read_bytes())
    name, fingerprint = "flickr8k:1000_0000", load_seeing_trunk(tmp_path).fingerprint
    with FeatureStore.open(tmp_path / FILE, [name], (2, 12), fingerprint) as store:
        store.write([0], np.full((1, 2, 12), 0.25, np.float16))
    training = _training(data, tmp_path, tmp_path / "features")
    first = training.loader.make([0, 1], np.random.default_rng(0)).summary
    assert first[0].tolist() == [0.25] * 12 and first[1].tolist() != [0.25] * 12


def test_the_rewards_gradient_raises_what_scores_above_the_other_samples(training, monkeypatch):
    batch = training.loader.make([0, 1], np.random.default_rng(0))
    good, bad = training.corpus.photographs[0].tokens[0], ["paper", "paper"]
    drawn = [training.model.vocabulary.encode(w) + [END] for w in (good, bad) * 2]
    tokens = torch.tensor([row + [0] * (12 - len(row)) for row in drawn])
    monkeypatch.setattr(stages.decoding, "sample", lambda *_, **__: tokens)
    loss, numbers = training.reward_loss(batch)
    (gradient,) = torch.autograd.grad(loss, training.model.decoder.bias)
    assert training.reward(drawn[0], 0, Weights()) > 1 > training.reward(drawn[1], 0, Weights())
    assert math.isfinite(numbers["reward"])
    paper = training.model.vocabulary.index["paper"]
    assert float(gradient[paper]) > 0  # a step down the gradient makes it rarer


def test_a_captions_end_is_rewarded_as_a_word(training):
    whole = training.model.vocabulary.encode(training.corpus.photographs[0].tokens[1])
    assert training.reward([*whole, END], 0, Weights()) > training.reward(whole, 0, Weights())


def test_a_text_is_rewarded_by_its_own_captions_and_classes(training):
    number = len(training.corpus.photographs) + 2  # 'a pizza on a street'
    said = [training.model.vocabulary.encode(f"a {name} on a street".split()) + [END] for name in ("pizza", "bus")]
    assert training.reward(said[0], number, Weights()) > training.reward(said[1], number, Weights()) + 1


def test_classes_that_are_there_pay_and_others_cost_unless_people_named_them(training):
    texts = training.corpus.texts[:1]  # the boxes show a dog
    rewards, weights = Rewards(texts), Weights(false=0.5, true=0.25, repeated=0.0)
    assert rewards.truth({"dog"}, 0, weights) == 0.25
    assert rewards.truth({"dog", "cat", "bus"}, 0, weights) == 0.25 - 2 * 0.5
    unboxed = Rewards(training.corpus.photographs[:1])  # known by its captions: half as sure, or not counted
    assert unboxed.truth({"dog"}, 0, Weights(false=0.5)) == -0.25
    assert unboxed.truth({"dog"}, 0, Weights(false=0.5, unsure=0.0)) == 0
    assert repetitions("a dog dog and a cat and a cat".split()) == 1 + 1
    assert repetitions(["a", "dog"]) == repetitions([]) == 0


def test_broken_checkpoints_name_the_file(tmp_path, trained):
    with pytest.raises(UserError, match="nothing.json' is missing"):
        load_checkpoint(tmp_path / "nothing")
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"c{suffix}").write_bytes((trained / f"captioner{suffix}").read_bytes())
    (tmp_path / "c.safetensors").write_bytes((trained / "captioner.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="c.safetensors' is truncated"):
        load_checkpoint(tmp_path / "c")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UserError, match="cannot read .*c.json"):
        load_checkpoint(tmp_path / "c")


def test_a_vocabulary_that_does_not_fit_the_weights_is_refused(tmp_path, trained):
    config = json.loads((trained / "captioner.json").read_text())
    for name in ("captioner.safetensors", "trunk.safetensors", "trunk.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    for change, message in (
        ({"vocabulary": [*config["vocabulary"], "extra"]}, "'vocabulary' in .* doesn't fit the checkpoint: it has"),
        ({"kind": "vqa"}, "no checkpoint of a captioner model, but of a vqa one"),
        ({"hidden": 16}, "doesn't fit this model"),
        ({"vocabulary": config["vocabulary"][::-1]}, "a vocabulary starts with"),
        ({"trunk": "efficientnet_lite0"}, "trained before trunks had files of their own"),
    ):
        (tmp_path / "captioner.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)


def test_the_command_trains(data, trunk, tmp_path, capsys):
    options = "--limit 4 --hidden 8 --minimum-count 1 --caption-epochs 1 --reward-epochs 0 --last-epochs 0 --beam 1"
    given = [part for each in data for part in ("--data", each)]
    where = ["--out", str(tmp_path / "run"), "--trunk", str(trunk)]
    status = saywhy.main(["train", "captioner", *given, *where, *options.split()])
    assert status == 0 and "checkpoint: " in capsys.readouterr().out
    assert (tmp_path / "run" / "captioner.safetensors").is_file() and (tmp_path / "run" / "trunk.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "somewhere"], "--data is flickr8k:PATH"),
        (["--data", "flickr8k:"], "--data is flickr8k:PATH"),
        (["--data", "flickr8k:/nowhere"], "Flickr8k.token.txt' is missing"),
        (["--data", "coco:/nowhere"], "no folder of COCO photographs"),
        (["--data", "flickr8k:{copy}", "--batch", "2.5"], "batch is a whole number above 0; received 2.5"),
        (["--data", "flickr8k:{copy}", "--dropout", "1"], "dropout is in \\[0, 1\\); received 1"),
        (["--data", "flickr8k:{copy}", "--text-share", "2"], "text_share is in \\[0, 1\\]; received 2"),
        (["--data", "flickr8k:{copy}", "--trunk", "/nowhere"], "'/nowhere.json' is missing"),
    ],
)
def test_bad_arguments_are_one_line_and_status_two(copy, trunk, tmp_path, capsys, arguments, message):
    given = [a.format(copy=copy) for a in arguments]
    own = [] if "--trunk" in given else ["--trunk", str(trunk)]
    assert saywhy.main(["train", "captioner", *given, *own, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("saywhy: error: ") and error.count("\n") == 1
