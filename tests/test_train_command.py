"""`saywhy train`: one option for each setting, whatever is trained, and on the device that is asked for."""

import pytest
import torch

import captioning.training.settings
import captioning.training.stages
import common.training.trunk.settings
import common.training.trunk.stages
import common.training.vgg_head.settings
import common.training.vgg_head.training
import scripts.chat.settings
import scripts.chat.train
import vqa.training.settings
import vqa.training.stages
from scripts import saywhy

TASKS = {
    "trunk": (common.training.trunk, "train_trunk", ["--data", "coco:x"]),
    "captioner": (captioning.training, "train_captioner", ["--data", "flickr8k:x"]),
    "vqa": (vqa.training, "train_vqa", ["--data", "cocoqa:x", "--data", "derived:y"]),
    "vgg-head": (common.training.vgg_head, "train_vgg_head", ["--data", "coco:x"]),
    "chat": (scripts.chat, "train_chat", ["--data", "flickr8k:x", "--data", "cocoqa:y"]),
}

READ_A_TRUNK = [captioning.training.settings.Settings, vqa.training.settings.Settings, scripts.chat.settings.Settings]


@pytest.fixture(params=TASKS)
def task(request, monkeypatch, tmp_path):
    """A task's settings and a function that runs its command and returns what the training was called with."""
    package, name, data = TASKS[request.param]
    called = []
    monkeypatch.chdir(tmp_path)
    module = next(vars(package)[name] for name in ("stages", "train", "training") if name in vars(package))
    monkeypatch.setattr(module, name, lambda *given, **options: called.append((given, options)))

    def run(*options):
        assert saywhy.main(["train", request.param, *data, "--out", "OUT", *options]) == 0
        return called.pop()

    return package.settings.Settings, run


def test_options_left_out_are_the_shipped_recipe_on_the_cpu(task):
    settings, run = task
    (data, out, made), options = run()
    assert out == "OUT" and made == settings() and "x" in str(data)
    assert options.pop("device") == torch.device("cpu")
    trunk = {"trunk": None} if settings in READ_A_TRUNK else {}
    assert options == {"restart": False, "limit": None, "features": None, **trunk}


def test_there_is_an_option_for_each_setting(task):
    settings, run = task
    for name in vars(settings()):
        default = getattr(settings(), name)
        named = {"model": "evidence", "attention": "alternating"}.get(name, "small_cnn")
        value = named if isinstance(default, str) else default * 0.5 if isinstance(default, float) else 7
        (_, _, made), _ = run(f"--{name.replace('_', '-')}", str(value))
        assert vars(made) == {**vars(settings()), name: value}


def test_the_second_vqa_model_has_a_recipe_of_its_own(monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vqa.training.stages, "train_vqa", lambda *given, **options: called.append(given[2]))
    command = ["train", "vqa", "--data", "cocoqa:x", "--out", "OUT", "--model"]
    assert saywhy.main([*command, "coattention", "--embedding", "64"]) == 0
    made = called[0]
    assert (made.model, made.embedding, made.dropout) == ("coattention", 64, 0.5)
    assert saywhy.main([*command, "other"]) == 2
    assert "model is one of evidence, coattention, pooled; received other" in capsys.readouterr().err


def test_device_and_what_else_a_run_needs_are_handed_on(task):
    _, run = task
    options = ["--device", "cpu:0", "--restart", "--limit", "3", "--features", "F", "--threads", "1"]
    handed = run(*options)[1]
    assert handed.pop("trunk", None) is None
    assert handed == {"device": torch.device("cpu:0"), "restart": True, "limit": 3, "features": "F"}


@pytest.mark.parametrize("task", ["captioner", "vqa"], indirect=True)
def test_a_head_reads_the_trunk_that_is_named(task):
    _, run = task
    assert run("--trunk", "runs/trunk")[1]["trunk"] == "runs/trunk"


@pytest.mark.parametrize("task", TASKS)
def test_a_device_that_is_not_there_is_one_line(task, tmp_path, capsys):
    arguments = ["train", task, *TASKS[task][2], "--out", str(tmp_path / "out"), "--device", "nosuch"]
    assert saywhy.main(arguments) == 2
    assert capsys.readouterr().err.startswith("saywhy: error: device 'nosuch' is not to be had here")
    assert not (tmp_path / "out").exists()


def test_each_setting_says_what_it_is(capsys):
    for task, (package, _, _) in TASKS.items():
        with pytest.raises(SystemExit):
            saywhy.main(["train", task, "--help"])
        shown = capsys.readouterr().out
        for name in vars(package.settings.Settings()):
            assert f"--{name.replace('_', '-')} N" in shown
