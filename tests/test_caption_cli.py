"""`saywhy caption` and `saywhy evaluate captioner` as commands, with a checkpoint of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.model import CaptionModel
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.trunks import load_seeing_trunk, save_head, save_seeing_trunk
from data.readers import coco
from data.words.vocabulary import END, Vocabulary
from scripts.experiments import figure10, figure11
from scripts.saywhy import main
from tests import flickr

WORDS = ["a", "the", "red", "green", "blue", "white", "square", "ground", "box", "lies", "on", "paper"]
WORDS += ["there", "is", "small"]
HALVES = ("visual half", "other half")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    words = ["square", "box"]
    trunk = SeeingTrunk.of(load_trunk("efficientnet_lite0"), words)
    save_seeing_trunk(folder / "trunk", trunk, {"network": "efficientnet_lite0"})
    vocabulary = Vocabulary.build([WORDS], minimum=1)
    model = CaptionModel(load_seeing_trunk(folder), vocabulary, 8)
    with torch.no_grad():
        model.decoder.bias[vocabulary.encode(["square"])] = 3.0  # so that captions say it
        model.decoder.bias[END] = 2.5
    config = {
        "kind": "captioner", "hidden": 8, "decoding": {"beam": 2, "length_penalty": 0.0},
        "vocabulary": list(vocabulary.words),
    }  # fmt: skip
    save_head(folder / "captioner", model, config)
    return str(folder / "captioner")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [str(folder / name) for name in ("a.png", "b.png")]


@pytest.fixture(scope="module")
def flickr8k(tmp_path_factory):
    """Drawn photographs with captions, phrases and boxes."""
    folder = flickr.make(tmp_path_factory.mktemp("flickr"), train=2, dev=3)
    entities = folder / "flickr30k_entities"
    for part in ("Sentences", "Annotations"):
        (entities / part).mkdir(parents=True)
    for name in (folder / "Flickr8k_text" / "Flickr_8k.devImages.txt").read_text().split():
        stem = name.partition("_")[0]
        (entities / "Sentences" / f"{stem}.txt").write_text(
            "[/EN#1/other A red square] on [/EN#2/scene a green ground] .\n[/EN#1/other The square] .\n"
        )
        boxes = "".join(
            f"<object><name>{entity}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for entity, x0, y0, x1, y1 in ((1, 8, 8, 28, 28), (2, 0, 24, 48, 48))
        )
        (entities / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>48</width><height>48</height><depth>3</depth></size>{boxes}</annotation>"
        )
    return f"flickr8k:{folder}"


def test_each_image_gets_a_panel_a_record_and_maps(checkpoint, photos, tmp_path, capsys):
    arguments = [
        "--phrase",
        "the red box",
        "--contrast",
        "a paper",
        "--alternatives",
        "1",
        "--end",
        "--score",
        "log_probability",
    ]
    assert main(["caption", *photos, "--model", checkpoint, "--out", str(tmp_path), *arguments]) == 0
    printed = capsys.readouterr()
    assert "a.caption.png" in printed.out and printed.err == ""
    for stem in ("a", "b"):
        record = json.loads((tmp_path / f"{stem}.caption.json").read_text())
        count = len(record["tokens"])
        assert record["prediction"] == " ".join(record["tokens"]) and record["task"] == "caption"
        assert len(record["log_probabilities"]) == count and len(record["alternatives"]) == 1
        names = [target["name"] for target in record["targets"]]
        assert names[: 1 + count] == [record["caption"], *record["tokens"]]
        assert names[1 + count].startswith("the red box") and names[-1] == "end of the caption"
        scores = [target["score"] for target in record["targets"][1 : 1 + count]]
        np.testing.assert_allclose(scores, record["log_probabilities"], rtol=1e-3, atol=1e-4)
        with np.load(tmp_path / f"{stem}.caption.npz") as saved:
            assert saved["heatmaps"].shape == (len(names), 7, 7)
        with Image.open(tmp_path / f"{stem}.caption.png") as panel:
            assert panel.width > 900


def test_json_prints_records_alone(checkpoint, photos, tmp_path, capsys):
    main(["caption", *photos, "--model", checkpoint, "--json", "--no-explain", "--out", str(tmp_path / "none")])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["image"] for record in records] == photos
    assert all("targets" not in record for record in records)
    assert not (tmp_path / "none").exists()


def test_a_given_caption_is_explained_beside_the_models_own(checkpoint, photos, tmp_path, capsys):
    arguments = ["--caption", "A red zebra!", "--methods", "gradcam,guided-gradcam", "--score", "logit"]
    assert main(["caption", photos[0], "--model", checkpoint, "--out", str(tmp_path), "--json", *arguments]) == 0
    printed = capsys.readouterr()
    assert "warning" in printed.err and "'zebra'" in printed.err
    record = json.loads(printed.out)
    assert record["tokens"] == ["a", "red", "zebra"] and record["caption"] == "a red zebra"
    assert record["unknown"] == ["zebra"] and record["prediction"] != record["caption"]
    with np.load(tmp_path / "a.caption.npz") as saved:
        assert saved["guided_gradcam"].shape == (4, 3, 224, 224)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--caption", ""], "no word"),
        (["--caption", "red " * 2000], "2000 words"),
        (["--caption", "\U0001f600 \u732b"], "none of the words"),
        (["--phrase", "a", "--phrase", "b", "--contrast", "a", "--contrast", "b", "--contrast", "c"], "3 --contrast"),
        (["--beam", "0"], "--beam is 0"),
        (["--alternatives", "-1"], "--alternatives is -1"),
        (["--no-explain", "--caption", "a"], "--no-explain"),
        (["--layer", "trunk.nothing"], "trunk.nothing"),
        (["--methods", "magic"], "magic"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_what_a_user_can_mend_is_one_line(checkpoint, photos, tmp_path, capsys, arguments, said):
    model = [] if "--model" in arguments else ["--model", checkpoint]
    assert main(["caption", photos[0], *model, "--out", str(tmp_path), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("saywhy: error: ") and said in lines[-1]
    assert len([line for line in lines if "error" in line]) == 1


def test_a_bad_image_does_not_stop_the_others(checkpoint, photos, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    arguments = ["--model", checkpoint, "--no-explain", "--json"]
    assert main(["caption", str(bad), photos[0], str(tmp_path / "absent.png"), *arguments]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "bad.jpg" in printed.err and "absent.png" in printed.err and "2 of 3 failed" in printed.err


def test_a_vocabulary_that_does_not_fit_the_checkpoint_is_an_error(checkpoint, photos, tmp_path, capsys):
    config = json.loads(Path(f"{checkpoint}.json").read_text())
    config["vocabulary"].append("zebra")
    (tmp_path / "captioner.json").write_text(json.dumps(config))
    (tmp_path / "captioner.safetensors").write_bytes(Path(f"{checkpoint}.safetensors").read_bytes())
    assert main(["caption", photos[0], "--model", str(tmp_path / "captioner"), "--no-explain"]) == 2
    assert "vocabulary" in capsys.readouterr().err


def test_an_evaluation_has_metrics_and_baselines(checkpoint, flickr8k, tmp_path, capsys):
    arguments = ["--data", flickr8k, "--model", checkpoint, "--out", str(tmp_path), "--batch", "2"]
    assert main(["evaluate", "captioner", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "BLEU-4" in printed and "wrong word" in printed and "3.27" in printed
    result = json.loads((tmp_path / "captioner-dev.json").read_text())
    words = result["grounding"]["human"]["words"]["pointing"]
    assert words["all"]["gradcam"]["n"] == 6 and set(words) == {"all", "other", "scene", *HALVES}
    assert sum(words[half]["gradcam"]["n"] for half in HALVES if words[half]) == 6
    assert words["other"]["random"]["mean"] == pytest.approx((20 / 48) ** 2, abs=0.01)
    assert result["images"] == 3 and "CIDEr" in result["captions"]


def test_an_evaluation_at_another_layer_has_its_maps(checkpoint, flickr8k, tmp_path, capsys):
    arguments = ["--data", flickr8k, "--model", checkpoint, "--out", str(tmp_path), "--limit", "1", "--json"]
    assert main(["evaluate", "captioner", *arguments]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "captioner", *arguments, "--layer", "trunk.network.blocks.4"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["layer"] == "trunk.network.blocks.4" and other["captions"] == own["captions"]
    ratios = [one["grounding"]["human"]["phrases"]["inside_outside"]["all"] for one in (own, other)]
    assert ratios[0]["energy"]["n"] == ratios[1]["energy"]["n"] > 0
    assert ratios[0]["energy"]["mean"] != ratios[1]["energy"]["mean"]


def test_an_evaluation_without_boxes_scores_captions_alone(checkpoint, tmp_path, capsys):
    folder = flickr.make(tmp_path / "data", train=1, dev=2)
    arguments = ["--data", f"flickr8k:{folder}", "--model", checkpoint, "--out", str(tmp_path), "--json"]
    assert main(["evaluate", "captioner", *arguments]) == 0
    printed = capsys.readouterr()
    assert "words are not located" in printed.err
    assert json.loads(printed.out)["grounding"] == {}


def test_an_evaluation_on_coco_says_how_truly_classes_are_named(checkpoint, tmp_path, capsys):
    folder = _coco(tmp_path, captions=("a red square", "the square is on a wall"))
    methods = ["--methods", "hirescam,gradcam"]
    arguments = ["--data", f"coco:{folder}", "--model", checkpoint, "--out", str(tmp_path), *methods]
    assert main(["evaluate", "captioner", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "CHAIRi" in printed and "class recall" in printed and "1 of them with captions" in printed
    assert "people's first captions" in printed
    result = json.loads((tmp_path / "captioner-coco-val.json").read_text())
    assert result["images"] == result["captioned"] == 1 and "CIDEr" in result["captions"]
    assert result["objects"]["class recall"]["n"] == 1 and result["objects"]["CHAIRs"]["n"] == 1
    pointing = result["grounding"]["human"]["words"]["pointing"]  # of 'square' in the first caption
    assert set(pointing) == {"all", "square", *HALVES} and pointing["all"]["hirescam"]["n"] == 1
    assert pointing["all"]["random"]["mean"] == 0.5 and pointing["all"]["centre"]["mean"] in (0, 1)
    assert "HiResCAM less centre" in printed and "inside_outside" in result["grounding"]["human"]["words"]


def test_a_copy_of_coco_with_a_division_of_its_own_is_measured_by_it(tmp_path):
    folder = _coco(tmp_path, "train2014", names=[f"COCO_train2014_{n:012d}.jpg" for n in (1, 2, 3)])
    (folder / "splits").mkdir()
    (folder / "splits" / "val_image_ids.txt").write_text("2\n")
    [(image, instances)] = coco.read_split(folder, "val")
    assert image.image_id == "coco:2" and image.captions == ()
    assert [instance.name for instance in instances] == ["square"]
    assert len(coco.read_split(folder, "train")) == 3  # no list of that name: the whole set


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "somewhere"], "flickr8k:PATH"),
        (["--data", "coco:/no/such/folder"], "no folder of COCO photographs"),
        (["--data", "flickr8k:/no/such/folder"], "/no/such/folder"),
        (["--data", "DATA", "--split", "nothing"], "nothing"),
        (["--data", "DATA", "--metrics", "BLEU,WER"], "WER"),
    ],
)
def test_an_evaluation_that_cannot_be_done_is_one_line(checkpoint, flickr8k, capsys, arguments, said):
    arguments = [flickr8k if argument == "DATA" else argument for argument in arguments]
    assert main(["evaluate", "captioner", "--model", checkpoint, *arguments]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_figure_10_draws_and_measures(checkpoint, photos, flickr8k, tmp_path, capsys):
    out = tmp_path / "figure10.png"
    arguments = ["--images", photos[0], "--model", checkpoint, "--data", flickr8k, "--limit", "2", "--out", str(out)]
    figure10.main(arguments)
    assert "3.27 ± 0.18" in capsys.readouterr().out
    ratios = json.loads(out.with_suffix(".json").read_text())
    assert set(ratios["tables"]) == {"phrases as captions", "phrases in context"}
    for table in ratios["tables"].values():
        assert set(table) == {"guided", "gradcam", "guided_gradcam"}
        assert all(row["n"] + row["left_out"] >= 2 for row in table.values())
    assert Image.open(out).width > 400


def test_figure_11_follows_entities_and_cocos_layout(checkpoint, flickr8k, tmp_path, capsys):
    out = tmp_path / "figure11.png"
    common = ["--model", checkpoint, "--out", str(out), "--least", "1", "--quiet"]
    figure11.main(["--data", flickr8k, *common])
    assert "Flickr30k Entities" in capsys.readouterr().out
    found = json.loads(out.with_suffix(".json").read_text())
    assert all("square" in found[whose]["words"] for whose in ("human", "generated"))
    assert found["images"] == 3 and Image.open(out).width > 400
    figure11.main(["--data", f"coco:{_coco(tmp_path)}", *common])
    assert "COCO classes" in capsys.readouterr().out


def _coco(folder, set_name="val2014", names=("x.jpg",), captions=()):
    """Images of COCO's layout, each with an instance of a class that the captions name."""
    (folder / "annotations").mkdir()
    (folder / set_name).mkdir()
    for name in names:
        Image.new("RGB", (40, 40), (200, 0, 0)).save(folder / set_name / name)
    numbers = range(1, len(names) + 1)
    images = [{"id": n, "file_name": name, "width": 40, "height": 40} for n, name in zip(numbers, names, strict=True)]
    record = {
        "images": images,
        "categories": [{"id": 3, "name": "square"}],
        "annotations": [{"image_id": n, "category_id": 3, "bbox": [0, 0, 20, 40]} for n in numbers],
    }
    (folder / "annotations" / f"instances_{set_name}.json").write_text(json.dumps(record))
    if captions:
        said = [{"image_id": 1, "caption": caption} for caption in captions]
        record = {"images": images, "annotations": said}
        (folder / "annotations" / f"captions_{set_name}.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(autouse=True)
def _square_is_a_class(monkeypatch):
    from data.words import coco_classes as coco_words

    monkeypatch.setitem(coco_words.CLASS_OF, "square", "square")
