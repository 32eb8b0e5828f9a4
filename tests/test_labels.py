"""Names of classes: any synonym, WordNet id or index; ImageNet's order; a user's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classification.labels import Labels, imagenet
from common.errors import UserError


def test_imagenet_is_in_the_order_of_timm_and_torchvision() -> None:
    from timm.data import ImageNetInfo
    from torchvision.models import get_model_weights

    info, categories = ImageNetInfo(), next(iter(get_model_weights("resnet50"))).meta["categories"]
    labels = imagenet()
    assert len(labels) == 1000
    for i in range(1000):
        assert labels.wnid(i) == info.index_to_label_name(i)
        assert ", ".join(labels.synonyms[i]) == info.index_to_description(i)
    # torchvision tells the two cranes and maillots apart; all else is called the same.
    assert [i for i in range(1000) if labels[i] != categories[i]] == [134, 639]


@pytest.mark.parametrize(
    "target, index",
    [
        ("tiger cat", 282), ("Tiger_Cat", 282), (" TIGER-CAT ", 282), ("boxer", 242),
        ("n02108089", 242),
        ("N02108089", 242), ("242", 242), (242, 242), (np.int64(242), 242), ("tabby cat", 281),
        ("tench", 0),
        ("Tinca tinca", 0), ("tench, Tinca tinca", 0), ("toilet tissue", 999), ("missile", 657),
        ("harp", 594),
        ("maillot, tank suit", 639), ("black footed ferret", 359),
    ],
)  # fmt: skip
def test_any_synonym_wnid_or_index_finds_the_class(target: object, index: int) -> None:
    assert imagenet().find(target) == index


@pytest.mark.parametrize("name, indices", [("crane", (134, 517)), ("maillot", (638, 639)), ("Cardigan", (264, 474))])
def test_a_name_that_two_classes_go_by_is_refused_with_both(name: str, indices: tuple[int, int]) -> None:
    with pytest.raises(UserError) as caught:
        imagenet().find(name)
    for index in indices:
        assert f"{index} ({imagenet().wnid(index)}" in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'tigr cat'.*tiger cat \(282\)"):
        imagenet().find("tigr cat")
    with pytest.raises(UserError, match=r"tiger cat \(282\)"):
        imagenet().find("cat")
    with pytest.raises(UserError, match="0 to 999"):
        imagenet().find("xqzwv")


@pytest.mark.parametrize("target", [1000, -1, "1000", "-1", True, None, 3.0, "", "n00000000"])
def test_what_names_no_class_is_refused(target: object) -> None:
    with pytest.raises(UserError):
        imagenet().find(target)


@given(st.integers(0, 999), st.data())
def test_every_synonym_finds_its_class_or_lists_it(index: int, data: st.DataObject) -> None:
    labels = imagenet()
    name = data.draw(st.sampled_from(labels.synonyms[index]))
    written = data.draw(st.sampled_from([str.upper, str.lower, lambda s: s.replace(" ", "_")]))(name)
    try:
        found = labels.find(written)
    except UserError as error:
        assert f"{index} (" in str(error)
    else:
        # A name that another class goes by belongs to that class.
        assert found == index or labels[found].casefold().replace("-", " ") == name.casefold().replace("-", " ")


def test_labels_come_from_lists_dicts_and_files(tmp_path: Path) -> None:
    wanted = Labels.of(["cat", "dog", "7"])
    (tmp_path / "a.txt").write_text("cat\ndog\n7\n\n")
    (tmp_path / "a.json").write_text(json.dumps(["cat", "dog", "7"]))
    (tmp_path / "b.json").write_text(json.dumps({"0": "cat", "2": "7", "1": "dog"}))
    sources = [{0: "cat", 1: "dog", 2: "7"}, {"cat": 0, "dog": 1, "x7": 2}, wanted]
    for source in [tmp_path / "a.txt", str(tmp_path / "a.json"), tmp_path / "b.json", *sources[::2]]:
        assert Labels.of(source) == wanted
    assert Labels.of(sources[1])[2] == "x7"
    assert wanted.find("DOG") == 1 and wanted.find("7") == 2 and wanted.find(0) == 0 and wanted.wnid(0) is None


def test_a_comma_in_a_label_of_ones_own_stays() -> None:
    assert Labels.of(["Washington, D.C.", "Rome"])[0] == "Washington, D.C."


def test_imagenets_own_list_is_recognised() -> None:
    assert Labels.of([", ".join(names) for names in imagenet().synonyms]) is imagenet()
    assert Labels.of([f"thing {i}" for i in range(1000)]) is not imagenet()


@pytest.mark.parametrize("bad", [[], {}, {0: "a", 2: "b"}, {"a": "b"}, [1, 2], ["a", ""], 7])
def test_impossible_labels_are_refused(bad: object) -> None:
    with pytest.raises(UserError):
        Labels.of(bad)


def test_bad_label_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[1,")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    (tmp_path / "folder").mkdir()
    for name in ("broken.json", "empty.txt", "binary.txt", "folder", "missing.txt"):
        with pytest.raises(UserError, match=name):
            Labels.read(tmp_path / name)


def test_numbered_labels_say_class_17() -> None:
    assert Labels.numbered(20)[17] == "class 17" and Labels.numbered(20).find("Class 17") == 17
