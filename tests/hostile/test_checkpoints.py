"""Checkpoints that were edited, damaged or made up: each ends in one line that names the entry and what it may be."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import captioning
import vqa
from captioning.model import CaptionModel
from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.trunks import load_seeing_trunk, save_head, save_seeing_trunk
from data.words.vocabulary import Vocabulary
from vqa.model import VqaModel

WORDS = ["dog", "cat", "grass"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a small trunk, captioner and VQA model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), WORDS, counted=2)
    save_seeing_trunk(folder / "trunk", trunk, {"network": "small_cnn"})
    trunk = load_seeing_trunk(folder)
    vocabulary = Vocabulary.build([WORDS], minimum=1)
    words = {"vocabulary": list(vocabulary.words)}
    captioner = CaptionModel(trunk, vocabulary, 8)
    save_head(folder / "captioner", captioner, {"kind": "captioner", "hidden": 8, "decoding": {"beam": 2}, **words})
    sizes = {"embedding": 8, "hidden": 8, "joint": 8}
    answerer = VqaModel(trunk, vocabulary, ["yes", "no"], **sizes)
    save_head(folder / "vqa", answerer, {"kind": "vqa", "answers": ["yes", "no"], **sizes, **words})
    captioning.load(folder)
    vqa.load(folder)
    return folder


LOADERS = {"captioner": captioning.load, "vqa": vqa.load, "trunk": load_seeing_trunk}
NO_NUMBER = [None, "512", [], {}, True, 1.5, -1, 0, 10**12, math.nan, math.inf]
NO_NAMES = [None, "abc", {}, 5, [], [1, 2], ["a", None], ["", "b"], [["a"]], ["x" * 10_000, "b"], ["dog", "dog"]]
ENTRIES = {
    "captioner": {
        "hidden": NO_NUMBER,
        "vocabulary": NO_NAMES,
        "decoding": [None, 3, "beam", [], {}, {"beam": None}, {"beam": 0}, {"beam": 10**9}, {"beam": 2.5}]
        + [{"beam": 2, "length_penalty": value} for value in (None, "1", math.nan, -1, 1e300)],
        "kind": [None, "vqa", 5, "\x1b[2J"],
        "trunk": [None, "trunk", {}, {"file": "trunk"}, {"file": "gone", "fingerprint": "x"}, {"file": 5,
         "fingerprint": 5}],
    },
    "vqa": {
        **{size: NO_NUMBER for size in ("embedding", "hidden", "joint")},
        "vocabulary": NO_NAMES,
        "answers": NO_NAMES,
        "trunk": [None, 3, {"file": "../../etc/passwd", "fingerprint": "x"}, {"file": "x" * 300, "fingerprint": "x"},
                  {"file": "a\nb", "fingerprint": "x"}, {"file": "trunk", "fingerprint": "\n"}],
    },
    "trunk": {
        "words": [value for value in NO_NAMES if value != ["dog", "dog"]],
        "counted": [None, "2", [], 1.5, -1, 10**12, True, math.nan],
        "network": [None, 5, [], "no such network", "x" * 5000],
        "source": [None, 5, [], "x" * 5000],
        "preprocessing": [
            None, [], 5, "x", {"size": [60000, 60000]}, {"size": [0, 4]}, {"size": [4]}, {"size": 224}, {"size": "ab"},
            {"size": [4.5, 4]}, {"size": [None, 4]}, {"mean": [math.nan, 0, 0]}, {"mean": 0}, {"mean": [0, 0]},
            {"mean": ["a", 0, 0]}, {"std": [0, 1, 1]}, {"std": [math.inf, 1, 1]}, {"std": None}, {"crop": "x"},
            {"crop": math.nan}, {"crop": 2}, {"crop": []}, {"interpolation": 5}, {"interpolation": "no"},
            {"interpolation": []}, {"colour": 1},
        ],
    },
}  # fmt: skip
CASES = [
    (kind, entry, value) for kind, entries in ENTRIES.items() for entry, values in entries.items() for value in values
]
MISSING = [(kind, entry) for kind, entries in ENTRIES.items() for entry in entries if entry != "decoding"]


def refused(kind, folder):
    """The line that loading ends in."""
    with pytest.raises(UserError) as problem:
        LOADERS[kind](folder)
    line = str(problem.value)
    assert "\n" not in line and "\x1b" not in line and len(line) < 1500
    return line


def copied(whole, tmp_path, kind, change):
    """A copy of the folder with the configuration of one of the three changed."""
    for file in whole.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    path = tmp_path / f"{kind}.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(("kind", "entry", "value"), CASES, ids=lambda value: repr(value)[:40])
def test_an_entry_out_of_bounds_is_refused(whole, tmp_path, kind, entry, value):
    line = refused(kind, copied(whole, tmp_path, kind, lambda config: config.update({entry: value})))
    assert str(tmp_path) in line or entry in line or "preprocessing" in entry


@pytest.mark.parametrize(("kind", "entry"), MISSING)
def test_a_missing_entry_is_named(whole, tmp_path, kind, entry):
    line = refused(kind, copied(whole, tmp_path, kind, lambda config: config.pop(entry)))
    assert str(tmp_path) in line


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000,
     b'{"kind": "captioner"}', b"{}", b"\x00" * 50],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_configuration_that_is_none(whole, tmp_path, kind, content):
    copied(whole, tmp_path, kind, lambda config: None)
    (tmp_path / f"{kind}.json").write_bytes(content)
    assert str(tmp_path) in refused(kind, tmp_path)


def _first(tensors):
    return next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.dim() > 1)


WEIGHTS = {
    "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
    "infinite": lambda tensor: torch.full_like(tensor, torch.inf),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "of another shape": lambda tensor: tensor[:1].clone(),
    "without entries": lambda tensor: tensor[:0].clone(),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_that_give_nonsense_are_refused(whole, tmp_path, kind, change):
    copied(whole, tmp_path, kind, lambda config: None)
    tensors = load_file(tmp_path / f"{kind}.safetensors")
    name = _first(tensors)
    save_file({**tensors, name: WEIGHTS[change](tensors[name])}, tmp_path / f"{kind}.safetensors")
    assert str(tmp_path) in refused(kind, tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("size", [0, 1, 8, 9, 100, -1])
def test_weights_cut_short_are_refused(whole, tmp_path, kind, size):
    copied(whole, tmp_path, kind, lambda config: None)
    path = tmp_path / f"{kind}.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "truncated or not a safetensors file" in refused(kind, tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_is_missing_or_a_folder_is_named(whole, tmp_path, kind):
    copied(whole, tmp_path, kind, lambda config: None)
    weights = tmp_path / f"{kind}.safetensors"
    weights.unlink()
    assert f"'{weights}' is missing" in refused(kind, tmp_path)
    weights.mkdir()
    assert str(weights) in refused(kind, tmp_path)
    (tmp_path / f"{kind}.json").unlink()
    assert str(tmp_path) in refused(kind, tmp_path)
