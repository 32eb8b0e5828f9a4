"""`saywhy vqa`, `train vqa`, `evaluate vqa` and the scripts of figure 12 and section 8.2, end to end at small size."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.trunks import save_seeing_trunk
from data.readers.easyvqa import read_easyvqa
from scripts import saywhy
from vqa.training import stages as training
from vqa.training.settings import EASY

pytest.importorskip("easy_vqa")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), ["circle", "triangle", "red"], counted=0)
    save_seeing_trunk(folder / "trunk", trunk, {"network": "small_cnn"})
    tiny = dataclasses.replace(EASY, hidden=24, joint=48, embedding=16, head_epochs=1)
    training.train_vqa(["easyvqa"], folder, tiny, limit=24, trunk=folder)
    return str(folder / "vqa")


@pytest.fixture
def photo():
    return str(read_easyvqa("test")[0].image)


def test_one_question_gives_a_panel_a_record_and_maps(model, photo, tmp_path, capsys):
    status = saywhy.main(
        [
            "vqa",
            photo,
            "what color is the shape?",
            "--model",
            model,
            "--answer",
            "red",
            "--answer",
            "blue",
            "--contrast",
            "blue",
            "--methods",
            "gradcam,occlusion",
            "--out",
            str(tmp_path),
            "--json",
        ]
    )
    record = json.loads(capsys.readouterr().out)
    assert status == 0 and record["task"] == "vqa" and record["question"] == "what color is the shape?"
    assert record["prediction"] == record["predictions"][0]["answer"]
    assert [t["name"] for t in record["targets"]] == ["red", "blue", "red rather than blue"]
    assert record["words"] == ["what", "color", "is", "the", "shape"]
    assert len(record["word_attribution"][0]["gradient_times_embedding"]) == 5
    with np.load(tmp_path / "0.vqa.npz") as maps:
        assert maps["heatmaps"].shape == (3, 8, 8) and maps["word_drops"].shape == (3, 5)
    assert Image.open(tmp_path / "0.vqa.png").width > 400


def test_many_questions_from_a_file_and_a_bad_one_among_them(model, photo, tmp_path, capsys):
    rows = [
        {"image": photo, "question": "is there a circle?"},
        {"image": photo, "question": "what shape?", "answers": ["nonsense"]},
        {"image": photo, "question": "what shape?", "answers": ["circle"]},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status = saywhy.main(
        ["vqa", "--questions", str(tmp_path / "q.jsonl"), "--model", model, "--json", "--out", str(tmp_path / "o")]
    )
    said = capsys.readouterr()
    assert status == 2 and len(said.out.splitlines()) == 2
    assert "no answer 'nonsense'" in said.err and "1 of 3 failed" in said.err


def test_answers_only_write_no_files(model, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert saywhy.main(["vqa", photo, "is there a circle?", "--model", model, "--no-explain", "--json"]) == 0
    assert "prediction" in json.loads(capsys.readouterr().out) and not list(tmp_path.iterdir())


def test_unknown_words_are_named_and_the_question_is_answered(model, photo, tmp_path, capsys):
    assert saywhy.main(["vqa", photo, "what is the zebra?", "--model", model, "--no-explain"]) == 0
    assert "'zebra'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["", ], "empty"), (["word " * 1_500], "1500 words"),
    (["word " * 10_000], "50000 characters"), (["what?", "--answer", "yelow"], "nearest: yellow"),
    (["what?", "--answer", " "], "answer"), (["what?", "--top", "0"], "--top"),
    (["what?", "--layer", "nowhere"], "no layer"),
    (["what?", "--methods", "magic"], "unknown method"),
    (["what?", "--model", "hf:./nowhere"], "hf:./nowhere"), ([], "a question"),
])  # fmt: skip
def test_what_a_user_gets_wrong_is_one_line_and_status_2(model, photo, tmp_path, capsys, arguments, message):
    given = [] if "--model" in arguments else ["--model", model]
    status = saywhy.main(["vqa", photo, *arguments, *given, "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1 and "Traceback" not in error


def test_evaluate_gives_accuracy_baselines_and_the_truth_of_the_maps(model, tmp_path, capsys):
    status = saywhy.main(
        [
            "evaluate",
            "vqa",
            "--data",
            "easyvqa",
            "--model",
            model,
            "--limit",
            "30",
            "--maps",
            "4",
            "--baselines",
            "--out",
            str(tmp_path),
            "--json",
        ]
    )
    found = json.loads(capsys.readouterr().out)["sets"]["easyvqa"]
    assert status == 0 and found["accuracy"]["all"]["n"] == 30
    assert {"commonest", "commonest_of_type", "without_image"} <= set(found)
    assert 0 <= found["maps"]["curves"]["pixels deleted"]["gradcam"]["mean"] <= 1
    truth = found["maps"]["occlusion"]["cells of the map"]["gradcam"]
    assert -1 <= truth["mean"] <= 1 and "other words" in found["maps"]["swap"]


def test_train_takes_its_settings_from_the_command_line(tmp_path, capsys):
    (tmp_path / "trunk").mkdir()
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), ["circle", "red"], counted=0)
    save_seeing_trunk(tmp_path / "trunk" / "trunk", trunk, {"network": "small_cnn"})
    arguments = ["train", "vqa", "--data", "easyvqa", "--out", str(tmp_path), "--trunk", str(tmp_path / "trunk")]
    settings = ["--limit", "8", "--head-epochs", "1", "--hidden", "8", "--joint", "8", "--seed", "5"]
    assert saywhy.main([*arguments, *settings]) == 0
    config = json.loads((tmp_path / "vqa.json").read_text())
    assert (config["settings"]["hidden"], config["settings"]["seed"]) == (8, 5)
    assert config["trunk"]["file"] == "trunk" and (tmp_path / "trunk.safetensors").is_file()


def test_drawings_without_a_trunk_are_one_line(tmp_path, capsys):
    assert saywhy.main(["train", "vqa", "--data", "easyvqa", "--out", str(tmp_path)]) == 2
    assert "saywhy train trunk --data easyvqa" in capsys.readouterr().err
