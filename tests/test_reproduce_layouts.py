"""The paper's experiments on ILSVRC's, VOC's and COCO's own layouts, end to end, with a tiny network."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import classification
from classification import finetuning, segmenter
from common.errors import UserError
from common.explainable import HookedModel
from common.images import Preprocessing
from common.metrics.localisation import box_overlap, centred_box, chance_of_hit, segment_boxes, told_apart
from data.readers import ilsvrc, voc
from scripts.experiments import appendix_b, asker, boxes, pointing, section_of, segment_voc, table1
from scripts.experiments.annotated import coco_annotations, voc_training
from scripts.experiments.lab import Lab
from scripts.experiments.maps import method_maps
from scripts.experiments.pointing import NAMES
from tests.nets import seeded
from tests.test_ilsvrc import BOX_XML
from tests.test_reproduce import Tiny, picture
from tests.test_voc import palette

cocomask = pytest.importorskip("pycocotools.mask")

OBJECT = (
    "<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)
SIDE = 120


@pytest.fixture(scope="module")
def classifier():
    preprocessing = Preprocessing((48, 48), (0.5,) * 3, (0.5,) * 3)
    return classification.load(seeded(Tiny, 3), preprocessing=preprocessing)


@pytest.fixture
def lab(classifier, tmp_path):
    return Lab(tmp_path / "report", {}, 8, True, "tiny", shared={"classifier": classifier})


def scene(seed: int) -> tuple[Image.Image, dict[str, tuple[int, int, int, int]]]:
    """A red square for a dog, a blue bar for a bottle, one of them or both, on grey noise; and where.

    Both are further from the centre than the pointing game's tolerance.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8)
    places = {}
    if seed % 3 != 0:
        x, y = (int(v) for v in rng.integers(0, 5, 2))
        pixels[y : y + 40, x : x + 40] = (230, 20, 20)
        places["dog"] = (x, y, x + 40, y + 40)
    if seed % 3 != 1:
        x = int(rng.integers(80, 100))
        pixels[20:100, x : x + 20] = (20, 20, 230)
        places["bottle"] = (x, 20, x + 20, 100)
    return Image.fromarray(pixels), places


def truncate(path) -> None:
    """Keep a photograph's header and lose its end, as a broken download does."""
    path.write_bytes(path.read_bytes()[:900])


