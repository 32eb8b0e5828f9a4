"""`saywhy classify` and the figures as a user runs them: a subprocess, real photographs, wrong arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.explanation import Explanation
from scripts.saywhy import main

ROOT = Path(__file__).parent.parent
CAT = ROOT / "data" / "samples" / "cat.jpg"
COFFEE = ROOT / "data" / "samples" / "espresso.jpg"


def saywhy(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.saywhy", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def fails(capsys):
    """Run a command that has to fail, in this process; returns its one line of complaint."""

    def run(*arguments) -> str:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        output = capsys.readouterr()
        assert status == 2 and output.out == ""
        lines = output.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("saywhy: error: "), output.err
        return lines[0]

    return run


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """One run over two photographs, one bad file among them, with every kind of output."""
    folder = tmp_path_factory.mktemp("classify")
    (folder / "broken.jpg").write_bytes(CAT.read_bytes()[:2000])
    (folder / "other").mkdir()
    Image.open(COFFEE).save(folder / "other" / "cat.png")
    methods = "gradcam,guided-gradcam,guided,counterfactual,occlusion"
    done = saywhy(
        "classify", CAT, folder / "broken.jpg", folder / "other" / "cat.png",
        "--target", "tabby cat", "--target", "n07920052",
        "--methods", methods, "--window", 64, "--stride", 80, "--json", "--out", folder / "out",
    )  # fmt: skip
    return folder, done


def test_records_are_printed_one_a_line_and_nothing_else(explained) -> None:
    folder, done = explained
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["prediction"]["label"].split(",")[0] for record in records] == ["Egyptian cat", "espresso"]
    first = records[0]
    assert first["task"] == "classify" and first["image"] == str(CAT) and first["model"] == "efficientnet_lite0"
    assert (
        first["layer"] == "bn2" and first["prediction"]["wnid"] == "n02124075" and first["prediction"]["index"] == 285
    )
    assert 0.5 < first["prediction"]["probability"] < 1
    assert [target["name"].split(",")[0] for target in first["targets"]] == ["tabby", "espresso"]
    assert first["targets"][0]["score"] > first["targets"][1]["score"]
    assert {"saywhy", "torch", "python"} <= first["versions"].keys()


def test_a_bad_image_is_reported_the_others_are_done_and_the_status_says_so(explained) -> None:
    folder, done = explained
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert "broken.jpg" in done.stderr.splitlines()[0] and "Traceback" not in done.stderr
    assert "1 of 3 failed" in done.stderr


def test_images_of_one_stem_do_not_overwrite_each_other_and_no_file_is_left_over(explained) -> None:
    folder, _ = explained
    found = sorted(path.name for path in (folder / "out").iterdir())
    assert found == sorted(f"{stem}.classify.{kind}" for stem in ("cat", "cat-2") for kind in ("json", "npz", "png"))


def test_arrays_have_the_names_shapes_and_types_that_are_promised(explained) -> None:
    folder, _ = explained
    arrays = np.load(folder / "out" / "cat.classify.npz")
    assert {name: arrays[name].shape for name in arrays} == {
        "heatmaps": (2, 7, 7), "guided": (2, 3, 224, 224), "guided_gradcam": (2, 3, 224, 224),
        "counterfactual": (2, 7, 7), "occlusion": (2, 3, 3), "scores": (2, 1), "about": (),
    }  # fmt: skip
    loaded = Explanation.load(folder / "out" / "cat.classify.npz")
    assert loaded.heatmaps.shape == (2, 1, 7, 7) and loaded.guided.shape == (2, 1, 3, 224, 224)
    assert all(arrays[name].dtype == np.float32 for name in arrays if name != "about")
    assert arrays["heatmaps"].min() >= 0 and arrays["heatmaps"].max() > 0
    record = json.loads((folder / "out" / "cat.classify.json").read_text())
    assert record == json.loads(explained[1].stdout.splitlines()[0])


def test_the_panel_is_a_picture_with_a_tile_for_each_map(explained) -> None:
    folder, _ = explained
    picture = Image.open(folder / "out" / "cat.classify.png")
    assert picture.width > 1000 and picture.height > 600


def test_the_map_of_the_cat_is_on_the_cat_and_that_of_the_cup_on_the_cup(tmp_path) -> None:
    both = Image.new("RGB", (450, 600))
    both.paste(Image.open(CAT).resize((450, 300)), (0, 0))
    both.paste(Image.open(COFFEE).resize((450, 300)), (0, 300))
    both.save(tmp_path / "both.png")
    done = saywhy("classify", "both.png", "--target", "Egyptian cat", "--target", "espresso", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cat, cup = np.load(tmp_path / "saywhy-out" / "both.classify.npz")["heatmaps"]
    assert cat[:3].sum() > 2 * cat[4:].sum()
    assert cup[4:].sum() > 2 * cup[:3].sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jpg"], ["missing.jpg"]),
        ([ROOT], [str(ROOT)]),
        ([CAT, "--target", "tabby catt"], ["tabby catt", "tabby"]),
        ([CAT, "--target", "1000"], ["1000", "999"]),
        ([CAT, "--methods", "gradcam,lime"], ["'lime'", "guided_gradcam"]),
        ([CAT, "--model", "resnet5"], ["resnet5", "resnet50"]),
        ([CAT, "--layer", "classifier"], ["classifier", "bn2"]),
        ([CAT, "--layer", "block.4"], ["block.4", "blocks.4"]),
        ([CAT, "--device", "cuda:77"], ["cuda:77", "cpu"]),
        ([CAT, "--out", CAT], [str(CAT), "--out"]),
        ([CAT, "--window", "0", "--methods", "occlusion"], ["window", "0"]),
        ([CAT, "--window", "500", "--methods", "occlusion"], ["500", "224"]),
        ([CAT, "--top", "0"], ["0"]),
        ([CAT, "--frobnicate"], ["--frobnicate", "--help"]),
        ([], ["IMAGE"]),
    ],
    ids=str,
)
def test_wrong_arguments_end_in_one_line_that_names_them(fails, monkeypatch, tmp_path, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    line = fails("classify", *arguments)
    assert all(word in line for word in words), line


def test_help_and_version_answer_without_loading_anything(fails) -> None:
    assert "classify" in saywhy("--help").stdout
    assert "--methods" in saywhy("classify", "--help").stdout
    assert "torch" in saywhy("--version").stdout
    assert fails("clasify", "x.jpg").startswith("saywhy: error: argument COMMAND: invalid choice: 'clasify'")


@pytest.mark.parametrize("figure", ["figure1", "figure3"])
def test_the_papers_figures_are_drawn(figure, tmp_path) -> None:
    out = tmp_path / f"{figure}.png"
    command = [sys.executable, "-m", f"scripts.experiments.{figure}", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Image.open(out).width > 800
    wrong = subprocess.run([*command, "--target", "unicorn"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2 and "unicorn" in wrong.stderr and "Traceback" not in wrong.stderr
