"""ILSVRC's validation set on a fixture in its published layouts."""

import json

import pytest
from PIL import Image

from common.errors import UserError
from data.readers import ilsvrc

BOX_XML = """\
<annotation>
	<folder>val</folder>
	<filename>{name}</filename>
	<source>
		<database>ILSVRC_2012</database>
	</source>
	<size>
		<width>500</width>
		<height>375</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>{wnid}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>111</xmin>
			<ymin>107</ymin>
			<xmax>441</xmax>
			<ymax>375</ymax>
		</bndbox>
	</object>
	<object>
		<name>{wnid}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>0</xmin>
			<ymin>0</ymin>
			<xmax>500</xmax>
			<ymax>75</ymax>
		</bndbox>
	</object>
</annotation>
"""


def names(count):
    return [f"ILSVRC2012_val_{n:08d}" for n in range(1, count + 1)]


@pytest.fixture(params=["flat", "by class", "kaggle"])
def folder(request, tmp_path):
    photographs, boxes = {
        "flat": ("ILSVRC2012_img_val", "bbox_val_v3/val"),
        "by class": ("val", "ILSVRC2012_bbox_val_v3/val"),
        "kaggle": ("ILSVRC/Data/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val"),
    }[request.param]
    (tmp_path / boxes).mkdir(parents=True)
    for name, wnid in zip(names(3), ("n01751748", "n09193705", "n01751748"), strict=True):
        place = tmp_path / photographs / (wnid if request.param == "by class" else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (500, 375)).save(place / f"{name}.JPEG")
        (tmp_path / boxes / f"{name}.xml").write_text(BOX_XML.format(name=name, wnid=wnid))
    return tmp_path


def test_photographs_come_by_number_with_classes_and_boxes(folder):
    found = ilsvrc.read_validation(folder)
    assert [item.name for item in found.items] == names(3) and not found.problems
    first = found.items[0]
    assert first.classes == ("n01751748",) and first.path.is_file()
    assert first.boxes("n01751748") == [(111 / 500, 107 / 375, 441 / 500, 1.0), (0.0, 0.0, 1.0, 75 / 375)]
    assert len(ilsvrc.read_validation(folder, limit=2).items) == 2


def test_broken_entries_are_noted_and_left_out(folder):
    box = next(folder.rglob(f"{names(3)[1]}.xml"))
    box.write_text(box.read_text()[:300])
    next(folder.rglob(f"{names(3)[2]}.JPEG")).write_bytes(b"not a photograph")
    found = ilsvrc.read_validation(folder)
    assert [item.name for item in found.items] == names(1)
    assert "broken XML" in found.problems[0] and "not an image" in found.problems[1]


def test_missing_annotations_and_odd_classes_are_noted(folder):
    next(folder.rglob(f"{names(3)[0]}.xml")).unlink()
    odd = next(folder.rglob(f"{names(3)[2]}.xml"))
    odd.write_text(odd.read_text().replace("n01751748", "sea snake"))
    found = ilsvrc.read_validation(folder)
    assert [item.name for item in found.items] == names(3)[1:2]
    assert "is missing" in found.problems[0] and "expected one WordNet id" in found.problems[1]


def test_a_folder_without_the_layout_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="looked for .*ILSVRC2012_img_val.*CLS-LOC"):
        ilsvrc.read_validation(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="box files.*bbox_val_v3"):
        ilsvrc.read_validation(tmp_path)
    (tmp_path / "bbox" / "val").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no ILSVRC2012_val_\*\.JPEG"):
        ilsvrc.read_validation(tmp_path)


def test_class_files_number_the_wordnet_ids(tmp_path):
    assert ilsvrc.class_indices(tmp_path) is None
    (tmp_path / "imagenet_class_index.json").write_text(
        json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})
    )
    assert ilsvrc.class_indices(tmp_path) == {"n01440764": 0, "n01443537": 1}
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01443537 goldfish, Carassius auratus\nn01440764 tench\n")
    assert ilsvrc.class_indices(tmp_path) == {"n01443537": 0, "n01440764": 1}


@pytest.mark.parametrize("text", ["", "tench\n", "{}"])
def test_what_is_no_class_file_is_refused(tmp_path, text):
    path = tmp_path / "LOC_synset_mapping.txt"
    path.write_text(text)
    with pytest.raises(UserError, match="LOC_synset_mapping"):
        ilsvrc.read_class_indices(path)
