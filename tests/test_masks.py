"""COCO's segmentations, against pycocotools and literals."""

import json

import numpy as np
import pytest

from common.errors import UserError
from data.readers import coco, masks

cocomask = pytest.importorskip("pycocotools.mask")


def blobs(seed, size=(37, 53)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    centre, radius = rng.uniform(5, 30, 2), rng.uniform(4, 20)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def runs_of(mask):
    """Run lengths by walking over the columns."""
    counts, value = [0], False
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_literal_run_lengths_go_column_by_column():
    found = masks.segmentation_mask({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert found.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("seed", range(6))
def test_compressed_and_plain_run_lengths_give_pycocotools_masks(seed):
    mask = blobs(seed) ^ (np.random.default_rng(seed).random((37, 53)) < 0.02 * seed)
    packed = cocomask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert masks.unpack_runs(packed["counts"]) == runs_of(mask)
    text = {"size": [37, 53], "counts": packed["counts"].decode()}
    plain = {"size": [37, 53], "counts": runs_of(mask)}
    for segmentation in (text, plain, packed):
        assert np.array_equal(masks.segmentation_mask(segmentation, (37, 53)), mask)


def test_a_literal_polygon_covers_the_pixels_whose_centre_is_inside():
    found = masks.segmentation_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5))
    expected = np.zeros((4, 5), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_agree_with_pycocotools_but_for_edges(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 15))
    radii = rng.uniform(30, 90, 15)
    polygon = np.stack([100 + radii * np.cos(angles), 100 + radii * np.sin(angles)], 1).flatten().tolist()
    second = [5.0, 5.0, 60.5, 8.0, 30.0, 40.0]
    found = masks.segmentation_mask([polygon, second], (200, 200))
    coded = cocomask.merge(cocomask.frPyObjects([polygon, second], 200, 200))
    theirs = cocomask.decode(coded).astype(bool)
    assert (found & theirs).sum() / (found | theirs).sum() > 0.97


def test_instances_are_read_by_file_name(tmp_path):
    path = tmp_path / "instances_val2014.json"
    record = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 5, "height": 4},
            {"id": 8, "file_name": "b.jpg", "width": 5, "height": 4},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
        "annotations": [
            {
                "id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "area": 6.0, "bbox": [1, 1, 3, 2],
                "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]],
            },
            {
                "id": 2, "image_id": 7, "category_id": 18, "iscrowd": 1, "area": 20, "bbox": [0, 0, 5, 4],
                "segmentation": {"size": [4, 5], "counts": [0, 20]},
            },
        ],
    }  # fmt: skip
    path.write_text(json.dumps(record))
    found, problems = masks.read_masks(path)
    assert not problems
    assert list(found) == ["a.jpg", "b.jpg"] and found["b.jpg"] == []
    one, crowd = found["a.jpg"]
    assert (one.name, one.crowd, masks.mask_of(one).sum()) == ("dog", False, 6)
    assert crowd.crowd and masks.mask_of(crowd).all()
    record["annotations"][0].pop("segmentation")
    record["annotations"].append({"image_id": 99, "category_id": 18, "segmentation": []})
    path.write_text(json.dumps(record))
    found, problems = masks.read_masks(path)
    assert list(found) == ["b.jpg"]  # what else is in a.jpg is not known
    assert list(problems) == ["a.jpg", "annotations[2]"] and "has no 'segmentation'" in problems["a.jpg"]
    record["images"].pop()
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="has no 'segmentation'"):
        masks.read_masks(path)


def test_a_copy_of_coco_without_instances_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"looked for .*instances_val2014\.json with .*val2014"):
        coco.find_instances(tmp_path, "val")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    notes = tmp_path / "annotations" / "instances_val2017.json"
    notes.write_text("{}")
    assert coco.find_instances(tmp_path, "val") == (notes, tmp_path / "images" / "val2017")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [2, 2], "counts": [1, 2]}, "cover 3 pixels of 4 x 5"),
        ({"size": [4, 5], "counts": [1, 2]}, "cover 3 pixels of 4 x 5"),
        ({"size": [4, 5], "counts": "\x7f"}, "character"),
        ({"size": [4, 5], "counts": "o"}, "end within a number"),
        ([[1, 2, 3, 4]], "4 coordinates"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 coordinates"),
        (7, "not int"),
    ],
)
def test_what_is_no_segmentation_is_refused(segmentation, message):
    size = (4, 5)
    if isinstance(segmentation, dict) and segmentation["size"] != [4, 5]:
        message = "photograph is of"
    with pytest.raises(UserError, match=message):
        masks.segmentation_mask(segmentation, size)


@pytest.mark.parametrize("seed", range(4))
def test_a_masks_boxes_cover_it_exactly_and_once(seed):
    mask = blobs(seed) ^ (np.random.default_rng(seed).random((37, 53)) < 0.02 * seed)
    covered = np.zeros(mask.shape, int)
    for box in masks.mask_boxes(mask):
        left, right = round(box.left * 53), round(box.right * 53)
        covered[round(box.top * 37) : round(box.bottom * 37), left:right] += 1
    assert np.array_equal(covered, mask.astype(int))
    assert masks.mask_boxes(np.zeros((3, 4), bool)) == []
