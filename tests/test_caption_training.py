import json
import math

import flickr
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import captioning
from captioning.checkpoint import load_model
from captioning.training import stages
from captioning.training.corpus import Corpus
from captioning.training.settings import Settings
from captioning.training.stages import Training, train_captioner
from common.errors import UserError
from common.networks.trunk import load_trunk
from common.training.checkpoints import load_checkpoint
from common.training.evidence import evidence_targets, word_shares
from common.training.run import Run
from data.readers import flickr8k
from data.words.vocabulary import END
from scripts import saywhy

TINY = Settings(
    views=2, hidden=8, evidence_words=6, minimum_count=2, batch=8, evidence_epochs=1, caption_epochs=2, reward_epochs=1
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return flickr.make(tmp_path_factory.mktemp("data") / "flickr8k")


@pytest.fixture(scope="module")
def trained(copy, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train_captioner(f"flickr8k:{copy}", out, TINY)
    return out


def _tensors(folder):
    return load_file(folder / "captioner.safetensors")


def test_training_writes_checkpoint_log_and_curve(trained):
    records = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [r.get("stage") for r in records] == ["evidence", "captions", "captions", "reward", None]
    assert all(math.isfinite(v) for r in records for v in r.values() if isinstance(v, float))
    assert records[-1]["dev"] == 4 and {"BLEU-4", "CIDEr", "ROUGE-L"} <= records[-1].keys()
    assert (trained / "curve.png").stat().st_size > 1000
    config = json.loads((trained / "captioner.json").read_text())
    assert config["settings"]["seed"] == 1 and config["train_images"] == 12
    assert "square" in config["evidence_words"] and "a" not in config["evidence_words"]


def test_the_checkpoint_loads_and_captions(trained, copy):
    captioner = captioning.load(trained)
    photographs = sorted((copy / "Flicker8k_Dataset").iterdir())[:2]
    captions = captioner.caption(photographs)
    assert len(captions) == 2 and all(caption.words for caption in captions)
    model, _, _ = load_model(trained)
    assert not model.training and model.decoder.embedding.weight.dtype == torch.float32


def test_the_same_seed_gives_the_same_checkpoint_and_another_seed_another(trained, copy, tmp_path):
    for seed, same in ((1, True), (2, False)):
        settings = Settings(**{**vars(TINY), "seed": seed})
        train_captioner(f"flickr8k:{copy}", tmp_path / str(seed), settings)
        again = _tensors(tmp_path / str(seed))
        assert all(torch.equal(v, again[k]) for k, v in _tensors(trained).items()) == same


@pytest.mark.parametrize("stop", [("evidence", 1), ("captions", 1)])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(trained, copy, tmp_path, monkeypatch, stop):
    save, kinds = Run.save, ["evidence", "captions", "reward"]

    def interrupted(self, state):
        save(self, state)
        if (kinds[state["stage"]], state["epoch"]) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_captioner(f"flickr8k:{copy}", tmp_path, TINY)
    monkeypatch.undo()
    train_captioner(f"flickr8k:{copy}", tmp_path, TINY)
    resumed = _tensors(tmp_path)
    assert all(torch.equal(v, resumed[k]) for k, v in _tensors(trained).items())


def test_going_on_with_other_settings_is_refused(trained, copy):
    with pytest.raises(UserError, match="hidden = 8, not 9; name another --out, or start again with --restart"):
        train_captioner(f"flickr8k:{copy}", trained, Settings(**{**vars(TINY), "hidden": 9}))


def test_early_blocks_and_batch_norm_statistics_stay_as_they_were(trained):
    original = load_trunk("efficientnet_lite0")
    assert original.classifier.out_features == 1000 and original.pretrained
    before, after = original.module.state_dict(), _tensors(trained)
    for name in ("conv_stem.weight", "blocks.4.2.conv_pwl.weight", "bn2.running_mean"):
        torch.testing.assert_close(after[f"trunk.{name}"].float(), before[name], atol=1e-3, rtol=1e-3)
    assert not torch.equal(after["trunk.conv_head.weight"], before["conv_head.weight"].half())


def test_evidence_targets_are_shares_of_an_images_captions(copy):
    image = flickr8k.read(copy, "train")[0]
    targets = evidence_targets([word_shares(image.tokens)], ["square", "box", "paper", "absent"])
    np.testing.assert_allclose(targets[0], [4 / 5, 1 / 5, 2 / 5, 0], atol=1e-6)


@pytest.fixture
def training(copy, tmp_path):
    settings = Settings(**{**vars(TINY), "samples": 2})
    return Training(Corpus.read(f"flickr8k:{copy}", settings), settings, tmp_path)


def test_evidence_words_are_content_words_in_the_most_images(training):
    assert training.corpus.words == ["box", "ground", "lies", "paper", "small", "square"]
    assert {"a", "on", "is"} <= set(training.corpus.vocabulary.words)


def test_the_rewards_gradient_raises_what_scores_above_the_other_samples(training, monkeypatch):
    training.model.eval()
    batch = training.train_loader.make([0, 1], [0, 0])
    good, bad = training.corpus.train[0].tokens[0], ["paper", "paper"]
    drawn = [training.model.vocabulary.encode(w) + [END] for w in (good, bad) * 2]
    tokens = torch.tensor([row + [0] * (12 - len(row)) for row in drawn])
    monkeypatch.setattr(stages.decoding, "sample", lambda *_: tokens)
    loss, numbers = training.reward_loss(batch)
    (gradient,) = torch.autograd.grad(loss, training.model.decoder.bias)
    assert training.reward(drawn[0], 0) > 1 > training.reward(drawn[1], 0)
    assert numbers["reward"] > 0
    paper = training.model.vocabulary.index["paper"]
    assert float(gradient[paper]) > 0  # a step down the gradient makes it rarer


def test_a_captions_end_is_rewarded_as_a_word(training):
    whole = training.model.vocabulary.encode(training.corpus.train[0].tokens[1])
    assert training.reward([*whole, END], 0) > training.reward(whole, 0)


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
    (tmp_path / "captioner.safetensors").write_bytes((trained / "captioner.safetensors").read_bytes())
    for change, message in (
        ({"vocabulary": [*config["vocabulary"], "extra"]}, "'vocabulary' in .* doesn't fit the checkpoint: it has"),
        ({"kind": "vqa"}, "no checkpoint of a captioner model, but of a vqa one"),
        ({"hidden": 16}, "doesn't fit this model"),
        ({"vocabulary": config["vocabulary"][::-1]}, "a vocabulary starts with"),
    ):
        (tmp_path / "captioner.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)


def test_the_command_trains(copy, tmp_path, capsys):
    options = "--limit 4 --views 1 --hidden 8 --evidence-words 4 --minimum-count 1"
    options += " --evidence-epochs 0 --caption-epochs 1"
    status = saywhy.main(
        ["train", "captioner", "--data", f"flickr8k:{copy}", "--out", str(tmp_path / "run"), *options.split(),
         "--reward-epochs", "0", "--freeze-trunk"]
    )  # fmt: skip
    assert status == 0 and "checkpoint: " in capsys.readouterr().out
    assert (tmp_path / "run" / "captioner.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "somewhere"], "--data is flickr8k:PATH"),
        (["--data", "flickr8k:/nowhere"], "Flickr8k.token.txt' is missing"),
        (["--data", "flickr8k:{copy}", "--views", "0"], "views is a whole number above 0; received 0"),
        (["--data", "flickr8k:{copy}", "--batch", "2.5"], "batch is a whole number above 0; received 2.5"),
        (["--data", "flickr8k:{copy}", "--dropout", "1"], "dropout is in \\[0, 1\\); received 1"),
        (["--data", "flickr8k:{copy}", "--trunk", "resnet9000"], "no model is called 'resnet9000'"),
    ],
)
def test_bad_arguments_are_one_line_and_status_two(copy, tmp_path, capsys, arguments, message):
    import re

    given = [a.format(copy=copy) for a in arguments]
    assert saywhy.main(["train", "captioner", *given, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("saywhy: error: ") and error.count("\n") == 1