@pytest.fixture
def voc_folder(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    lists = {"trainval": range(12), "train": range(12), "test": range(20, 26), "val": range(20, 26)}
    for place in ("Annotations", "JPEGImages", "SegmentationClass"):
        (root / place).mkdir(parents=True)
    for task in ("Main", "Segmentation"):
        (root / "ImageSets" / task).mkdir(parents=True)
        for split, numbers in lists.items():
            names = "".join(f"{n:06d}\n" for n in numbers)
            (root / "ImageSets" / task / f"{split}.txt").write_text(names)
    for n in sorted({number for numbers in lists.values() for number in numbers}):
        image, places = scene(n)
        image.save(root / "JPEGImages" / f"{n:06d}.jpg", quality=95)
        things = "".join(OBJECT.format(x + 1, y + 1, r, b, name=k) for k, (x, y, r, b) in places.items())
        (root / "Annotations" / f"{n:06d}.xml").write_text(
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>{things}</annotation>"
        )
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for name, (x, y, r, b) in places.items():
            labels[y:b, x:r] = {"bottle": 5, "dog": 12}[name]
        mask = Image.fromarray(labels, mode="P")
        mask.putpalette(palette())
        mask.save(root / "SegmentationClass" / f"{n:06d}.png")
    return tmp_path


@pytest.fixture
def coco_folder(tmp_path):
    """Polygons, compressed run lengths and a crowd's plain ones; one annotation and one photograph broken."""
    (tmp_path / "annotations").mkdir()
    for split, numbers in (("train", range(12)), ("val", range(20, 27))):
        folder = tmp_path / f"{split}2014"
        folder.mkdir()
        images, notes = [], []
        for n in numbers:
            image, places = scene(n)
            file = f"COCO_{split}2014_{n:012d}.jpg"
            image.save(folder / file, quality=95)
            images.append({"id": n, "file_name": file, "width": SIDE, "height": SIDE})
            for name, (x, y, r, b) in places.items():
                mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
                mask[y:b, x:r] = 1
                outline = [[x, y, r, y, r, b, x, b]]
                packed = {"size": [SIDE, SIDE], "counts": cocomask.encode(mask)["counts"].decode()}
                plain = {"size": [SIDE, SIDE], "counts": [x * SIDE + y, b - y, SIDE * SIDE - x * SIDE - b]}
                shape = (outline, packed, plain)[n % 3]
                category = {"dog": 18, "bottle": 44}[name]
                notes.append(
                    {
                        "id": len(notes) + 1, "image_id": n, "category_id": category, "iscrowd": int(n % 3 == 2),
                        "area": (r - x) * (b - y), "bbox": [x, y, r - x, b - y], "segmentation": shape,
                    }
                )  # fmt: skip
        if split == "val":
            del notes[0]["segmentation"]
            notes[-1]["segmentation"] = {"size": [SIDE, SIDE], "counts": [7]}
            truncate(folder / images[2]["file_name"])
        categories = [
            {"id": 44, "name": "bottle", "supercategory": "kitchen"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ]
        record = {"images": images, "annotations": notes, "categories": categories}
        (tmp_path / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(record))
    return tmp_path


def test_ten_crops_of_an_image_that_needs_no_scaling_are_its_corners_and_centre():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    crops = table1.ten_crops(Image.fromarray(pixels), (7, 7))
    assert [crop.size for crop in crops] == [(7, 7)] * 10
    for crop, (top, left) in zip(crops, ((0, 0), (0, 9), (1, 0), (1, 9), (0, 4)), strict=False):
        assert np.array_equal(np.asarray(crop), pixels[top : top + 7, left : left + 7])
    for number, mirrored in zip((1, 0, 3, 2), crops[5:], strict=False):  # left corners become right ones
        assert np.array_equal(np.asarray(mirrored), np.asarray(crops[number])[:, ::-1])


def test_ten_crops_are_seven_eighths_of_the_shorter_side():
    # Brightness grows from left to right: a crop's mean tells where it was taken.
    ramp = np.tile(np.arange(0, 200, dtype=np.uint8), (400, 1))
    means = [np.asarray(c).mean() for c in table1.ten_crops(Image.fromarray(ramp), (28, 28))]
    left, right, centre = means[0], means[1], means[4]
    assert left == pytest.approx(199 * 7 / 16, abs=1.5) and right == pytest.approx(199 * 9 / 16, abs=1.5)
    assert centre == pytest.approx(199 / 2, abs=1.5) and means[5:7] == pytest.approx([199 - left, 199 - right], abs=1.5)


def test_scores_of_ten_crops_are_the_mean_of_their_probabilities(classifier, tmp_path):
    image = picture(3)
    image.save(tmp_path / "a.png")
    crops = table1.ten_crops(image, (48, 48))
    expected = sum(classifier.logits(crop)[0].double().softmax(0) for crop in crops) / 10
    found = table1.class_scores(classifier, tmp_path / "a.png", ten_crop=True)
    assert torch.allclose(found.double(), expected, atol=1e-7)
    plain = table1.class_scores(classifier, tmp_path / "a.png")
    assert torch.allclose(plain.double(), classifier.logits(image)[0].double().softmax(0), atol=1e-7)


def ilsvrc_folder(classifier, folder):
    """Four photographs, named by what the network takes them for; the third is truncated, the fourth's class
    is not in the data's list."""
    photographs, boxes = folder / "val", folder / "bbox_val_v3" / "val"
    photographs.mkdir()
    boxes.mkdir(parents=True)
    known = []
    for n in range(1, 5):
        name = f"ILSVRC2012_val_{n:08d}"
        picture(n).save(photographs / f"{name}.JPEG", quality=100)
        wnid = classifier.predict(photographs / f"{name}.JPEG", top=1)[0].wnid
        known.append(wnid)
        (boxes / f"{name}.xml").write_text(BOX_XML.format(name=name, wnid=wnid if n < 4 else "n00000001"))
        if n == 3:
            truncate(photographs / f"{name}.JPEG")
    numbers = {classifier.labels.find(wnid): wnid for wnid in known}
    index = {str(n): [wnid, "a thing"] for n, wnid in numbers.items()}
    (folder / "imagenet_class_index.json").write_text(json.dumps(index))
    return folder


def test_table_1_with_ten_crops_counts_what_is_broken(lab, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(table1, "TABLE1", ("gradcam", "gradient"))
    lab.data["imagenet"] = ilsvrc_folder(classifier, tmp_path)
    plain = section_of("table1")(lab).tables[0]
    lab.ten_crop = True
    tables = section_of("table1")(lab).tables
    assert "ten crops" in tables[0].note and "the whole photograph" in plain.note
    for table in (plain, *tables):
        rows = {row.what: row for row in table.rows}
        assert all((row.n, row.left_out) == (2, 2) for row in rows.values())
        assert all(row.ours >= rows["Class alone"].ours for row in rows.values())
    # The photographs are named by what the whole of them is taken for.
    assert plain.rows[0].ours == 0
    cells = {path.stem for path in (lab.out / "cells").iterdir()}
    assert {"ilsvrc-classes", "ilsvrc-classes-ten-crop", "ilsvrc-gradcam-ten-crop"} <= cells
    expected = []
    for path in sorted((tmp_path / "val").iterdir())[:2]:
        best = table1.class_scores(classifier, path, ten_crop=True).argmax()
        expected.append(100.0 * (int(best) != classifier.predict(path, top=1)[0].index))
    assert tables[0].rows[0].ours == pytest.approx(np.mean(expected))


def fit_quickly(monkeypatch, epochs: int = 12, batch: int = 3, rate: float = 1e-2):
    """By default, enough steps for a network of three convolutions to tell red from blue."""
    tuning = finetuning.Tuning(epochs=epochs, batch=batch, trunk_rate=rate, head_rate=rate)
    monkeypatch.setattr(asker, "ON_CPU", tuning)
    monkeypatch.setattr(finetuning, "Tuning", lambda: tuning)


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_the_pointing_game_runs_on_the_published_layouts(lab, kind, request, monkeypatch):
    fit_quickly(monkeypatch)
    lab.data[kind] = request.getfixturevalue(f"{kind}_folder")
    lab.limit = 12
    monkeypatch.setattr(pointing, "METHODS", ("gradcam",))
    every, hard, reject = section_of("pointing")(lab).tables
    title = {"voc": "VOC 2007 test", "coco": "COCO val2014"}[kind]
    assert not every.substitute and every.heading == f"4.3, pointing game, all; {title}"
    assert "trained on the classes in 12 training photographs" in every.note
    rows = {row.what: row for row in every.rows}
    if kind == "voc":
        # Photographs 20..25, n % 3 = 2, 0, 1, 2, 0, 1: both, bottle, dog, ...
        assert (rows["Grad-CAM"].n, rows["Grad-CAM"].left_out) == (8, 0)
        assert {row.n for row in hard.rows} == {4}  # alone, a class is not hard
    else:
        # 20 lacks a segmentation, 22 is truncated, 26 has run lengths that do not fit: 21 23 24 25 remain.
        assert (rows["Grad-CAM"].n, rows["Grad-CAM"].left_out) == (5, 3)
        assert {row.n for row in hard.rows} == {2}
        assert reject.rows[0].published == "70.58 %"
    # The objects are off the centre, and what was trained finds them more often than not.
    assert rows["Grad-CAM"].ours > 50 and rows["centre of the photograph"].ours == 0
    assert all(0 <= row.ours <= 100 for row in reject.rows)
    found = {row.what: row.ours for row in reject.rows}
    on_score = {
        name.partition(", threshold")[0]: value for name, value in found.items() if "on the class's score" in name
    }
    assert set(on_score) == {"Grad-CAM", NAMES["centre"], NAMES["random"], NAMES["whole"]}
    # With one threshold no peak is right more often than one that always hits; off the centre, the centre never is.
    assert (
        max(on_score.values()) == on_score[NAMES["whole"]] and on_score[NAMES["centre"]] == found["reject everything"]
    )
    assert all(row.difference is not None for row in reject.rows[1:])


def test_chance_and_rejecting_everything_are_what_a_count_says():
    regions = torch.zeros(2, 40, 60, dtype=torch.bool)
    regions[0, 10, 10] = True
    near = [(y - 10) ** 2 + (x - 10) ** 2 <= 25 for y in range(40) for x in range(60)]
    chance, empty = chance_of_hit(regions, 5).tolist()
    assert chance == pytest.approx(sum(near) / 2400) and np.isnan(empty)
    top = {"random": [0.25, 0.0, 0.0], "gradcam": [1.0, 0.0, 0.0]}
    row = {"present": [True, False, False], "scores": [3.0, 1.0, 2.0], "top": top}
    # Whichever half a photograph is in, the threshold between 2 and 3 is right for all of it.
    assert pointing.with_reject([row, row], "whole", "scores").tolist() == [1.0] * 6
    assert pointing.with_reject([row, row], "random", "scores").tolist() == [0.25, 1, 1] * 2
    cell = {"rows": [{**row, "hits": {}, "strengths": {"gradcam": [3.0, 1.0, 2.0]}}] * 2, "left_out": 0}
    cell["rows"] = [
        {**r, "top": {**r["top"], "gradcam": [1.0, 0, 0]}, "strengths": {"gradcam": [3.0, 1.0, 2.0]}}
        for r in cell["rows"]
    ]
    rows = {r.what: r for r in pointing.rejecting(Lab(None), cell, {})}
    assert rows["reject everything"].ours == pytest.approx(200 / 3) and rows["Grad-CAM"].ours == 100
    assert rows["reject everything"].difference == pytest.approx(-100 / 3)


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_table_1s_metric_runs_on_boxes_with_the_class_given(lab, kind, request, monkeypatch):
    fit_quickly(monkeypatch)
    lab.data[kind], lab.limit = request.getfixturevalue(f"{kind}_folder"), 12
    (table,) = section_of("table1")(lab).tables
    assert table.title == "Table 1, box localisation, class given" and table.better == "low"
    rows = {row.what: row for row in table.rows}
    assert rows["Grad-CAM"].n == {"voc": 8, "coco": 3}[kind]  # a crowd has no box of its own
    assert rows["the whole photograph"].ours == 100  # the things are small
    assert rows["Grad-CAM"].ours <= 100 and rows["the whole photograph"].difference is not None
    assert "Grad-CAM 56.51" in table.elsewhere and not any(row.published for row in table.rows)


def test_a_box_is_wrong_below_an_overlap_of_a_half_and_the_centred_box_is_chosen_on_the_others():
    half = [0.25, 0.25, 0.75, 0.75]
    assert boxes.wrong(half, [(0.25, 0.25, 0.75, 0.75)]) == 0 and boxes.wrong(half, [(0.0, 0.0, 0.3, 0.3)]) == 100
    assert boxes.wrong(half, [(0.0, 0.0, 0.3, 0.3), (0.3, 0.3, 0.8, 0.8)]) == 0  # any of them
    assert boxes.wrong([np.nan] * 4, [(0.0, 0.0, 1.0, 1.0)]) == 100
    large, small = [[(0.0, 0.0, 1.0, 1.0)]], [[(0.3, 0.3, 0.7, 0.7)]]
    first, second = boxes.best_sides([large, small, large, small])
    assert boxes.wrong(centred_box(first), small[0]) == 0 and boxes.wrong(centred_box(second), large[0]) == 0


def test_a_copy_of_coco_with_a_division_of_its_own_and_boxes_alone_is_read(lab, coco_folder):
    notes = coco_folder / "annotations" / "instances_train2014.json"
    record = json.loads(notes.read_text())
    for each in record["annotations"]:
        each.pop("segmentation")
        each["iscrowd"] = 0
    notes.write_text(json.dumps(record))
    (coco_folder / "splits").mkdir()
    (coco_folder / "splits" / "train_image_ids.txt").write_text("".join(f"{n}\n" for n in range(8)))
    (coco_folder / "splits" / "val_image_ids.txt").write_text("".join(f"{n}\n" for n in range(8, 12)))
    lab.data["coco"] = coco_folder
    found = coco_annotations(lab, 100)
    assert found.title == "COCO train2014, boxes" and len(found.items) == 4 and found.left_out == 0
    assert len(found.training(100)) == 8
    for item in found.items:
        for name, (area, region) in item.regions().items():
            assert area == pytest.approx(float(region.double().mean())) and len(item.boxes[name]) == 1


def test_without_a_training_split_imagenets_own_classes_are_asked(lab, coco_folder):
    (coco_folder / "annotations" / "instances_train2014.json").unlink()
    lab.data["coco"] = coco_folder
    every = section_of("pointing")(lab).tables[0]
    assert "ImageNet's classifier, 2 classes by groups" in every.note
    assert "looked for" in every.note and every.rows[0].n == 5


def test_5_1_and_5_3_run_on_vocs_val_split(lab, voc_folder, monkeypatch):
    fit_quickly(monkeypatch)
    lab.data["voc"], lab.limit = voc_folder, 12
    section = section_of("discrimination")(lab)
    (table,) = section.tables
    assert table.heading == "5.1, class discrimination; substitute: VOC 2007 val, a rule in the place of people"
    rows = {row.what: row for row in table.rows}
    # Photographs 20 and 23 have both categories: a map for each of these.
    assert (rows["Grad-CAM"].n, rows["a guess"].ours) == (4, 0.5)
    assert not any(row.published for row in rows.values()) and "61.23 %" in table.elsewhere
    assert 0 <= rows["Grad-CAM"].ours <= 1 and rows["Grad-CAM"].difference is not None
    (ranked,) = section_of("faithfulness")(lab).tables
    assert ranked.heading == "5.3, faithfulness; VOC 2007 val" and not ranked.substitute
    assert "trained on the classes in 12 training photographs" in ranked.note
    assert ranked.rows[1].n == 4 and all(-1 <= row.ours <= 1 for row in ranked.rows)
    assert len(list((lab.out / "runs").iterdir())) == 1  # trained once for both


def test_5_1_without_a_photograph_of_two_categories_is_one_line(lab, voc_folder, monkeypatch):
    fit_quickly(monkeypatch, 1)
    (voc_folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "val.txt").write_text("000021\n")
    lab.data["voc"] = voc_folder
    with pytest.raises(UserError, match="no photograph of VOC 2007 val has exactly two categories"):
        section_of("discrimination")(lab)


def test_maps_are_told_apart_where_regions_are_a_classs_own():
    maps = torch.zeros(2, 4, 4)
    maps[0, :, :2], maps[1, :, 1] = 1.0, -1.0
    regions = torch.zeros(2, 4, 4, dtype=torch.bool)
    regions[0, :, :2], regions[1, :, 1:] = True, True  # own: columns 0; 2 and 3
    assert told_apart(maps, regions).tolist() == [1.0, 0.5]
    assert told_apart(maps.flip(0), regions).tolist() == [0.5, 0.0]
    assert told_apart(maps, regions[:1].expand(2, -1, -1)).isnan().all()
    with pytest.raises(UserError, match="1 maps and 2 regions"):
        told_apart(maps[:1], regions)


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_appendix_b_measures_table_3s_error_on_boxes_with_the_class_given(lab, kind, request, monkeypatch):
    fit_quickly(monkeypatch)
    lab.data[kind], lab.limit = request.getfixturevalue(f"{kind}_folder"), 12
    (table,) = section_of("appendix_b")(lab).tables
    assert kind.upper() in table.title and "Grad-CAM 59.65" in table.elsewhere and table.better == "low"
    rows = {row.what: row for row in table.rows}
    boxed = {row.what: row for row in section_of("table1")(lab).tables[0].rows}
    assert rows["Grad-CAM"].n == boxed["Grad-CAM"].n and rows["Grad-CAM"].ours == boxed["Grad-CAM"].ours
    assert rows["Grad-CAM before its ReLU"].difference is not None and not any(row.published for row in table.rows)


def test_a_map_before_its_relu_has_a_box_of_its_own():
    """From zero on its box would be that of Grad-CAM, and the ReLU would make no difference by construction."""
    same = nn.Conv2d(2, 2, 1, bias=False)
    network = nn.Sequential(same, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1, bias=False))
    same.weight.data = torch.eye(2)[:, :, None, None]
    network[3].weight.data = torch.tensor([[1.0, -1.0]])
    image = torch.zeros(1, 2, 8, 8)
    image[0, 0, 1:3, 1:3], image[0, 1, :, 4:] = 1.0, 1.0  # for the class top left, against it the right half
    maps = appendix_b.explained(HookedModel(network, "0"), image, [0], ("gradcam", "no_relu"))
    box, other = (segment_boxes(maps[name][:, 0], (8, 8))[0].tolist() for name in ("gradcam", "no_relu"))
    assert box == [0.125, 0.125, 0.375, 0.375] and other == [0, 0, 0.5, 1]


def test_appendix_b_measures_table_3_on_ilsvrcs_layout(lab, classifier, tmp_path):
    lab.data["imagenet"] = ilsvrc_folder(classifier, tmp_path)
    changed, by_layer = section_of("appendix_b")(lab).tables
    assert not changed.substitute and changed.heading.endswith("ILSVRC val") and changed.measure == "top-1 error (%)"
    rows = {row.what: row for row in changed.rows}
    assert rows["Grad-CAM"].published == "59.65" and rows["Grad-CAM before its ReLU"].published == "74.98"
    assert all((row.n, row.left_out) == (2, 2) for row in (*changed.rows, *by_layer.rows))
    # The twin: the box of each photograph's own class.
    errors = []
    for item in ilsvrc.read_validation(tmp_path).items[:2]:
        heatmap = classifier.explain(item.path, classifier.predict(item.path, top=1)[0].index).heatmaps[:, 0]
        overlap = box_overlap(segment_boxes(heatmap), item.boxes(item.classes[0]))
        errors.append(100.0 * (float(overlap.nan_to_num(0).amax()) < 0.5))
    assert rows["Grad-CAM"].ours == pytest.approx(np.mean(errors))


def test_googlenet_by_name_is_fine_tuned_on_a_data_sets_classes():
    known = classification.load("googlenet", random_weights=True)
    tuned, head = finetuning.with_classes(known.network.module, 80)
    assert tuned.fc is head and tuned(known.network.blank()).shape == (1, 80)
    assert "GoogLeNet" in pointing.ELSEWHERE


def train_quickly(monkeypatch):
    fit_quickly(monkeypatch, epochs=25, batch=6, rate=2e-2)
    training = segmenter.Training(epochs=6, batch=3, stride=4, trunk_rate=1e-2, head_rate=1e-2, dropout=0.0)
    monkeypatch.setattr(segment_voc, "ON_CPU", training)


def test_figure_4_trains_on_vocs_labels_and_is_measured_on_its_masks(lab, voc_folder, monkeypatch):
    pytest.importorskip("pydensecrf.densecrf")
    train_quickly(monkeypatch)
    root = voc_folder / "VOCdevkit" / "VOC2007"
    truncate(root / "JPEGImages" / "000024.jpg")
    with Image.open(root / "SegmentationClass" / "000025.png") as mask:
        mask.convert("RGB").save(root / "SegmentationClass" / "000025.png")
    truncate(root / "JPEGImages" / "000003.jpg")  # one of the training split
    lab.data["voc"], lab.limit = voc_folder, 12
    section = section_of("fig4")(lab)
    alone, trained = section.tables
    assert trained.heading == "Figure 4, weakly supervised segmentation; VOC 2007 val"
    assert [row.published for row in trained.rows] == ["49.6", "", "44.6", ""]
    ground = trained.rows[-1]
    assert ground.what == "background everywhere" and ground.difference == pytest.approx(
        ground.ours - trained.rows[0].ours
    )
    assert "Grad-CAM is ahead of" in alone.verdict and "a centred box" in alone.verdict
    assert "last layer alone is trained" in trained.note and len(section.pictures) == 1
    assert all((row.n, row.left_out) == (4, 2) for row in (*alone.rows, *trained.rows))
    # Everything called background would be near 30 %; training goes past the seeds, the CRF past the grid.
    assert alone.rows[0].ours > 40 and trained.rows[0].ours > max(75, trained.rows[1].ours)
    # The tiny network ends in average pooling and one linear layer.
    assert trained.rows[2].ours == trained.rows[0].ours and "the same seeds" in trained.rows[2].note
    before = {path: path.stat().st_mtime_ns for path in (lab.out / "runs").rglob("*")}
    assert section_of("fig4")(lab) == section
    assert before == {path: path.stat().st_mtime_ns for path in (lab.out / "runs").rglob("*")}


def test_without_the_crf_the_seeds_are_still_measured(lab, voc_folder, monkeypatch):
    fit_quickly(monkeypatch, 1)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    lab.data["voc"] = voc_folder
    section = section_of("fig4")(lab)
    assert len(section.tables) == 1 and "pip install 'saywhy[segmentation]'" in section.notes[-1]


def test_a_pooled_head_gives_cam_to_a_network_that_has_none(voc_folder, tmp_path, monkeypatch):
    """A hidden layer behind the pooling: Grad-CAM is defined, CAM is not."""

    class Hidden(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 1000))

    fit_quickly(monkeypatch, 1)
    known = classification.load(seeded(Hidden, 1), preprocessing=Preprocessing((48, 48), (0.5,) * 3, (0.5,) * 3))
    lab = Lab(tmp_path / "report", {"voc": voc_folder}, 6, True, "hidden", shared={"classifier": known})
    own, _ = segment_voc.voc_classifier(lab)
    pooled, _ = segment_voc.voc_classifier(lab, pooled=True)
    assert (finetuning.has_cam(own), finetuning.has_cam(pooled)) == (False, True)
    assert len(own.labels) == len(pooled.labels) == 20
    image = own.images(scene(1)[0])
    assert not torch.equal(method_maps(own, image, [11], "gradcam"), method_maps(pooled, image, [11], "cam"))


def test_a_last_layer_alone_is_trained_on_what_it_reads_and_the_rest_stays(voc_folder, lab, tmp_path, monkeypatch):
    """With no rate for the trunk every photograph is looked at once, and nothing but the new layer changes."""
    images = voc_training(voc_folder / "VOCdevkit" / "VOC2007", "train", 12)
    base, looks, read = lab.plain_classifier, [], finetuning.layer_inputs
    before = {name: value.clone() for name, value in base.network.module.state_dict().items()}
    monkeypatch.setattr(finetuning, "layer_inputs", lambda *given: (looks.append(1), read(*given))[1])
    tuning = finetuning.Tuning(epochs=200, batch=4, trunk_rate=0.0, head_rate=0.05)
    tuned = finetuning.fine_tuned(base, voc.CLASSES, images, tmp_path / "runs" / "last", tuning=tuning)
    assert len(looks) == len(images) == 12
    after = tuned.network.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("fc."))
    logits = torch.cat([tuned.logits(item.path) for item in images])
    truth = torch.tensor([[c in item.classes for c in range(20)] for item in images])
    assert ((logits > 0) == truth).double().mean() > 0.95 > (~truth).double().mean()


