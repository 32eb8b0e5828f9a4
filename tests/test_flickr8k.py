import json

import flickr
import pytest

from common.errors import UserError
from data.readers import coco, entities, flickr8k, flickr30k, karpathy
from data.records import Box, CaptionedText, Instance, held_out


@pytest.fixture
def copy(tmp_path):
    return flickr.make(tmp_path / "flickr8k")


def _token_file(folder):
    return folder / "Flickr8k_text" / "Flickr8k.token.txt"


def test_a_split_is_read_in_its_own_order_with_five_captions_an_image(copy):
    images = flickr8k.read(copy, "dev")
    assert [image.name for image in images] == ["1012_000c.jpg", "1013_000d.jpg", "1014_000e.jpg", "1015_000f.jpg"]
    assert all(len(image.captions) == 5 and image.path.is_file() for image in images)
    assert images[0].tokens[1] == ["the", images[0].tokens[1][1], "square"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1000_0000.jpg A dog", "expected '<image>#<number><TAB><caption>'"),
        ("1000_0000.jpg#x\tA dog", "expected '<image>#<number><TAB><caption>'"),
        ("1000_0000.jpg#7\t  . ", "the caption of '1000_0000.jpg' is empty"),
        ("1000_0000.jpg#7\t" + "word " * 2000, "a caption of 2000 words"),
    ],
)
def test_a_broken_caption_line_is_named_by_file_and_line(copy, line, message):
    path = _token_file(copy)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="Flickr8k.token.txt:81: ") as caught:
        flickr8k.read(copy, "train")
    assert message in str(caught.value)


def test_a_caption_file_that_is_not_utf8_is_named_with_the_line(copy):
    path = _token_file(copy)
    path.write_bytes(path.read_bytes() + b"1000_0000.jpg#7\tcaf\xe9\n")
    with pytest.raises(UserError, match="token.txt:81: not UTF-8"):
        flickr8k.read(copy, "train")


def test_an_image_listed_but_absent_is_named_with_its_line(copy):
    (copy / "Flicker8k_Dataset" / "1002_0002.jpg").unlink()
    with pytest.raises(UserError, match="trainImages.txt:3: image '1002_0002.jpg' is listed but is not in"):
        flickr8k.read(copy, "train")
    assert len(flickr8k.read(copy, "train", check_images=False)) == 12


def test_an_image_without_captions_or_listed_twice_is_named(copy):
    listing = copy / "Flickr8k_text" / "Flickr_8k.trainImages.txt"
    text = listing.read_text()
    listing.write_text(text + "9999_a.jpg\n")
    with pytest.raises(UserError, match="trainImages.txt:13: image '9999_a.jpg' has no caption"):
        flickr8k.read(copy, "train")
    listing.write_text(text + "1001_0001.jpg\n")
    with pytest.raises(UserError, match="trainImages.txt:13: image '1001_0001.jpg' is listed twice, first on line 2"):
        flickr8k.read(copy, "train")


def test_missing_files_and_unknown_splits_say_what_is_allowed(tmp_path, copy):
    with pytest.raises(UserError, match="Flickr8k.token.txt' is missing"):
        flickr8k.read(tmp_path / "nothing", "train")
    with pytest.raises(UserError, match="testImages.txt' is missing"):
        flickr8k.read(copy, "test")
    with pytest.raises(UserError, match="no split 'val' in Flickr8k; choose from train, dev, test"):
        flickr8k.read(copy, "val")


XML = """<annotation><filename>1.jpg</filename><size><width>200</width><height>100</height></size>
<object><name>7</name><name>8</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object>
<object><name>7</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object>
<object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"""


