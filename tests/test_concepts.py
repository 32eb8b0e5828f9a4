"""What is known of each photograph, as targets of concepts with weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.derived.concepts import Concepts, choose_concepts, guessed, mention_rates, read_corpus, targets_of
from data.derived.known import Known, Source, read_known, read_texts, told_by
from data.readers import coco
from data.records import Box, CaptionedText, Instance, Question
from data.words.coco_classes import CLASSES
from tests import coco_copy


def test_captions_of_few_photographs_are_kept_to_measure_by(tmp_path):
    few = coco_copy.make(tmp_path / "few", captioned=1)
    assert coco.captions_kept(few) == {"coco:0"}
    many = coco_copy.make(tmp_path / "many", captioned=14)
    assert coco.captions_kept(many) == {"coco:12", "coco:13"}
    (many / "annotations" / "captions_train2014.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert coco.captions_kept(many) == set()


def _photograph(number, *boxes, captions=(), **more):
    """A COCO photograph with things of some classes, or None where nobody drew boxes."""
    instances = None if boxes == (None,) else tuple(Instance(name, Box(0, 0, 1, 1)) for name in boxes)
    covered = frozenset() if instances is None else frozenset(CLASSES)
    said = tuple(tuple(caption.split()) for caption in captions)
    return Known(f"coco:{number}", Path(f"{number}.jpg"), "train", said, instances, covered, **more)


CONCEPTS = Concepts(CLASSES, ("dog", "grass", "two"))
RATES = np.full(80, 0.5, np.float32)


def _targets(photograph, guess=None):
    """{name: (value, weight)} of what is known, and {class: count}; words are marked by '~'."""
    made = targets_of([photograph], CONCEPTS, RATES)
    if guess is not None:
        made = made.with_guess(guess, guessed([photograph], CONCEPTS))
    names = [*CLASSES, *(f"~{word}" for word in CONCEPTS.words)]
    rows = zip(names, made.values[0].tolist(), made.weights[0].tolist(), strict=True)
    return {name: (value, weight) for name, value, weight in rows}, dict(zip(CLASSES, made.counts[0], strict=True))


def test_boxes_tell_what_is_there_and_how_many():
    found, counts = _targets(_photograph(1, "dog", "dog", "cup"))
    assert found["dog"] == found["cup"] == (1, 1) and found["cat"] == (0, 1) and found["~grass"] == (0, 0)
    assert (counts["dog"], counts["cup"], counts["cat"]) == (2, 1, 0)


def test_of_a_crowd_the_number_is_not_known_and_of_what_can_hardly_be_seen_nothing():
    crowd, faint = (Instance("dog", Box(0, 0, 1, 1), crowd=True), Instance("cup", Box(0, 0, 1, 1), difficult=True))
    found, counts = _targets(replace(_photograph(1), instances=(crowd, faint)))
    assert found["dog"] == (1, 1) and found["cup"] == (0, 0)
    assert (counts["dog"], counts["cup"], counts["cat"]) == (-1, -1, 0)


def test_classes_that_nobody_looked_for_are_not_known():
    found, counts = _targets(replace(_photograph(1, "dog"), covered=frozenset({"dog", "cat"})))
    assert found["dog"] == (1, 1) and found["cat"] == (0, 1) and found["kite"] == (0, 0) and counts["kite"] == -1


def test_captions_tell_of_words_by_their_share_and_of_classes_by_mention():
    found, counts = _targets(_photograph(1, None, captions=["a dog on grass", "two dogs", "a puppy and a cat"]))
    assert found["~dog"] == (pytest.approx(1 / 3), 1) and found["~two"] == (pytest.approx(1 / 3), 1)
    assert found["dog"] == (1, 1) and found["cat"] == (1, 0.5) and found["cup"] == (0, 0.25)
    assert set(counts.values()) == {-1}


def test_words_without_captions_are_guessed_from_classes_and_told_by_questions():
    guess = np.array([[0.9, 0.4, 0.7]], np.float32)
    found, _ = _targets(_photograph(1, "dog", told={"grass": True}), guess)
    assert found["~dog"] == (pytest.approx(0.9), pytest.approx(0.3)) and found["~two"][1] == 0
    assert found["~grass"] == (pytest.approx(0.8), 1)
    found, _ = _targets(_photograph(1, None, told={"grass": True}))
    assert found["~grass"] == (pytest.approx(0.8), 1) and found["dog"] == (0, 0)
    assert found["~dog"] == (0, pytest.approx(0.2)) and found["~two"] == (0, 0)
    assert _targets(_photograph(1, None, told={"grass": False}))[0]["~grass"] == (0, 1)


def test_concepts_are_the_classes_and_the_words_that_captions_say_most():
    photographs = [
        _photograph(1, None, captions=["a dog", "the dog runs"]),
        _photograph(2, None, captions=["two cats"]),
    ]
    texts = [CaptionedText("coco:3", ("a pizza", "pizza on a plate"), ("pizza",))]
    concepts = choose_concepts(photographs, texts, 4)  # weights: pizza 2, plate 1, then a half each: in order
    assert concepts.classes == CLASSES and concepts.words == ("pizza", "plate", "cats", "dog")
    easy = [replace(_photograph(n, None), told={"red": True, "blue": False}) for n in range(3)]
    assert choose_concepts(easy, [], 4) == Concepts((), ("red",))


def test_how_often_a_class_is_mentioned_where_it_is():
    texts = [CaptionedText(str(n), (said,), ("dog",)) for n, said in enumerate(["a puppy", "a dog", "a park", "dogs"])]
    rates = mention_rates(texts, CONCEPTS)
    assert rates[CLASSES.index("dog")] == pytest.approx(4 / 6) and rates[CLASSES.index("cat")] == 0.5


def _question(text, answer, answers=None, kind="other", source="vqa2"):
    return Question("1", text, Path("x.jpg"), "coco:1", answer, tuple(answers or (answer,)), kind, source)


def test_what_a_question_and_its_answer_show():
    assert told_by(_question("what is the man throwing in the park?", "frisbee", source="cocoqa")) == dict.fromkeys(
        ["man", "throwing", "park", "frisbee"], True
    )
    ten = ["red"] * 4 + ["blue"] * 3 + ["green"] * 3
    assert told_by(_question("what color is the hat?", "red", ten)) == {"hat": True}
    assert told_by(_question("what color is the hat?", "red", ["red"] * 10)) == {"hat": True, "red": True}
    assert told_by(_question("is there a dog?", "no", ["no"] * 10, "yes/no")) == {}
    assert told_by(_question("how many dogs are there?", "2", ["2"] * 10, "number")) == {}
    assert told_by(_question("is there not a red shape?", "no", source="easyvqa")) == {"red": True}
    assert told_by(_question("is no circle present?", "yes", source="easyvqa")) == {"circle": False}


def test_no_validation_photograph_is_trained_on_whatever_the_set(tmp_path):
    folder = coco_copy.make(tmp_path / "coco", captioned=1)
    (folder / "cocoqa/train").mkdir(parents=True)
    (folder / "cocoqa/val").mkdir()
    for split, ids in (("train", (1, 13)), ("val", (2, 14))):
        columns = {"questions": "what runs on grass", "answers": "dog", "types": "0"}
        for name, cell in (*columns.items(), ("img_ids", None)):
            lines = [cell or str(i) for i in ids]
            (folder / "cocoqa" / split / f"{name}.txt").write_text("\n".join(lines) + "\n")
    found = read_known([Source.parse(f"coco:{folder}"), Source.parse(f"cocoqa:{folder}")])
    splits = {p.image_id: p.split for p in found}
    assert [splits[f"coco:{n}"] for n in (0, 1, 2, 11, 12)] == ["captions", "train", "val", "train", "val"]
    told = {p.image_id: dict(p.told) for p in found if p.told}
    assert told == {"coco:1": {"runs": True, "grass": True, "dog": True}}  # and nothing of 13, of the validation split
    assert [p.family for p in found] == ["coco"] * 16 and [p.path.name for p in found] == sorted(
        p.path.name for p in found
    )
    alone = read_known([Source.parse(f"cocoqa:{folder}")])
    assert {p.image_id: p.split for p in alone} == {
        "coco:1": "train", "coco:13": "train", "coco:2": "val", "coco:14": "val"
    }  # fmt: skip
    texts = read_texts([Source.parse(f"coco:{folder}")], found)
    assert len(texts) == 12 and texts[0].labels == ("dog",)


VOC = """<annotation><size><width>40</width><height>40</height><depth>3</depth></size>
<object><name>sofa</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def test_a_corpus_has_targets_of_all_photographs_and_texts_for_guesses(tmp_path):
    corpus = read_corpus([f"coco:{coco_copy.make(tmp_path / 'coco')}"], 3, limit=5)
    assert [p.split for p in corpus.photographs] == ["captions", *["train"] * 5, *["val"] * 4]
    assert corpus.names == (*CLASSES, "street", "bus", "cat") and corpus.counted == 80 and len(corpus.texts) == 12
    assert corpus.guessed[:, 0].tolist() == [False, *[True] * 9]
    assert corpus.imagenet[CLASSES.index("pizza")] and not corpus.imagenet[CLASSES.index("fire hydrant")]
    assert corpus.targets.values[1, CLASSES.index("cat")] == 1


def test_voc_is_told_by_cocos_names(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, split in (("a", "train"), ("b", "val")):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(VOC)
        Image.new("RGB", (40, 40)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{name}\n")
    found = read_known([Source.parse(f"voc:{tmp_path}")])
    assert [(p.image_id, p.split) for p in found] == [("voc:a", "train"), ("voc:b", "val")]
    known, counts = _targets(found[0])
    assert len(found[0].covered) == 20 and sum(weight for _, weight in known.values()) == 20
    assert known["couch"] == (1, 1) and counts["couch"] == 1 and known["tv"] == (0, 1) and counts["cup"] == -1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("coco:nowhere", "there is no folder of COCO with boxes at 'nowhere'"),
        ("boxes:x", "a trunk learns nothing from these questions"),
        ("pictures:x", "of no known kind; give coco:PATH"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(data, message):
    with pytest.raises(UserError, match=message):
        Source.parse(data)
