"""Data sets that were edited or damaged: whatever stands in an entry is read, or told in a line with its place."""

import copy
import json
import math
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from data.readers import boxes, coco, karpathy, masks, pascal_xml, regions, vqa, vqahat
from data.records import Box
from scripts.saywhy import main
from scripts.study.plan import open_study
from scripts.study.simulate import simulated_answers
from tests.hostile.test_fuzz import FUZZ, JSON, places, put
from tests.studies import made_up

ODD = [None, True, [], {}, "", "x", [1], {"a": 1}, -1, 0, 10**7, 10**400, math.nan, math.inf, 1e300, [[[]]]]
PHOTO = "COCO_train2014_000000000001.jpg"
INSTANCES = {
    "images": [{"id": 1, "file_name": PHOTO, "width": 40, "height": 30}],
    "annotations": [
        {"image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": {"size": [30, 40], "counts": [1200]}},
    ],
    "categories": [{"id": 3, "name": "cat"}],
}
CAPTIONS = {
    "images": [{"id": 1, "file_name": PHOTO, "labels": ["cat"]}],
    "annotations": [{"image_id": 1, "caption": "a cat"}],
}
KARPATHY = {"images": [{"filename": "a.jpg", "filepath": "f", "split": "train", "sentences": [{"raw": "a cat"}]}]}
GENOME = [{"id": 1, "regions": [{"phrase": "a cat", "x": 1, "y": 1, "width": 5, "height": 5}]}]
SIZES = [{"image_id": 1, "width": 40, "height": 30}]
DENSECAP = {
    "results": [{"img_name": "a.jpg", "boxes": [[1, 1, 5, 5]], "captions": ["a cat"], "scores": [0.5]}],
    "opt": {"image_size": 720},
}
ASKED = {"questions": [{"question_id": 5, "image_id": 1, "question": "what?"}]}
ANSWERED = {
    "annotations": [
        {"question_id": 5, "image_id": 1, "answers": [{"answer": "cat"}], "multiple_choice_answer": "cat",
         "answer_type": "other"}
    ]
}  # fmt: skip
SOFT = {"annotations": [{"question_id": 5, "image_id": 1, "soft_answers": {"cat": 0.5}}]}
BOXES = {"a.jpg": {"cat": [[0.1, 0.1, 0.5, 0.5]]}}


def outlines(file):
    for each in masks.read_masks(file)[0].values():
        for instance in each:
            masks.mask_of(instance)


