"""A trunk with evidence, in files of its own: heads share it, and know it by its fingerprint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.store import FeatureStore
from common.training.summaries import FILE, Summaries
from common.training.trunks import copy_trunk, load_head, load_seeing_trunk, save_head, save_seeing_trunk

WORDS = ["dog", "cat", "grass"]


def make(folder, seed=0):
    """A small trunk in the files of a run's folder."""
    torch.manual_seed(seed)
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), WORDS, counted=2)
    trunk.evidence.typical.copy_(torch.arange(5.0))
    save_seeing_trunk(folder / "trunk", trunk, {"network": "small_cnn"})
    return trunk


class Head(nn.Module):
    def __init__(self, trunk, answers):
        super().__init__()
        self.trunk, self.answers = trunk, answers
        self.classifier = nn.Linear(trunk.evidence.size, len(answers))


def build(config, trunk):
    return Head(trunk, config["answers"])


def test_a_trunk_says_what_is_in_an_image():
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), WORDS, counted=2)
    images = torch.rand(2, 3, 64, 64)
    features = trunk.features(images)
    assert features.shape[:2] == (2, trunk.channels) and trunk.layer == "network.body"
    torch.testing.assert_close(trunk(images), trunk.evidence.summary(features))
    assert dict(trunk.named_modules())[trunk.layer] is trunk.network.body


def test_a_trunk_comes_back_from_its_files_once(tmp_path):
    made = make(tmp_path)
    trunk = load_seeing_trunk(tmp_path)
    assert trunk is load_seeing_trunk(tmp_path / "trunk.json") and not trunk.training
    assert trunk.evidence.words == tuple(WORDS) and trunk.evidence.counted == 2
    torch.testing.assert_close(trunk.evidence.typical, made.evidence.typical)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(trunk(images), made.eval()(images), rtol=1e-2, atol=1e-2)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_trunks_are_known_by_their_weights_and_concepts(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        make(folder, seed)
    a, b, c = map(load_seeing_trunk, folders)
    assert a is not b and a.same_as(b) and not a.same_as(c) and len(a.fingerprint) == 16
    unsaved = SeeingTrunk.of(load_trunk("small_cnn"), WORDS)
    assert unsaved.same_as(unsaved) and not unsaved.same_as(SeeingTrunk.of(load_trunk("small_cnn"), WORDS))


def test_a_head_is_kept_without_its_trunk_and_finds_it_again(tmp_path):
    make(tmp_path)
    out = tmp_path / "head"
    trunk = load_seeing_trunk(copy_trunk(tmp_path, out))
    head = Head(trunk, ["yes", "no"])
    path = save_head(out / "vqa", head, {"kind": "vqa", "answers": ["yes", "no"]})
    assert path.stat().st_size < 1000
    loaded, config = load_head(out, "vqa", {"answers": "classifier.weight"}, {}, build)
    assert loaded.trunk is trunk and config["trunk"] == {"file": "trunk", "fingerprint": trunk.fingerprint}
    torch.testing.assert_close(loaded.classifier.weight, head.classifier.weight, rtol=1e-3, atol=1e-3)
    assert copy_trunk(tmp_path, out) == out / "trunk"  # which is there already


def test_a_copy_that_breaks_off_leaves_no_half_file_and_is_made_again(tmp_path, monkeypatch):
    make(tmp_path)
    whole, out = shutil.copyfile, tmp_path / "run"

    def breaks(source, target):
        whole(source, target)
        if Path(source).suffix == ".json":
            Path(target).write_text("{")
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", breaks)
    with pytest.raises(KeyboardInterrupt):
        copy_trunk(tmp_path, out)
    assert not list(out.iterdir())  # both files, or none
    monkeypatch.undo()
    assert load_seeing_trunk(copy_trunk(tmp_path, out)).same_as(load_seeing_trunk(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "trunk.json").unlink(), "reads the trunk '.*', which is missing"),
        (lambda out: make(out, 1), "was trained on another trunk"),
        (lambda out: _edit(out / "vqa.json", "trunk", "efficientnet_lite0"), "trained before trunks had files"),
        (lambda out: _edit(out / "vqa.json", "answers", ["yes"]), "'answers' in .* has 1 entries, the weights know 2"),
        (lambda out: _edit(out / "vqa.json", "kind", "captioner"), "no checkpoint of a vqa model, but of a captioner"),
    ],
)
def test_a_head_without_its_trunk_is_one_line(spoil, message, tmp_path):
    make(tmp_path)
    save_head(
        tmp_path / "vqa", Head(load_seeing_trunk(tmp_path), ["yes", "no"]), {"kind": "vqa", "answers": ["yes", "no"]}
    )
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load_head(tmp_path, "vqa", {"answers": "classifier.weight"}, {}, build)


def _edit(path, key, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def test_another_trunk_is_not_written_over(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        make(tmp_path / name, seed)
    with pytest.raises(UserError, match="holds another trunk than .*; name another --out"):
        copy_trunk(tmp_path / "a", tmp_path / "b")


def test_a_head_is_no_trunk(tmp_path):
    make(tmp_path)
    shutil.copy(tmp_path / "trunk.safetensors", tmp_path / "vqa.safetensors")
    _edit(tmp_path / "trunk.json", "kind", "vqa")
    with pytest.raises(UserError, match="no checkpoint of a trunk model, but of a vqa one"):
        load_seeing_trunk(tmp_path / "trunk")


def _photographs(folder, count):
    paths = {}
    for number in range(count):
        paths[f"x:{number}"] = folder / f"{number}.png"
        pixels = torch.randint(0, 255, (40, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(paths[f"x:{number}"])
    return paths


def test_summaries_are_crossfitted_where_there_are_any_and_else_the_trunks_own(tmp_path):
    make(tmp_path)
    paths = _photographs(tmp_path, 3)
    trunk = load_seeing_trunk(tmp_path)
    told = torch.arange(10.0).view(1, 2, 5)
    with FeatureStore.open(tmp_path / FILE, ["x:1"], (2, 5), trunk.fingerprint) as store:
        store.fill(lambda names: told.half().numpy())
    summaries = Summaries.open(tmp_path, tmp_path / "features")
    assert [summaries.fitted(image_id) for image_id in paths] == [False, True, False]
    found = summaries.of("x", paths)
    assert found.shape == (3, 2, 5) and torch.equal(found[1], told[0])
    images = torch.cat([trunk.preprocessing(path) for path in paths.values()])
    torch.testing.assert_close(found[::2, 0], trunk(images)[::2], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found[::2, 1], trunk(images.flip(-1))[::2], rtol=1e-2, atol=1e-2)
    assert torch.equal(summaries.of("x", paths, views=1)[1, 0], told[0, 0])
    assert torch.equal(summaries.of("x", dict(reversed(paths.items())))[1], told[0])


def test_summaries_of_another_trunk_are_refused(tmp_path):
    make(tmp_path)
    FeatureStore.open(tmp_path / FILE, ["x:1"], (2, 5), "another").close()
    with pytest.raises(UserError, match="holds features of another trunk"):
        Summaries.open(tmp_path, tmp_path / "features")
