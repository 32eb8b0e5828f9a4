"""The bias tool on drawn photographs: a disc is one class, a square the other; red or blue grounds confound
them.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import classification
from common.errors import UserError
from common.gradcam import gradcam
from common.images import Preprocessing
from scripts.experiments import figure8 as bias
from tests.nets import Plain, seeded

GROUNDS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


def write(folder, kind, number):
    place = folder / kind[0] / kind[1]
    place.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (32, 32), GROUNDS[kind[1]])
    shape = ImageDraw.Draw(image)
    x = 4 + number % 8
    (shape.ellipse if kind[0] == "disc" else shape.rectangle)((x, 8, x + 14, 22), fill=(240, 240, 240))
    image.save(place / f"{kind[0]}_{kind[1]}_{number}.png")


@pytest.fixture
def folders(tmp_path):
    for subject in ("disc", "square"):
        for ground in GROUNDS:
            aligned = (subject == "disc") == (ground == "red")
            for number in range(12 if aligned else 2):
                write(tmp_path / "train", (subject, ground), number)
            for number in range(3):
                write(tmp_path / "test", (subject, ground), number)
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    network = classification.load(seeded(Plain, 2), preprocessing=Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    monkeypatch.setattr(classification, "load", lambda *args, **options: network)
    return network


def test_both_heads_are_measured_and_drawn(folders, tiny, capsys):
    boxes = {f"disc_red_{n}.png": {"ground": [[0, 0, 1, 0.25]]} for n in range(3)}
    (folders / "boxes.json").write_text(json.dumps(boxes))
    out = folders / "out" / "bias.png"
    bias.main(
        [
            "--train",
            f"{folders}/train",
            "--test",
            f"{folders}/test",
            "--boxes",
            f"{folders}/boxes.json",
            "--out",
            str(out),
        ]
    )
    printed = capsys.readouterr().out
    assert (
        "rebalanced" in printed and "accuracy, disc/blue" in printed and "share of the map on the nuisance" in printed
    )
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["train"]["as it is"] == {"disc/blue": 2, "disc/red": 12, "square/blue": 12, "square/red": 2}
    assert set(record["train"]["rebalanced"].values()) == {7} and record["repeats"] == 10
    assert "10 of the rebalanced set are repeats; give more photographs of the rarer kinds with --add" in printed
    for column in record["figures"].values():
        assert column["accuracy"]["n"] == 12 and 0 <= column["accuracy"]["mean"] <= 1
        share = column["share of the map on the nuisance"]
        assert share["n"] + share["left_out"] == 12 and share["n"] <= 3
    with Image.open(out) as picture:
        assert picture.width > 600


def test_the_heads_maps_are_grad_cam_of_its_network():
    features = torch.rand(2, 6, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    head = bias.Head(torch.linspace(-1, 1, 6).double(), torch.tensor([0.3]).double())

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Identity()

        def forward(self, x):
            scores = head.scores(self.layer(x))
            return torch.stack([-scores, scores], 1)

    labels = torch.tensor([0.0, 1.0]).double()
    expected = gradcam(Network(), features, labels.long(), layer="layer")[0]
    assert torch.allclose(head.maps(features, labels), expected, atol=1e-12)


def test_rebalancing_keeps_the_size_of_the_set_and_adds_what_is_rare(folders):
    kinds = bias.read_kinds(str(folders / "train"))
    for number in range(20, 29):
        write(folders / "more", ("disc", "blue"), number)
    more = bias.read_kinds(str(folders / "more"), least=1)
    balanced = bias.rebalanced(kinds, more, 1)
    assert {kind: len(files) for kind, files in balanced.items()} == dict.fromkeys(balanced, 7)
    assert len(set(balanced["disc", "blue"])) == 7 and set(kinds["disc", "blue"]) <= set(balanced["disc", "blue"])
    assert set(balanced["disc", "red"]) < set(kinds["disc", "red"])
    assert sorted(set(balanced["square", "red"])) == kinds["square", "red"]  # two, repeated: nothing was added
    assert balanced == bias.rebalanced(kinds, more, 1)


def test_what_is_added_is_trained_on(folders, tiny, capsys):
    for subject, ground in (("disc", "blue"), ("square", "red")):
        for number in range(20, 26):
            write(folders / "more", (subject, ground), number)
    out, places = folders / "out" / "bias.png", [f"--{name}={folders}/{name}" for name in ("train", "test")]
    bias.main([*places, f"--add={folders}/more", "--out", str(out)])
    assert "repeats" not in capsys.readouterr().out
    record = json.loads(out.with_suffix(".json").read_text())
    assert set(record["train"]["rebalanced"].values()) == {7} and record["repeats"] == 0


def test_what_is_missing_is_said(folders, tiny, tmp_path):
    with pytest.raises(UserError, match="has the classes: none; expected two, as CLASS/ATTRIBUTE"):
        bias.read_kinds(str(tmp_path / "nowhere"))
    kinds = bias.read_kinds(str(folders / "train"))
    del kinds[("disc", "blue")]
    with pytest.raises(UserError, match="no photograph of disc/blue"):
        bias.rebalanced(kinds)
    write(folders / "test", ("disc", "red"), 99)
    (folders / "test" / "disc" / "red").rename(folders / "test" / "disc" / "green")
    with pytest.raises(UserError, match="has disc/green, which .*train' lacks"):
        bias.main(["--train", f"{folders}/train", "--test", f"{folders}/test"])


def test_labels_follow_the_class():
    assert bias.kind_labels(("square", "red"), 2, ["disc", "square"]).tolist() == [1, 1]
    assert np.isclose(bias.kind_labels(("disc", "red"), 1, ["disc", "square"]).item(), 0)
