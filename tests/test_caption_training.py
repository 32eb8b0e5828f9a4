import json
import math

import captioners
import flickr
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import captioning
from captioning.checkpoint import load_model
from captioning.training import stages
from captioning.training.corpus import Corpus
from captioning.training.settings import Settings
from captioning.training.stages import Training, train_captioner
from common.errors import UserError
from common.networks.trunk import load_trunk
from common.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from common.training.evidence import evidence_entropy, evidence_targets, word_shares
from common.training.loop import Average, Stage, cosine, seed_of
from common.training.loop import train as train_stages
from common.training.run import Run
from common.training.views import view
from data.readers import flickr8k
from data.words.vocabulary import END
from scripts import saywhy

TINY = Settings(
    views=2,
    hidden=8,
    evidence_words=6,
    minimum_count=2,
    batch=8,
    evidence_epochs=1,
    caption_epochs=2,
    reward_epochs=1,
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
    log = Run.log

    def interrupted(self, record):
        log(self, record)
        if (record.get("stage"), record.get("epoch")) == stop:
            raise KeyboardInterrupt

    save = Run.save
    monkeypatch.setattr(Run, "save", lambda self, state: (save(self, state), _stop(state))[0])
    kinds = ["evidence", "captions", "reward"]

    def _stop(state):
        if (kinds[state["stage"]], state["epoch"]) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_captioner(f"flickr8k:{copy}", tmp_path, TINY)
    monkeypatch.undo()
    train_captioner(f"flickr8k:{copy}", tmp_path, TINY)
    resumed = _tensors(tmp_path)
    assert all(torch.equal(v, resumed[k]) for k, v in _tensors(trained).items())


def test_going_on_with_other_settings_is_refused(trained, copy):
    with pytest.raises(
        UserError, match="hidden = 8, not 9; name another --out, or start again with --restart"
    ):
        train_captioner(f"flickr8k:{copy}", trained, Settings(**{**vars(TINY), "hidden": 9}))


def test_early_blocks_and_batch_norm_statistics_stay_as_they_were(trained):
    original = load_trunk("efficientnet_lite0")
    assert original.classifier.out_features == 1000 and original.pretrained
    before, after = original.module.state_dict(), _tensors(trained)
    for name in ("conv_stem.weight", "blocks.4.2.conv_pwl.weight", "bn2.running_mean"):
        torch.testing.assert_close(after[f"trunk.{name}"].float(), before[name], atol=1e-3, rtol=1e-3)
    assert not torch.equal(after["trunk.conv_head.weight"], before["conv_head.weight"].half())


def test_front_and_tail_make_the_whole_trunk():
    trunk = load_trunk("efficientnet_lite0", random_weights=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = trunk.module.forward_features(images)
        for blocks in (None, 0, 5, 7):
            front, tail = trunk.split(blocks)
            torch.testing.assert_close(tail(front(images)), whole)
    assert len(list(tail.parameters())) == 3  # conv_head's weight, and the norm's scale and shift
    with pytest.raises(UserError, match="blocks 0 to 7; cannot train it from 9"):
        trunk.split(9)


@pytest.mark.parametrize(
    ("name", "layer", "channels", "front", "trained"),
    [
        ("small_cnn", "trunk.body", 96, (3, 64, 64), 12),  # knows nothing yet: trained whole
        ("timm:test_convnext", "trunk", 64, (64, 2, 2), 0),  # can't be cut: stays as it is
        ("resnet18", "trunk.layer4", 512, (512, 2, 2), 0),
    ],
)
def test_any_trunk_is_cut_where_it_can_be(name, layer, channels, front, trained):
    trunk = load_trunk(name, random_weights=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, tail = trunk.split(5)
        assert before(images).shape[1:] == front and len(list(tail.parameters())) == trained
        torch.testing.assert_close(tail(before(images)), trunk.features(images))
        assert trunk.features(images).shape[1] == trunk.channels == channels
    assert trunk.layer_name == layer and trunk.classifier is None
    frozen, nothing = trunk.split(None)
    assert not list(nothing.parameters()) and torch.equal(frozen(images), trunk.features(images))


def test_a_network_of_tokens_is_no_trunk():
    with pytest.raises(UserError, match="has tokens, not a feature map"):
        load_trunk("timm:test_vit", random_weights=True)


def test_views_depend_on_name_and_number_alone():
    image = torch.rand(3, 32, 32)
    assert torch.equal(view(image, "a.jpg", 0), image)
    assert torch.equal(view(image, "a.jpg", 1), image.flip(-1))
    crop = view(image, "a.jpg", 2)
    assert crop.shape == image.shape and torch.equal(crop, view(image, "a.jpg", 2))
    assert not torch.equal(crop, view(image, "b.jpg", 2)) and not torch.equal(crop, image)


def test_evidence_targets_are_shares_of_an_images_captions(copy):
    image = flickr8k.read(copy, "train")[0]
    targets = evidence_targets([word_shares(image.tokens)], ["square", "box", "paper", "absent"])
    np.testing.assert_allclose(targets[0], [4 / 5, 1 / 5, 2 / 5, 0], atol=1e-6)


def test_evidence_that_is_not_known_to_be_untrue_counts_less():
    evidence, targets = torch.tensor([[0.3, -1.0], [0.2, 2.0]]), torch.tensor([[0.6, 0.0], [0.0, 1.0]])

    def entropy(logit, target):
        return -target * math.log(1 / (1 + math.exp(-logit))) - (1 - target) * math.log(
            1 / (1 + math.exp(logit))
        )

    expected = entropy(0.3, 0.6) + 0.5 * entropy(-1.0, 0.0) + entropy(0.2, 0.0) + entropy(2.0, 1.0)
    found = evidence_entropy(evidence, targets, torch.tensor([0.5, 1.0]))
    assert float(found) == pytest.approx(expected / 2, rel=1e-6)


@pytest.fixture
def training(copy, tmp_path):
    settings = Settings(**{**vars(TINY), "samples": 2})
    return Training(Corpus.read(f"flickr8k:{copy}", settings), settings, tmp_path)


def test_evidence_words_are_content_words_in_the_most_images(training):
    assert training.corpus.words == ["box", "ground", "lies", "paper", "small", "square"]
    assert {"a", "on", "is"} <= set(training.corpus.vocabulary.words)


def test_the_rewards_gradient_raises_what_scores_above_the_other_samples(training, monkeypatch):
    training.model.eval()
    batch = training.training.make([0, 1], [0, 0])
    good, bad = training.corpus.train[0].tokens[0], ["paper", "paper"]
    drawn = [training.model.vocabulary.encode(w) + [END] for w in (good, bad) * 2]
    tokens = torch.tensor([row + [0] * (12 - len(row)) for row in drawn])
    monkeypatch.setattr(stages.decoding, "sample_from", lambda *_: tokens)
    loss, numbers = training.reward_loss(batch)
    (gradient,) = torch.autograd.grad(loss, training.model.decoder.bias)
    assert training.reward(drawn[0], 0) > 1 > training.reward(drawn[1], 0)
    assert numbers["reward"] > 0
    paper = training.model.vocabulary.index["paper"]
    assert float(gradient[paper]) > 0  # a step down the gradient makes it rarer


def test_a_captions_end_is_rewarded_as_a_word(training):
    whole = training.model.vocabulary.encode(training.corpus.train[0].tokens[1])
    assert training.reward([*whole, END], 0) > training.reward(whole, 0)


def test_averaged_weights_follow_and_give_way():
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, decay=0.5)
    start = float(module.weight.detach())
    with torch.no_grad():
        module.weight.fill_(start + 1)
    average.update()  # the first decay is 2/11
    expected = start + (1 - 2 / 11)
    with pytest.raises(ZeroDivisionError), average.applied():
        assert float(module.weight.detach()) == pytest.approx(expected)
        raise ZeroDivisionError
    assert float(module.weight.detach()) == pytest.approx(start + 1)
    average.settle()
    assert float(module.weight.detach()) == pytest.approx(expected)


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [cosine(step, 100, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_seeds_differ_by_every_part():
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(12), seed_of("1", "2", "3")}) == 4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    module = nn.Linear(1, 1)
    stage = Stage(
        "x", 1, 1, lambda: [{"params": list(module.parameters()), "lr": 1.0}], lambda seed: [0],
        lambda batch: (module.weight.sum() * float("nan"), {}),
    )  # fmt: skip
    with pytest.raises(UserError, match="the loss is nan in stage 'x'"):
        train_stages([stage], module, Run(tmp_path, {}), 0)


def _one_stage(module, epochs):
    return Stage(
        "x", epochs, 2, lambda: [{"params": list(module.parameters()), "lr": 0.1}], lambda seed: [1.0, 2.0],
        lambda batch: ((module.weight * batch - 1).square().sum(), {}), warmup=0,
    )  # fmt: skip


def test_a_run_begun_on_a_gpu_goes_on_where_there_is_none(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = nn.Linear(3, 2, bias=False)
    start = module.weight.detach().clone()
    train_stages([_one_stage(module, 3)], module, Run(tmp_path / "whole", {}), 0)
    whole = module.weight.detach().clone()

    save = Run.save

    def on_a_gpu(self, state):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save(self, state)
        raise KeyboardInterrupt

    module.load_state_dict({"weight": start})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save", on_a_gpu)
        train_stages([_one_stage(module, 3)], module, Run(tmp_path / "stopped", {}), 0)
    monkeypatch.undo()
    module = nn.Linear(3, 2, bias=False)
    train_stages([_one_stage(module, 3)], module, Run(tmp_path / "stopped", {}), 0)
    assert torch.equal(module.weight, whole) and not torch.equal(whole, start)


def test_averaged_weights_go_on_in_a_module_of_another_device_or_type():
    saved = Average(nn.Linear(2, 1))
    module = nn.Linear(2, 1).double()
    average = Average(module)
    average.load(saved.state())
    average.update()
    assert average.values["weight"].dtype == torch.float64 and average.updates == 1


def test_a_broken_state_file_says_how_to_go_on(tmp_path):
    run = Run(tmp_path, {})
    run.state_path.write_bytes(b"not a state")
    with pytest.raises(UserError, match="delete it or start with --restart"):
        run.load()


def test_checkpoints_come_back_as_they_were_saved(tmp_path):
    tensors = {"a.weight": torch.randn(3, 2), "bn.running_var": torch.tensor([70000.0]), "n": torch.tensor(3)}
    path = save_checkpoint(tmp_path / "m", tensors, {"kind": "x", "word": "été"})
    assert load_file(path)["a.weight"].dtype == torch.float16
    loaded, config = load_checkpoint(path)
    assert config == {"kind": "x", "word": "été"}
    torch.testing.assert_close(loaded["a.weight"], tensors["a.weight"].half().float())
    assert float(loaded["bn.running_var"]) == 70000.0 and int(loaded["n"]) == 3


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
        (
            {"vocabulary": [*config["vocabulary"], "extra"]},
            "'vocabulary' in .* doesn't fit the checkpoint: it has",
        ),
        ({"kind": "vqa"}, "no checkpoint of a captioner model, but of a vqa one"),
        ({"hidden": 16}, "doesn't fit this model"),
        ({"vocabulary": config["vocabulary"][::-1]}, "a vocabulary starts with"),
    ):
        (tmp_path / "captioner.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)


def test_weights_of_another_model_are_refused():
    model = captioners.small()
    state = model.state_dict()
    missing = {k: v for k, v in state.items() if k != "decoder.bias"}
    with pytest.raises(UserError, match="entry 'decoder.bias' is in only one of them"):
        load_weights(model, missing, "x")


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