@pytest.fixture
def grounded(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text(XML)
    (tmp_path / "Sentences" / "1.txt").write_text(
        "[/EN#7/people The man 's dog] , in [/EN#8/clothing/people a hat of straw] , "
        "sees [/EN#0/notvisual it] .\n"
        "A day at [/EN#9/scene the beach]\n"
    )
    return tmp_path


def test_phrases_have_places_in_the_tokens_and_boxes_as_shares_of_the_images_size(grounded):
    first, second = entities.read(grounded, "1_abc.jpg")
    assert first.tokens == tuple(["the", "man", "'s", "dog", "in", "a", "hat", "of", "straw", "sees", "it"])
    dog, hat, it = first.phrases
    assert (dog.start, dog.stop, first.tokens[dog.head]) == (0, 4, "dog")
    assert dog.boxes == ((0.1, 0.1, 0.6, 0.6), (0.0, 0.0, 1.0, 1.0))
    assert hat.kinds == ("clothing", "people") and first.tokens[hat.head] == "hat"
    assert it.kind == entities.NOT_VISUAL and it.boxes == ()
    assert second.phrases[0].boxes == () and second.text == "A day at the beach"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<width>200</width>", "<width>0</width>", "<size> is 0 x 100"),
        ("<width>200</width>", "<width>wide</width>", "'wide'; expected a number"),
        ("</annotation>", "", "1.xml:4: broken XML"),
        ("<xmax>120</xmax>", "<xmax>2</xmax>", "a box ends before it starts"),
    ],
)
def test_broken_annotations_name_the_file(grounded, old, new, message):
    path = grounded / "Annotations" / "1.xml"
    path.write_text(XML.replace(old, new))
    with pytest.raises(UserError) as caught:
        entities.read(grounded, "1.jpg")
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_a_broken_phrase_names_file_and_line(grounded):
    path = grounded / "Sentences" / "1.txt"
    path.write_text("A day .\n[/EN#7/people The man runs .\n")
    with pytest.raises(UserError, match="1.txt:2: broken phrase mark"):
        entities.read(grounded, "1.jpg")


COCO = {
    "images": [
        {"id": 5, "file_name": "b.jpg", "width": 200, "height": 100},
        {"id": 3, "file_name": "a.jpg", "width": 10, "height": 10},
    ],
    "annotations": [
        {"image_id": 5, "category_id": 2, "bbox": [20, 10, 100, 50], "iscrowd": 1, "caption": " A dog . "}
    ],
    "categories": [{"id": 2, "name": "dog"}],
}  # fmt: skip


def test_coco_captions_and_instances_are_read_by_image(tmp_path):
    path = tmp_path / "annotations" / "captions_train2014.json"
    path.parent.mkdir()
    path.write_text(json.dumps(COCO))
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2014" / "b.jpg").write_bytes(b"")
    (image,) = coco.read_captions(path)
    assert image.name == "b.jpg" and image.captions == ("A dog .",)
    found = coco.read_instances(path)
    assert found == {"b.jpg": [Instance("dog", (0.1, 0.1, 0.6, 0.6), True, size=(100, 200))], "a.jpg": []}
    (tmp_path / "train2014" / "b.jpg").unlink()
    with pytest.raises(UserError, match="image 5 \\('b.jpg'\\) is listed but is not in"):
        coco.read_captions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [20, 10, 100]}, "has the box"),
        ({"bbox": ["wide", 10, 100, 50]}, "has the box"),
        ({"bbox": [20, 10, -5, 50]}, "a box ends before it starts"),
        ({"image_id": 99}, "names image 99 and class 2"),
        ({"category_id": 7}, "names image 5 and class 7"),
    ],
)
def test_a_broken_instance_is_named_and_its_image_left_out_where_others_are_sound(tmp_path, change, message):
    path = tmp_path / "instances_train2014.json"
    (note,) = COCO["annotations"]
    path.write_text(json.dumps({**COCO, "annotations": [{**note, **change}]}))
    with pytest.raises(UserError, match=f"instances_train2014.json: annotations\\[0\\]:? {message}"):
        coco.read_instances(path)
    found, problems = coco.sound_instances(path)
    assert [] in found.values() and len(problems) == 1 and message in next(iter(problems.values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": [}', ":2: broken JSON"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": []}', "images\\[0\\] has no 'file_name'"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "annotations\\[0\\] is of image 1"),
        ('{"images": [{"id":1,"file_name":"a"}], "annotations": [{"image_id": 1, "caption": "."}]}', "empty caption"),
    ],
)
def test_broken_coco_files_name_file_and_entry(tmp_path, text, message):
    path = tmp_path / "captions_x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        coco.read_captions(path, tmp_path)
    assert str(path) in str(caught.value)