# file -> what it holds, and what reads it
FILES = {
    "annotations/instances_train2014.json": (
        INSTANCES,
        lambda file: (outlines(file), boxes.read_boxes(f"coco:{file}")),
    ),
    "annotations/captions_train2014.json": (CAPTIONS, lambda file: (coco.read_captions(file), coco.read_texts(file))),
    "karpathy.json": (KARPATHY, lambda file: karpathy.read(file, file.parent, "train", False)),
    "region_descriptions.json": (GENOME, lambda file: regions.read_visual_genome(file.parent)),
    "image_data.json": (SIZES, lambda file: regions.read_visual_genome(file.parent)),
    "results.json": (DENSECAP, lambda file: regions.read_densecap(file)),
    "v2_OpenEnded_mscoco_train2014_questions.json": (ASKED, lambda file: vqa.read_vqa(file.parent)),
    "v2_mscoco_train2014_annotations.json": (ANSWERED, lambda file: vqa.read_vqa(file.parent)),
    "okvqa_train2014_questions.json": (ASKED, lambda file: vqa.read_okvqa(file.parent)),
    "okvqa_train2014_soft_answers.json": (SOFT, lambda file: vqa.read_okvqa(file.parent)),
    "boxes.json": (BOXES, lambda file: boxes.read_boxes(str(file))),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with all of them, whole."""
    folder = tmp_path_factory.mktemp("sets")
    for place in ("annotations", "train2014", "VG_100K"):
        (folder / place).mkdir()
    for name in (f"train2014/{PHOTO}", "VG_100K/1.jpg", "a.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    for name, (record, _) in FILES.items():
        (folder / name).write_text(json.dumps(record))
    for name, (_, read) in FILES.items():
        read(folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_a_data_set_is_read_or_told_in_a_line(name, sets):
    record, read = FILES[name]
    file = sets / name
    try:
        for path in places(record):
            for odd in ODD:
                file.write_text(json.dumps(put(record, path, odd)))
                try:
                    read(file)
                except UserError as problem:
                    line = str(problem)
                    assert "\n" not in line and len(line) < 1000, (path, odd)
    finally:
        file.write_text(json.dumps(record))


@FUZZ
@given(data=st.data(), name=st.sampled_from(list(FILES)), new=JSON)
def test_what_hypothesis_makes_of_an_entry_is_read_or_told_in_a_line(sets, data, name, new):
    record, read = FILES[name]
    file = sets / name
    path = data.draw(st.sampled_from(list(places(record))))
    try:
        file.write_text(json.dumps(put(record, path, new)))
        read(file)
    except UserError as problem:
        assert "\n" not in str(problem)
    finally:
        file.write_text(json.dumps(record))


XML = (
    "<annotation><size><width>{}</width><height>{}</height></size><object><name>cat</name><bndbox>{}</bndbox></object>"
    "</annotation>"
)
EDGES = "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax>"


@pytest.mark.parametrize(
    "text",
    [
        *(XML.format(width, height, EDGES.format(9))
          for width, height in ((0, 10), (10**7, 10**7), ("nan", 5), ("inf", 5), ("x", 5), ("", ""), (-3, 5))),
        *(XML.format(10, 10, EDGES.format(edge)) for edge in ("nan", "x", "-5", "", "1e999")),
        "", "<annotation>", "\x00", "<?xml version='1.0' encoding='nothing'?><a/>", "<a>" * 100_000,
    ],
    ids=lambda text: text[:90].encode("unicode_escape").decode(),
)  # fmt: skip
def test_an_annotation_in_xml_that_is_none_names_its_file(text, tmp_path):
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"a\.xml"):
        pascal_xml.read_instances(file)


def test_broken_entries_are_told_with_file_and_place_counted_and_left_out(tmp_path, capsys, monkeypatch):
    record = copy.deepcopy(INSTANCES)
    for number, (name, width) in enumerate((("b.jpg", 0), ("c.jpg", 10_000_000), ("d.jpg", [5]), ("e.jpg", 40)), 2):
        record["images"].append(
            {"id": number, "file_name": name, "width": width, "height": 10_000_000 if width else 30}
        )
        record["annotations"].append(
            {"image_id": number, "category_id": [3] if width == 40 else 3, "bbox": [1, 2, 3, 4]}
        )
    record["annotations"].append({"image_id": [1], "category_id": 3, "bbox": [1, 2, 3, 4]})
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(record))
    found, problems = boxes.read_boxes(f"coco:{file}")
    name = PHOTO.removesuffix(".jpg")
    assert found == {
        name: {"cat": [Box.of_pixels((1, 2, 11, 22), (40, 30), ""), Box.of_pixels((0, 0, 5, 5), (40, 30), "")]}
    }
    assert [f"{file}: annotations[{n}]" in problem for n, problem in enumerate(problems, 2)] == [True] * 5
    monkeypatch.chdir(tmp_path)
    assert main(["classify", str(tmp_path / "missing.jpg")]) == 2  # no maps: what is left out is told before
    capsys.readouterr()
    assert main(["score", "--maps", "no.npz", "--data", f"coco:{file}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["left out"] * 4 + ["error"] and "2 more" in said[3]


def test_a_decompression_bomb_among_attention_maps_is_named(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (12_000, 100_000, 2**31 - 1):
        file = tmp_path / f"{side}.png"
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        pixels = zlib.compress(bytes(10_000_000), 9)
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
        with pytest.raises(UserError, match=rf"{side}\.png"):
            vqahat.read_attention([file], (14, 14))


@pytest.mark.parametrize("file", ["plan.json", "key.json"])
def test_a_study_that_was_edited_is_read_or_told_in_a_line(file, tmp_path):
    study = made_up(tmp_path)
    record = json.loads((tmp_path / file).read_text())
    paths = [path for path in places(record) if len(path) <= 2][:60]
    for path in paths:
        for odd in ODD:
            (tmp_path / file).write_text(json.dumps(put(record, path, odd)))
            try:
                changed = open_study(tmp_path)
                assert 0 <= changed.guess <= 0.5 and changed.plan["question"].replace("a", "b") is not None
                simulated_answers(changed, 2, 0.1)
            except UserError as problem:
                assert "\n" not in str(problem), (path, odd)
    assert study.lists
