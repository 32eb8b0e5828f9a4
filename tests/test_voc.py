"""PASCAL VOC on a fixture in its published layout: XML, image sets and PNGs with a palette."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.metrics.localisation import hard_to_point
from data.readers import voc

XML = """\
<annotation>
	<folder>VOC2012</folder>
	<filename>2007_000027.jpg</filename>
	<source>
		<database>The VOC2007 Database</database>
		<annotation>PASCAL VOC2007</annotation>
		<image>flickr</image>
	</source>
	<size>
		<width>486</width>
		<height>500</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>person</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>174</xmin>
			<ymin>101</ymin>
			<xmax>349</xmax>
			<ymax>351</ymax>
		</bndbox>
		<part>
			<name>head</name>
			<bndbox>
				<xmin>169</xmin>
				<ymin>104</ymin>
				<xmax>209</xmax>
				<ymax>146</ymax>
			</bndbox>
		</part>
	</object>
	<object>
		<name>dog</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>1</difficult>
		<bndbox>
			<xmin>1</xmin>
			<ymin>1</ymin>
			<xmax>486</xmax>
			<ymax>500</ymax>
		</bndbox>
	</object>
</annotation>
"""


def palette() -> list[int]:
    """VOC's colour map: the bits of a number, three at a time, from the highest bit of each colour down."""
    colours = []
    for number in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        colours += rgb
    return colours


@pytest.fixture(params=["", "VOCdevkit/VOC2012"])
def folder(request, tmp_path):
    root = tmp_path / request.param
    for place in ("Annotations", "JPEGImages", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (root / place).mkdir(parents=True)
    for name in ("2007_000027", "2007_000032"):
        (root / "Annotations" / f"{name}.xml").write_text(XML)
        Image.new("RGB", (486, 500)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets/Main/val.txt").write_text("2007_000027\n2007_000032\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000032\n")
    labels = np.zeros((500, 486), np.uint8)
    labels[100:200, 50:60], labels[99, 50:60] = 15, 255
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette(palette())
    mask.save(root / "SegmentationClass" / "2007_000032.png")
    return tmp_path


def test_objects_and_not_their_parts_are_read(folder):
    found = voc.read(folder)
    assert [item.name for item in found.items] == ["2007_000027", "2007_000032"]
    person, dog = found.items[0].instances
    # VOC counts pixels from 1, and a box includes its last one.
    assert (person.name, person.box, person.difficult) == (
        "person",
        (173 / 486, 100 / 500, 349 / 486, 351 / 500),
        False,
    )
    assert (dog.name, dog.box, dog.difficult) == ("dog", (0.0, 0.0, 1.0, 1.0), True)
    assert len(voc.read(folder, limit=1).items) == 1


def test_a_small_class_beside_another_is_hard_to_point_at(folder):
    item = voc.read(folder).items[0]
    areas = [sum((r - left) * (b - t) for left, t, r, b in item.boxes(name)) for name in item.classes]
    assert item.classes == ("person", "dog") and hard_to_point(torch.tensor(areas)).tolist() == [True, False]


def test_segmentations_are_the_palettes_numbers(folder):
    (item,) = voc.read(folder, task="Segmentation").items
    labels = voc.read_mask(item.mask)
    assert labels.shape == (500, 486) and set(np.unique(labels)) == {0, 15, 255}
    assert (labels == 15).sum() == 1000 and voc.CLASSES[15 - 1] == "person"
    with Image.open(item.mask) as image:
        assert image.convert("RGB").getpixel((55, 150)) == (192, 128, 128)  # VOC's colour of a person


def test_a_mask_that_lost_its_palette_is_refused(folder, tmp_path):
    (item,) = voc.read(folder, task="Segmentation").items
    with Image.open(item.mask) as image:
        image.convert("RGB").save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match="not a PNG with a palette"):
        voc.read_mask(tmp_path / "rgb.png")
    Image.fromarray(np.full((2, 2), 77, np.uint8)).save(tmp_path / "odd.png")
    with pytest.raises(UserError, match="holds the number 77"):
        voc.read_mask(tmp_path / "odd.png")
    with pytest.raises(UserError, match="cannot read the segmentation"):
        voc.read_mask(tmp_path / "absent.png")


def test_broken_entries_are_noted_and_left_out(folder):
    root = voc.find_root(folder)
    path = root / "Annotations" / "2007_000027.xml"
    path.write_text(XML.replace("<xmax>349</xmax>", "<xmax>wide</xmax>"))
    found = voc.read(folder)
    assert [item.name for item in found.items] == ["2007_000032"]
    assert "<xmax> is 'wide'; expected a number" in found.problems[0]
    path.write_text(XML.replace("<name>dog</name>", "<name>hound</name>"))
    assert "'hound' is not a class of VOC" in voc.read(folder).problems[0]
    (root / "SegmentationClass" / "2007_000032.png").unlink()
    with pytest.raises(UserError, match="2007_000032.png' is missing"):
        voc.read(folder, task="Segmentation")


def test_a_folder_without_the_layout_says_what_was_looked_for(tmp_path, folder):
    with pytest.raises(UserError, match="looked in .*VOCdevkit/VOC2007"):
        voc.read(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no list .*test.txt.*the splits there are: val"):
        voc.read(folder, "test")


def test_a_split_counts_when_its_photographs_are_annotated(folder):
    root = voc.find_root(folder)
    (root / "ImageSets/Main/test.txt").write_text("2008_000001\n")
    (root / "ImageSets/Main/empty.txt").write_text("")
    found = [voc.has_split(root, split) for split in ("val", "test", "empty", "absent")]
    assert found == [True, False, False, False]


def test_of_two_years_the_first_asked_for_is_found(tmp_path):
    for year in ("2007", "2012"):
        for place in ("Annotations", "JPEGImages"):
            (tmp_path / "VOCdevkit" / f"VOC{year}" / place).mkdir(parents=True)
    assert voc.find_root(tmp_path).name == "VOC2012"
    assert voc.find_root(tmp_path, ("2007", "2012")).name == "VOC2007"
