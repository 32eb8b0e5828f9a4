"""Training the VQA model at small size: it learns, the same seed gives the same checkpoint, a stopped run goes on."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.run import Run
from common.training.summaries import Summaries
from common.training.trunks import save_seeing_trunk
from data.records import Question
from data.words.coco_classes import CLASSES
from tests import coco_copy
from tests.coco_copy import SHOWN
from vqa.checkpoint import load_model
from vqa.training import stages as training
from vqa.training.batches import answer_scores, answer_vocabulary
from vqa.training.corpus import Corpus
from vqa.training.settings import EASY, Settings

pytest.importorskip("easy_vqa")
TINY = dataclasses.replace(EASY, hidden=24, joint=48, embedding=16, head_epochs=3, batch=32)


def _question(answer, answers=None, text="what color is the hat?", source="vqa2"):
    return Question("1", text, Path("x.jpg"), "coco:1", answer, tuple(answers or (answer,)), "other", source)


def test_soft_targets_share_out_what_each_answer_would_score():
    question = _question("red", ["red"] * 5 + ["blue"] * 3 + ["a rose"] * 2)
    shares = answer_scores(question, {"red": 0, "blue": 1})
    assert shares == pytest.approx({0: 1 / 1.9, 1: 0.9 / 1.9})


def test_the_answer_list_counts_what_three_of_ten_people_said():
    questions = [
        _question("red", ["red"] * 6 + ["blue"] * 3 + ["pink"]),
        _question("Two", source="cocoqa"),
        _question("2", source="derived"),
    ]
    assert answer_vocabulary(questions, 1) == ["2", "blue", "red"]
    assert answer_vocabulary(questions, 2) == ["2"]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(0)
    words = ["circle", "rectangle", "triangle", "red", "blue"]
    save_seeing_trunk(folder / "trunk", SeeingTrunk.of(load_trunk("small_cnn"), words, 0), {"network": "small_cnn"})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, trunk):
    folder = tmp_path_factory.mktemp("run")
    training.train_vqa(["easyvqa"], folder, TINY, limit=40, trunk=trunk)
    return folder


def test_a_run_leaves_a_checkpoint_that_loads_a_log_and_a_curve(run):
    model, config = load_model(run)
    assert model.answers == tuple(config["answers"]) and "triangle" in model.answers
    assert config["settings"]["seed"] == 1 and (run / "curve.png").is_file()
    assert set(config["baselines"]) == {"commonest", "commonest_of_type", "without_image"}
    assert config["figures"]["easyvqa"]["all"]["n"] > 100
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record.get("stage") == "head"]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_checkpoint(run, trunk, tmp_path):
    training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features", trunk=trunk)
    assert (tmp_path / "vqa.safetensors").read_bytes() == (run / "vqa.safetensors").read_bytes()


def test_a_stopped_run_ends_where_an_uninterrupted_one_does(run, trunk, tmp_path, monkeypatch):
    save, calls = Run.save, []

    def stop_after_the_first_epoch(self, state):
        save(self, state)
        calls.append(self.folder)
        if self.folder == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stop_after_the_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features", trunk=trunk)
    monkeypatch.undo()
    training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features", trunk=trunk)
    assert (tmp_path / "vqa.safetensors").read_bytes() == (run / "vqa.safetensors").read_bytes()


def test_a_checkpoint_whose_answers_do_not_fit_is_refused(run, tmp_path):
    for name in ("vqa.safetensors", "vqa.json", "trunk.safetensors", "trunk.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    config = json.loads((tmp_path / "vqa.json").read_text())
    (tmp_path / "vqa.json").write_text(json.dumps({**config, "answers": config["answers"][:-1]}))
    with pytest.raises(UserError, match="'answers' in .* doesn't fit the checkpoint"):
        load_model(tmp_path)
    (tmp_path / "vqa.json").write_text(json.dumps({**config, "kind": "captioner"}))
    with pytest.raises(UserError, match="no checkpoint of a vqa model, but of a captioner one"):
        load_model(tmp_path)
    (tmp_path / "vqa.json").write_text(json.dumps({k: v for k, v in config.items() if k != "joint"}))
    with pytest.raises(UserError, match="lacks 'joint', a whole number"):
        load_model(tmp_path)


def test_no_question_about_a_validation_image_is_trained_on(shared_datasets):
    made = Corpus.read([f"{kind}:{shared_datasets / 'coco'}" for kind in ("vqa2", "cocoqa")], Settings())
    ids = {q.image_id for q in made.train}
    listed = {f"coco:{int(i)}" for i in (shared_datasets / "coco/splits/val_image_ids.txt").read_text().split()}
    assert not ids & listed and not ids & {q.image_id for q in made.val}
    assert Counter(q.source for q in made.val) == {"vqa2": 373, "cocoqa": 522}


def test_batches_come_on_the_device_of_the_training(trunk, tmp_path):
    made = training.Training(Corpus.read(["easyvqa"], TINY, limit=4), TINY, Summaries.open(trunk, tmp_path))
    loader = made.train_loader
    loader.device = torch.device("meta")
    for batch in (next(loader.epoch(1)), next(loader.plain())):
        tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 4 and {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_head_trains_on_cuda(trunk, tmp_path):
    summaries = Summaries.open(trunk, tmp_path, "cuda")
    made = training.Training(Corpus.read(["easyvqa"], TINY, limit=4), TINY, summaries)
    loss, _ = made.loss(next(made.train_loader.epoch(1)))
    loss.backward()
    assert loss.device.type == "cuda" and torch.isfinite(loss)


def test_drawings_need_a_trunk_of_their_own(tmp_path):
    with pytest.raises(
        UserError, match="train one with 'saywhy train trunk --data easyvqa --out DIR' and give --trunk"
    ):
        training.train_vqa(["easyvqa"], tmp_path)


def test_a_run_on_another_trunk_is_not_gone_on_with(run, trunk, tmp_path):
    torch.manual_seed(1)
    words = ["circle", "rectangle", "triangle", "red", "blue"]
    save_seeing_trunk(tmp_path / "trunk", SeeingTrunk.of(load_trunk("small_cnn"), words, 0), {"network": "small_cnn"})
    with pytest.raises(UserError, match="another trunk|holds a run with trunk"):
        training.train_vqa(["easyvqa"], run, TINY, limit=40, features=run / "features", trunk=tmp_path)


def test_captions_without_photographs_are_asked_about_on_what_lookalikes_show(tmp_path):
    folder = coco_copy.make(tmp_path / "coco")
    torch.manual_seed(0)
    words = [*CLASSES, "street", "paper"]
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), words, counted=80)
    save_seeing_trunk(tmp_path / "trunk", trunk, {"network": "small_cnn"})
    corpus = Corpus.read([f"boxes:{folder}", f"captions:{folder}"], dataclasses.replace(TINY, minimum_count=1))
    asked = [question for question in corpus.train if question.source == "captions"]
    assert {question.answer for question in asked} <= set(SHOWN) and len(asked) > 2
    assert not any(question.source == "captions" for question in corpus.val)
    made = training.Training(corpus, TINY, Summaries.open(tmp_path, tmp_path / "features"))
    number = next(i for i, each in enumerate(made.train_loader.examples) if each.question is asked[0])
    batch = made.train_loader.make([number], [0])
    assert batch.weights.tolist() == [TINY.captions_weight] and batch.summary.shape == (1, 82 + 80)
    loss, _ = made.loss(batch)
    assert torch.isfinite(loss)


def test_captions_that_are_not_there_are_one_line(tmp_path):
    folder = coco_copy.make(tmp_path / "coco")
    (folder / "annotations" / "captions_without_photographs.json").unlink()
    with pytest.raises(UserError, match="no captions without photographs at"):
        Corpus.read([f"boxes:{folder}", f"captions:{folder}"], TINY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"embedding": 0}, "embedding is a whole number above 0; received 0"),
        ({"dropout": 1.0}, r"dropout is in \[0, 1\); received 1.0"),
        ({"head_epochs": -1}, "head_epochs is a whole number, 0 to leave the stage out; received -1"),
        ({"head_rate": 0.0}, "head_rate is a learning rate above 0; received 0.0"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        Settings(**wrong)