def test_karpathys_split_is_read_and_dev_means_val(tmp_path):
    entry = {
        "filename": "a.jpg",
        "filepath": "val2014",
        "split": "val",
        "sentences": [{"raw": "A dog."}, {"raw": "Dogs"}],
    }
    other = {"filename": "b.jpg", "split": "train", "sentences": [{"raw": " . "}]}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": [other, entry]}))
    (image,) = karpathy.read(path, tmp_path, "dev", check_images=False)
    assert image.path == tmp_path / "val2014" / "a.jpg" and image.captions == ("A dog.", "Dogs")
    with pytest.raises(UserError, match="images\\[1\\] \\('a.jpg'\\) is listed but"):
        karpathy.read(path, tmp_path, "val")
    with pytest.raises(UserError, match="images\\[0\\] \\('b.jpg'\\) has an empty caption"):
        karpathy.read(path, tmp_path, "train", check_images=False)
    with pytest.raises(UserError, match="no split 'x'"):
        karpathy.read(path, tmp_path, "x")


def test_a_box_is_cut_to_its_image_and_counts_pixels_from_where_its_format_does():
    box = Box.of_pixels((-10, 25, 120, 50), (100, 100), "a.xml")
    assert box == (0.0, 0.25, 1.0, 0.5) and box.area == 0.25
    assert Box.of_pixels((1, 1, 100, 100), (100, 100), "a.xml", first_pixel=1) == (0, 0, 1, 1)
    with pytest.raises(UserError, match="a.xml: a box ends before it starts: 5,0 to 4,9"):
        Box.of_pixels((5, 0, 4, 9), (10, 10), "a.xml", first_pixel=1)


def test_captions_of_coco_without_photographs_come_with_their_labels(tmp_path):
    record = {
        "images": [{"id": 17, "labels": ["cup", "dog"]}, {"id": 4}, {"id": 5, "labels": []}],
        "annotations": [
            {"image_id": 17, "caption": " a dog drinks. "},
            {"image_id": 4, "caption": "rain"},
            {"image_id": 17, "caption": "a cup"},
        ],
    }
    path = tmp_path / "captions_without_photographs.json"
    path.write_text(json.dumps(record))
    found = coco.read_texts(path)
    assert found == [
        CaptionedText("coco:4", ("rain",)),
        CaptionedText("coco:17", ("a dog drinks.", "a cup"), ("cup", "dog")),
    ]
    assert found[1].tokens == [["a", "dog", "drinks"], ["a", "cup"]]
    assert held_out(found, {"coco:17"}) == found[:1]
    record["images"][0]["labels"] = "dog"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="image 17 has the labels dog; expected a list of names"):
        coco.read_texts(path)


def test_captions_of_flickr30k_are_read_without_the_photographs(tmp_path):
    path = tmp_path / "results_20130124.token"
    path.write_text("10.jpg#0\tA dog .\n10.jpg#1\tDogs\n9.jpg#0\tRain\n")
    assert flickr30k.read_texts(path) == [
        CaptionedText("flickr30k:10", ("A dog .", "Dogs")),
        CaptionedText("flickr30k:9", ("Rain",)),
    ]
    path.write_text("10.jpg A dog\n")
    with pytest.raises(UserError, match="results_20130124.token:1: expected"):
        flickr30k.read_texts(path)


def test_the_photographs_of_a_set_of_captions_are_told_apart_across_sets(copy, shared_datasets):
    assert flickr8k.read(copy, "dev")[0].image_id == "flickr8k:1012_000c"
    folder = shared_datasets / "coco"
    captions = coco.read_captions(folder / "annotations" / "captions_train2014.json")
    train = held_out(captions, coco.split_ids(folder, "val"))
    assert len(captions) == 226 and {image.image_id for image in train} <= coco.split_ids(folder, "train")
    texts = coco.read_texts(folder / "annotations" / "captions_without_photographs.json")
    assert len(texts) == 13_693 and not {text.image_id for text in texts} & coco.split_ids(folder, "val")
    written = flickr30k.read_texts(shared_datasets / "flickr30k" / "results_20130124.token")
    assert sum(len(text.captions) for text in written) == 118_115
