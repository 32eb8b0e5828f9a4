"""`saywhy batch` and `show` with a chat model: what it was asked and how it is held is the user's choice."""

import json

import numpy as np
import pytest
from PIL import Image

import captioning
from scripts import saywhy

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
pytest.importorskip("transformers")

from scripts.batch import store  # noqa: E402
from scripts.batch.plan import opened  # noqa: E402
from tests.chats import saved  # noqa: E402

PHOTO = "data/samples/cat.jpg"
PROMPT = "what is the red dog?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("llava", tmp_path_factory.mktemp("llava"))


def batch(folder, out, task, *arguments):
    model = ["--model", f"hf:{folder}", "--workers", "0", "--methods", "hirescam", "--quiet"]
    return saywhy.main(["batch", task, PHOTO, "--out", str(out), *model, *arguments])


def test_a_batch_asks_what_the_user_asks_and_holds_the_weights_as_told(folder, tmp_path, capsys):
    options = ["--prompt", PROMPT, "--dtype", "bfloat16", "--max-tokens", "5"]
    assert batch(folder, tmp_path, "caption", *options) == 0
    ((row, about),) = store.rows(str(tmp_path))
    captioner = captioning.load(f"hf:{folder}", prompt=PROMPT, dtype="bfloat16", max_tokens=5)
    assert row["text"] == captioner.caption(PHOTO).text
    assert row["text"] != captioning.load(f"hf:{folder}").caption(PHOTO).text
    assert {name: about["asked"][name] for name in ("prompt", "dtype", "max_tokens")} == {
        "prompt": PROMPT, "dtype": "bfloat16", "max_tokens": 5,
    }  # fmt: skip
    assert batch(folder, tmp_path, "caption", *options) == 0  # the same command goes on
    assert batch(folder, tmp_path, "caption", *options[2:]) == 2
    assert f'asked.prompt "{PROMPT}", and this is null' in capsys.readouterr().err


def test_where_a_model_is_held_is_no_part_of_the_plan(folder, tmp_path):
    pytest.importorskip("accelerate")
    assert batch(folder, tmp_path, "caption", "--device-map", "auto") == 0
    hash_ = opened(str(tmp_path)).hash
    assert batch(folder, tmp_path, "caption") == 0 and opened(str(tmp_path)).hash == hash_


@pytest.mark.parametrize(
    ("task", "arguments", "words"),
    [
        ("caption", ["--prompt", "what?"], "prompt is for chat models"),
        ("vqa", ["--dtype", "bfloat16", "--question", "what?"], "dtype is for chat models"),
        ("caption", ["--device-map", "auto"], "device-map is for chat models"),
    ],
)
def test_what_only_chat_models_have_is_refused_of_others(tmp_path, capsys, task, arguments, words):
    assert saywhy.main(["batch", task, PHOTO, "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_show_draws_the_panel_of_a_reply(folder, tmp_path, capsys, task):
    single = ["--model", f"hf:{folder}", "--methods", "hirescam", "--out", str(tmp_path / "single"), "--json"]
    question = ["--question", PROMPT] if task == "vqa" else []
    assert batch(folder, tmp_path / "out", task, "--max-tokens", "4", *question) == 0
    assert saywhy.main([task, PHOTO, *question[1:], "--max-tokens", "4", *single]) == 0
    assert json.loads(capsys.readouterr().out)["targets"]
    assert saywhy.main(["show", str(tmp_path / "out"), "cat", "--out", str(tmp_path / "panel.png")]) == 0
    files = tmp_path / "panel.png", tmp_path / "single" / f"cat.{task}.png"
    ours, wanted = (np.asarray(Image.open(path), float) for path in files)
    assert ours.shape == wanted.shape and np.abs(ours - wanted).mean() < 0.1
