"""`saywhy train`: one option for each setting, whatever is trained, and on the device that is asked for."""

import pytest
import torch

import captioning.training.settings
import captioning.training.stages
import vqa.training.settings
import vqa.training.stages
from common.training.stages import Training
from common.training.views import Stores
from data.derived.question_sets import QuestionSet
from scripts import saywhy
from tests import flickr

TASKS = {
    "captioner": (captioning.training, "train_captioner", ["--data", "flickr8k:x"]),
    "vqa": (vqa.training, "train_vqa", ["--data", "cocoqa:x", "--data", "derived:y"]),
}


@pytest.fixture(params=TASKS)
def task(request, monkeypatch):
    """A task's settings and a function that runs its command and returns what the training was called with."""
    package, name, data = TASKS[request.param]
    called = []
    monkeypatch.setattr(package.stages, name, lambda *given, **options: called.append((given, options)))

    def run(*options):
        assert saywhy.main(["train", request.param, *data, "--out", "OUT", *options]) == 0
        return called.pop()

    return package.settings.Settings, run


def test_options_left_out_are_the_shipped_recipe_on_the_cpu(task):
    settings, run = task
    (data, out, made), options = run()
    assert out == "OUT" and made == settings() and "x" in str(data)
    assert options.pop("device") == torch.device("cpu")
    assert options == {"restart": False, "limit": None, "features": None}


def test_there_is_an_option_for_each_setting(task):
    settings, run = task
    for name in vars(settings()):
        default = getattr(settings(), name)
        value = "small_cnn" if isinstance(default, str) else default * 0.5 if isinstance(default, float) else 7
        (_, _, made), _ = run(f"--{name.replace('_', '-')}", str(value))
        assert vars(made) == {**vars(settings()), name: value}
    (_, _, made), _ = run("--freeze-trunk")
    assert made.train_blocks is None


def test_device_and_what_else_a_run_needs_are_handed_on(task):
    _, run = task
    options = ["--device", "meta", "--restart", "--limit", "3", "--features", "F", "--threads", "1"]
    assert run(*options)[1] == {
        "device": torch.device("meta"), "restart": True, "limit": 3, "features": "F"
    }  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_device_that_is_not_there_is_one_line(task, tmp_path, capsys):
    arguments = ["train", task, *TASKS[task][2], "--out", str(tmp_path / "out"), "--device", "nosuch"]
    assert saywhy.main(arguments) == 2
    assert capsys.readouterr().err.startswith("saywhy: error: device 'nosuch' is not to be had here")
    assert not (tmp_path / "out").exists()


def test_each_setting_says_what_it_is(capsys):
    for task, settings in (("captioner", captioning.training.settings), ("vqa", vqa.training.settings)):
        with pytest.raises(SystemExit):
            saywhy.main(["train", task, "--help"])
        shown = capsys.readouterr().out
        for name in vars(settings.Settings()):
            assert f"--{name.replace('_', '-')} N" in shown


def _captions(folder):
    settings = captioning.training.settings.Settings(views=1, hidden=8, evidence_words=4, minimum_count=1)
    data = f"flickr8k:{flickr.make(folder / 'flickr8k', 4, 2)}"
    corpus = captioning.training.stages.Corpus.read(data, settings)
    return captioning.training.stages.Training(corpus, settings, folder)


def _questions(folder):
    pytest.importorskip("easy_vqa")
    settings = vqa.training.settings.EASY
    corpus = vqa.training.stages.Corpus.read([QuestionSet.parse("easyvqa")], settings, limit=4)
    return vqa.training.stages.Training(corpus, settings, folder)


@pytest.mark.parametrize("make", [_captions, _questions])
def test_batches_come_on_the_device_of_the_training(make, tmp_path):
    training: Training = make(tmp_path)
    stores = Stores(training.trunk, training.settings.train_blocks, tmp_path, torch.device("meta"))
    loader = training.corpus.loader("train", stores, training.settings)
    for batch in (next(loader.epoch(1)), next(loader.plain())):
        tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) >= 5 and {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [_captions, _questions])
def test_each_stage_trains_on_cuda(make, tmp_path):
    training: Training = make(tmp_path)
    on_cuda = type(training)(training.corpus, training.settings, tmp_path, "cuda")
    for stage in on_cuda.stages():
        stage.mode()
        stage.parameters()
        loss, _ = stage.loss(next(iter(stage.batches(1))))
        loss.backward()
        assert loss.device.type == "cuda" and torch.isfinite(loss)
