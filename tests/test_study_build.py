"""A study's folder: balanced lists, names that say nothing, the key apart, pages by pinned hashes."""

import base64
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from data.records import Box
from scripts.experiments.annotated import Annotated
from scripts.saywhy import main
from scripts.study.build import new_folder
from scripts.study.kinds import discriminate, trust, words
from scripts.study.kinds.networks import Network
from scripts.study.material import Asked, Pictures, balanced, latin_lists, practised
from scripts.study.pages import CDN, FILE, PINNED, page_options
from scripts.study.plan import open_study
from tests.studies import METHODS, made_up

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
SIX = ("cat", "cows", "dog", "duck", "kitten", "giraffes")


@pytest.mark.parametrize(("photographs", "cells"), [(8, 4), (12, 6), (48, 8)])
def test_lists_show_each_photograph_once_and_each_cell_equally_often(photographs, cells) -> None:
    lists = latin_lists(photographs, cells, 3)
    assert len(lists) == cells and all(len(each) == photographs for each in lists)
    assert all(set(Counter(each).values()) == {photographs // cells} for each in lists)
    assert all(sorted(column) == list(range(cells)) for column in zip(*lists, strict=True))
    assert lists != latin_lists(photographs, cells, 4) and lists == latin_lists(photographs, cells, 3)


@pytest.mark.parametrize("kind", ["discriminate", "trust"])
def test_no_photograph_twice_for_a_person_and_every_method_as_often(tmp_path, kind) -> None:
    study = made_up(tmp_path, kind)
    for trials in study.lists:
        known = [study.key[trial] for trial in trials]
        assert len({each["photograph"] for each in known}) == len(known) == 8
        assert Counter(each["method"] for each in known) == dict.fromkeys(METHODS, 4)
        sides = Counter(each["strong"] if kind == "trust" else each["target"] for each in known)
        assert set(sides.values()) == {4}
    assert sorted(t for trials in study.lists for t in trials) == sorted(
        t for t in study.key if "method" in study.key[t]
    )
    practised = {"photo8.jpg", "photo9.jpg"}
    assert not practised & {each.get("photograph") for each in study.key.values()}


def test_what_is_served_says_nothing_of_what_is_right(tmp_path) -> None:
    study = made_up(tmp_path)
    public = tmp_path / "public"
    design = (public / "design.json").read_text(encoding="utf-8")
    assert not any(word in design for word in ("photo", "guided", "gradcam", "strong", "target", "method"))
    seen = json.loads(design)
    for trial in study.lists[0]:
        assert seen["trials"][trial].keys() == {"images", "options", "about"}
    assert all("right" not in seen["trials"][check] for check in study.plan["checks"])
    names = {file.name for file in (public / "stimuli").iterdir()}
    assert names == {image for each in seen["trials"].values() for image in each["images"]}
    assert all(len(name) == 20 and int(name[:16], 16) >= 0 for name in names)
    one = Image.open(public / "stimuli" / min(names))
    assert not one.getexif() and "comment" not in one.info
    assert {file.name for file in public.iterdir()} == {
        "design.json", "index.html", "session.js", "study.css", "study.js", "stimuli", "texts"
    }  # fmt: skip


def test_the_plan_says_what_was_planned_and_notices_when_it_is_changed(tmp_path) -> None:
    made_up(tmp_path, methods=("deconv", "guided", "deconv_gradcam", "guided_gradcam"))
    study = open_study(tmp_path)
    assert study.plan["comparisons"] == [["deconv_gradcam", "deconv"], ["guided_gradcam", "guided"]]
    assert study.plan["published"]["values"]["guided_gradcam"] == 0.6123 and not study.changed
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["exclusions"]["most_checks_wrong"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert open_study(tmp_path).changed


def test_a_study_is_never_written_over(tmp_path, capsys) -> None:
    made_up(tmp_path / "study")
    args = ["study", "build", "words", "--photos", str(SAMPLES), "--out", str(tmp_path / "study")]
    assert main(args) == 2
    assert "holds a study already" in capsys.readouterr().err
    (tmp_path / "mine" / "public").mkdir(parents=True)
    (tmp_path / "mine" / "public" / "thesis.html").write_text("mine")
    assert main([*args[:-1], str(tmp_path / "mine")]) == 2
    assert "no study's" in capsys.readouterr().err and (tmp_path / "mine" / "public" / "thesis.html").exists()


@pytest.mark.parametrize("left", [(), ("design.json", "texts/consent.txt", "stimuli/a.jpg"), ("stimuli/a.jpg",)])
def test_what_a_killed_building_left_is_built_over_and_other_folders_are_not(tmp_path, left) -> None:
    for name in left:
        (tmp_path / "public" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "public" / name).write_text("left")
    (tmp_path / "public").mkdir(exist_ok=True)
    new_folder(tmp_path)
    assert not (tmp_path / "public").exists()
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("somebody's own")
    with pytest.raises(UserError, match="no study's"):
        new_folder(tmp_path)


def exclude(folder: Path, rules: dict) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["exclusions"] |= rules
    (folder / "plan.json").write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "plan.json").unlink(), "holds no study"),
        (lambda folder: (folder / "plan.json").write_text("{"), "cannot read"),
        (lambda folder: (folder / "plan.json").write_text("{}"), "it has no 'checks'"),
        (lambda folder: exclude(folder, {"most_checks_wrong": "0"}), "'most_checks_wrong' is amiss"),
        (lambda folder: exclude(folder, {"too_clever": 1}), "'too_clever' is amiss"),
        (lambda folder: (folder / "key.json").write_text("{}"), "is not this plan's"),
        (lambda folder: (folder / "key.json").unlink(), "cannot read"),
    ],
)
def test_a_folder_that_holds_no_whole_study_is_one_line(tmp_path, capsys, change, said) -> None:
    made_up(tmp_path)
    change(tmp_path)
    for step in ("serve", "analyse", "power", "rehearse"):
        assert main(["study", step, str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_too_few_photographs_for_balanced_lists_are_told_with_numbers() -> None:
    asked = Asked(Path("x"), METHODS, ("a",), Path("x"), count=48)
    assert balanced(asked, 50, 4, "are known") == 48 and balanced(asked, 13, 4, "are known") == 8
    with pytest.raises(UserError, match=r"5 photographs are known; 6 are needed at least \(2 to practise on, 4"):
        balanced(asked, 5, 4, "are known")


@pytest.fixture
def voc_folder(tmp_path) -> Path:
    """A VOC of six sample photographs, each with boxes of a cat on the left and a dog on the right."""
    root = tmp_path / "VOC2012"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    box = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>90</ymax></bndbox></object>"
    both = box.format("cat", 1, 45) + box.format("dog", 50, 100)
    for name in SIX:
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>100</width><height>100</height><depth>3</depth></size>{both}</annotation>"
        )
        shutil.copy(SAMPLES / f"{name}.jpg", root / "JPEGImages")
    (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(SIX))
    return root


def built(kind: str, voc: Path, out: Path, *more: str) -> list[str]:
    train = [] if kind == "words" else ["--train", "0"]
    return ["study", "build", kind, "--photos", str(voc), "--out", str(out), *train, *more]


def test_5_1_is_built_of_maps_of_both_categories(voc_folder, tmp_path, capsys) -> None:
    out = tmp_path / "study"
    broken = voc_folder / "JPEGImages" / "broken.jpg"
    broken.write_bytes((SAMPLES / "cat.jpg").read_bytes()[:2000])
    shutil.copy(voc_folder / "Annotations" / "cat.xml", voc_folder / "Annotations" / "broken.xml")
    (voc_folder / "ImageSets" / "Main" / "val.txt").write_text("\n".join(("broken", *SIX)))
    assert main(built("discriminate", voc_folder, out, "--methods", "gradcam,deconv-gradcam", "--count", "4")) == 0
    study = open_study(out)
    assert study.plan["count"] == 4 and len(study.lists) == 4 and study.guess == 0.5
    assert study.plan["networks"][0]["name"] == "efficientnet_lite0" and len(study.plan["networks"][0]["weights"]) == 16
    key = [each for each in study.key.values() if "method" in each]
    assert {(each["target"], each["right"]) for each in key} == {("cat", 0), ("dog", 1)}
    design = json.loads((out / "public" / "design.json").read_text())
    pictures = [design["trials"][trial]["images"][0] for trials in study.lists for trial in trials]
    data = [(out / "public" / "stimuli" / name).read_bytes() for name in pictures]
    assert len(set(data)) == len(data) == 16
    assert "4 photographs, 4 lists" in capsys.readouterr().out


def test_pictures_that_show_nothing_are_counted_and_not_practised(tmp_path) -> None:
    class Half:
        """A network without evidence for the first category."""

        def maps(self, item, names, methods):
            return {method: torch.stack([torch.zeros(7, 7), torch.ones(7, 7)]) for method in methods}

    asked = Asked(tmp_path, ("gradcam", "hirescam"), ("a",), tmp_path)
    item = Annotated(SAMPLES / "cat.jpg", dict, {"cat": [], "dog": []})
    found = discriminate.shown(Half(), item, asked, Pictures(tmp_path, 0))
    assert [cell.truth.get("empty", False) for cell in found.cells] == [True, False, True, False]
    assert discriminate._empty([found]) == ["2 of 4 pictures are empty: nothing raises the category's score there"]
    assert not discriminate._empty([])
    cells = [practised(found, n, asked.methods).cells[0] for n in (0, 1)]
    assert [(cell.method, cell.truth["target"]) for cell in cells] == [("gradcam", "dog"), ("hirescam", "dog")]
    assert cells[0].feedback == "The network was asked for: dog."


def test_deconvolution_that_sees_no_photograph_is_told(voc_folder, tmp_path, capsys) -> None:
    assert main(built("discriminate", voc_folder, tmp_path / "s", "--methods", "deconv", "--count", "2")) == 0
    assert "people can but guess" in capsys.readouterr().err
    assert "people can but guess" in open_study(tmp_path / "s").plan["notes"][0]


def test_5_2_shows_both_networks_as_a_and_as_b(voc_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Network, "said", lambda self, item: "cat" if "s" not in item.path.stem else "dog")
    out = tmp_path / "study"
    args = built("trust", voc_folder, out, "--methods", "gradcam", "--count", "2", "--strong", "efficientnet_lite1")
    assert main(args) == 0
    error = capsys.readouterr().err
    assert "the one that was called strong is not the better one" in error
    study, design = open_study(out), json.loads((out / "public" / "design.json").read_text())
    pairs = {}
    for trials in study.lists:
        for trial in trials:
            known, (a, b) = study.key[trial], design["trials"][trial]["images"]
            pairs.setdefault(known["photograph"], set()).add((a, b) if known["strong"] == "A" else (b, a))
            said = "dog" if "s" in Path(known["photograph"]).stem else "cat"
            assert known["target"] == said and design["trials"][trial]["about"].endswith(said)
    assert all(len(both) == 1 for both in pairs.values()) and len(pairs) == 2
    assert study.score(study.lists[0][0], 4) == (2 if study.key[study.lists[0][0]]["strong"] == "B" else -2)


def test_practice_for_trust_lies_on_the_object_or_beside_it() -> None:
    item = Annotated(Path("x.jpg"), dict, {"cat": [Box(0.0, 0.0, 0.5, 0.5)]})
    agreed = trust.Agreed(item, "cat")
    assert agreed.share == pytest.approx(0.25, abs=0.01)
    for size in ((7, 7), (224, 224)):
        within, without = trust._parted(torch.ones(size), agreed)
        h, w = size[0] // 2 - 1, size[1] // 2 - 1
        assert torch.allclose(within + without, torch.ones(size))
        assert within[: h // 2, : w // 2].min() == 1 and within[h + h // 2 + 2 :].max() == 0
    assert {0.0, 1.0} == set(trust._parted(torch.ones(7, 7), agreed)[0].flatten().tolist())


def test_networks_that_never_agree_and_photographs_without_two_categories_are_one_line(
    voc_folder, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Network, "said", lambda self, item: "cat" if self.model.endswith("0") else "dog")
    assert main(built("trust", voc_folder, tmp_path / "a", "--methods", "gradcam")) == 2
    assert "never agree on a category that is there, in 6 photographs" in capsys.readouterr().err
    for file in (voc_folder / "Annotations").iterdir():
        file.write_text(file.read_text().replace(">dog<", ">cat<"))
    assert main(built("discriminate", voc_folder, tmp_path / "b", "--methods", "gradcam")) == 2
    error = capsys.readouterr().err
    assert "exactly two categories" in error and error.count("\n") == 1
    # What failed is no study, and the folder can be used again.
    with pytest.raises(UserError, match="holds no study"):
        open_study(tmp_path / "b")
    for file in (voc_folder / "Annotations").iterdir():
        file.write_text(file.read_text().replace(">cat<", ">dog<", 1))
    assert main(built("discriminate", voc_folder, tmp_path / "b", "--methods", "gradcam", "--count", "2")) == 0


def test_words_are_asked_among_those_that_owe_the_picture_most(tmp_path, capsys) -> None:
    assert main(built("words", SAMPLES, tmp_path / "s", "--methods", "gradcam", "--count", "4")) == 0
    study = open_study(tmp_path / "s")
    design = json.loads((tmp_path / "s" / "public" / "design.json").read_text())
    for trial in study.lists[0]:
        seen, known = design["trials"][trial], study.key[trial]
        caption = seen["about"].removeprefix("The network said: ").split()
        assert (
            len(seen["options"]) == 3 and seen["options"] == [word for word in caption if word in seen["options"]][:3]
        )
        assert seen["options"][known["right"]] == known["target"]
    assert study.guess == pytest.approx(1 / 3)


def test_words_of_an_empty_folder_and_wrong_arguments_are_one_line(tmp_path, capsys) -> None:
    (tmp_path / "none").mkdir()
    wrong = {
        "no photographs in": built("words", tmp_path / "none", tmp_path / "a"),
        "is not a folder": built("words", tmp_path / "absent", tmp_path / "a"),
        "no Annotations and JPEGImages": built("discriminate", SAMPLES, tmp_path / "b"),
        "give a whole link": built("words", SAMPLES, tmp_path / "a", "--completion", "javascript:alert(1)"),
        "npm install jspsych@8": built("words", SAMPLES, tmp_path / "a", "--jspsych", str(tmp_path)),
        "unknown method": built("words", SAMPLES, tmp_path / "a", "--methods", "nonsense"),
    }
    for said, args in wrong.items():
        assert main(args) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "a" / "plan.json").exists()


def test_pages_load_jspsych_by_version_and_hash_and_from_nowhere_else(tmp_path) -> None:
    made_up(tmp_path)
    page = (tmp_path / "public" / "index.html").read_text()
    for name, version, digest in PINNED:
        assert f'src="{CDN}/{name}@{version}/{FILE}" integrity="sha384-{digest}" crossorigin="anonymous"' in page
    assert page.count("https://") == len(PINNED) + 1 and f"script-src 'self' {CDN};" in page


def modules_of(folder: Path, version: str = "8.9.1") -> Path:
    for name, _, _ in PINNED:
        (folder / name / "dist").mkdir(parents=True)
        (folder / name / FILE).write_text(f"/* {name} */")
        (folder / name / "package.json").write_text(json.dumps({"version": version}))
    return folder


def test_jspsych_is_copied_for_use_offline(tmp_path) -> None:
    options = page_options(str(modules_of(tmp_path / "node_modules")), None)
    made_up(tmp_path / "study", options=options)
    public = tmp_path / "study" / "public"
    assert (public / "jspsych" / "jspsych.js").read_text() == "/* jspsych */"
    page = (public / "index.html").read_text()
    assert "https://" not in page and 'src="jspsych/plugin-preload.js"' in page
    with pytest.raises(UserError, match="version 7.3.4; the pages are written for jsPsych 8"):
        page_options(str(modules_of(tmp_path / "old", "7.3.4")), None)


def test_the_pinned_hashes_are_those_of_npms_files(jspsych) -> None:
    for name, version, digest in PINNED:
        assert json.loads((jspsych / name / "package.json").read_text())["version"] == version
        found = base64.b64encode(hashlib.sha384((jspsych / name / FILE).read_bytes()).digest()).decode()
        assert found == digest


def test_a_pictures_file_holds_pixels_alone(tmp_path) -> None:
    photo = Image.open(SAMPLES / "cat.jpg")
    photo.info["comment"] = b"cat.jpg, guided"
    pictures = Pictures(tmp_path, 0)
    data = (tmp_path / pictures.add(photo)).read_bytes()
    assert b"guided" not in data and b"Exif" not in data
    assert Pictures(tmp_path, 0).name() != pictures.name() != Pictures(tmp_path, 1).name()


def test_every_kind_says_what_it_asks() -> None:
    for kind in (discriminate, trust, words):
        assert kind.TITLE and kind.QUESTION.endswith("?") and kind.MEASURE in ("choice", "rating")
    assert len(trust.SCALE) == trust.OPTIONS == 5