def test_a_classifier_is_trained_once_and_again_for_other_photographs(lab, voc_folder, monkeypatch, capsys):
    fit_quickly(monkeypatch, 2)
    images = voc_training(voc_folder / "VOCdevkit" / "VOC2007", "trainval", 6)
    assert len(images) == 6 and images[1].classes <= {4, 11}
    truncate(images[0].path)
    one = finetuning.fine_tuned(lab.classifier, voc.CLASSES, images, lab.out / "runs" / "voc")
    assert "1 photographs could not be trained on" in capsys.readouterr().err
    runs = sorted((lab.out / "runs").iterdir())
    two = finetuning.fine_tuned(lab.classifier, voc.CLASSES, images, lab.out / "runs" / "voc")
    for a, b in zip(one.network.module.parameters(), two.network.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted((lab.out / "runs").iterdir()) == runs
    finetuning.fine_tuned(lab.classifier, voc.CLASSES, images[1:], lab.out / "runs" / "voc")
    assert len(list((lab.out / "runs").iterdir())) == len(runs) + 1
    base = lab.classifier.network.module
    assert base.fc.out_features == 1000 and not base.training


def test_training_leaves_out_what_it_is_measured_on(voc_folder):
    root = voc_folder / "VOCdevkit" / "VOC2007"
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("000001\n000020\n")
    names = [item.path.stem for item in voc_training(root, "train", 100)]
    assert "000001" not in names and len(names) == 11


@pytest.mark.parametrize("kind", ["voc", "coco", "imagenet"])
def test_a_folder_without_the_layout_says_what_was_looked_for(lab, tmp_path, kind):
    lab.data[kind] = tmp_path
    with pytest.raises(UserError, match="look(ed|ing) (for|in) .*"):
        section_of("table1" if kind == "imagenet" else "pointing")(lab)
