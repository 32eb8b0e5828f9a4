"""Training the VQA model at small size: it learns, the same seed gives the same checkpoint, a stopped run goes on."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from common.errors import UserError
from common.training.run import Run
from data.derived.question_sets import QuestionSet
from data.records import Question
from vqa.checkpoint import load_model
from vqa.training import stages as training
from vqa.training.batches import answer_scores, answer_vocabulary, words_shown
from vqa.training.corpus import Corpus
from vqa.training.settings import EASY, Settings

pytest.importorskip("easy_vqa")
TINY = dataclasses.replace(
    EASY, hidden=24, joint=48, embedding=16, answer_epochs=3, per_image=4, batch=8, head_epochs=1, head_batch=8
)


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


def test_words_of_a_question_answered_with_no_are_not_taken_as_true():
    assert words_shown(_question("red")) == {"hat", "red"}
    assert words_shown(_question("no", text="is there a dog?")) == set()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    training.train_vqa(["easyvqa"], folder, TINY, limit=40)
    return folder


def test_a_run_leaves_a_checkpoint_that_loads_a_log_and_a_curve(run):
    model, preprocessing, config = load_model(run)
    assert model.answers == tuple(config["answers"]) and "triangle" in model.answers
    assert config["settings"]["seed"] == 1 and (run / "curve.png").is_file()
    assert set(config["baselines"]) == {"commonest", "commonest_of_type", "without_image"}
    assert config["figures"]["easyvqa"]["all"]["n"] > 100
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record.get("stage") == "answers"]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_checkpoint(run, tmp_path):
    training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features")
    assert (tmp_path / "vqa.safetensors").read_bytes() == (run / "vqa.safetensors").read_bytes()


def test_a_stopped_run_ends_where_an_uninterrupted_one_does(run, tmp_path, monkeypatch):
    save, calls = Run.save, []

    def stop_after_the_first_epoch(self, state):
        save(self, state)
        calls.append(self.folder)
        if self.folder == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stop_after_the_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features")
    monkeypatch.undo()
    training.train_vqa(["easyvqa"], tmp_path, TINY, limit=40, features=run / "features")
    assert (tmp_path / "vqa.safetensors").read_bytes() == (run / "vqa.safetensors").read_bytes()


def test_a_checkpoint_whose_answers_do_not_fit_is_refused(run, tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"vqa{suffix}").write_bytes((run / f"vqa{suffix}").read_bytes())
    config = json.loads((tmp_path / "vqa.json").read_text())
    (tmp_path / "vqa.json").write_text(json.dumps({**config, "answers": config["answers"][:-1]}))
    with pytest.raises(UserError, match="'answers' in .* doesn't fit the checkpoint"):
        load_model(tmp_path)
    (tmp_path / "vqa.json").write_text(json.dumps({**config, "kind": "captioner"}))
    with pytest.raises(UserError, match="no checkpoint of a vqa model, but of a captioner one"):
        load_model(tmp_path)
    (tmp_path / "vqa.json").write_text(json.dumps({k: v for k, v in config.items() if k != "joint"}))
    with pytest.raises(UserError, match="no checkpoint of a vqa model: it lacks 'joint'"):
        load_model(tmp_path)


def test_no_question_about_a_validation_image_is_trained_on(shared_datasets):
    sets = [QuestionSet.parse(f"{kind}:{shared_datasets / 'coco'}") for kind in ("vqa2", "cocoqa")]
    made = Corpus.read(sets, Settings())
    ids = {q.image_id for q in made.train}
    listed = {f"coco:{int(i)}" for i in (shared_datasets / "coco/splits/val_image_ids.txt").read_text().split()}
    assert not ids & listed and not ids & {q.image_id for q in made.val}
    assert Counter(q.source for q in made.val) == {"vqa2": 373, "cocoqa": 522}


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
