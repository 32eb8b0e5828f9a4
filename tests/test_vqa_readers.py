"""Readers of question sets: small copies of the published layouts, broken in every way a user can break them."""

import json

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.derived.question_sets import QuestionSet
from data.readers.coco import split_ids
from data.readers.cocoqa import read_cocoqa
from data.readers.easyvqa import read_easyvqa
from data.readers.questions_file import read_questions_file, write_questions_file
from data.readers.vqa import read_okvqa, read_vqa
from data.readers.vqahat import find_vqahat, read_attention
from data.records import held_out
from vqa.metrics import accuracy_of
from vqa.training.batches import answer_scores, answer_vocabulary


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "train2014").mkdir()
    for number in (9, 25):
        Image.new("RGB", (8, 8)).save(tmp_path / "train2014" / f"COCO_train2014_{number:012d}.jpg")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "val_image_ids.txt").write_text("25\n")
    return tmp_path


def _vqa(folder, questions, annotations, version="v2_"):
    (folder / f"{version}OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": questions}))
    if annotations is not None:
        (folder / f"{version}mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": annotations}))


def _asked(number=1, image=9, question="What is it?"):
    return {"question_id": number, "image_id": image, "question": question}


def _answered(number=1, image=9, answer="cat"):
    return {
        "question_id": number,
        "image_id": image,
        "answer_type": "other",
        "question_type": "what is",
        "multiple_choice_answer": answer,
        "answers": [{"answer": answer, "answer_id": i} for i in range(10)],
    }


@pytest.mark.parametrize("version", ["v2_", ""])
def test_vqa_files_of_both_versions_are_read(coco, version):
    _vqa(coco, [_asked()], [_answered()], version)
    (question,) = read_vqa(coco, "train")
    assert (question.text, question.answer, question.kind, question.image_id) == (
        "What is it?",
        "cat",
        "other",
        "coco:9",
    )
    assert question.answers == ("cat",) * 10 and question.image.name == "COCO_train2014_000000000009.jpg"


def test_vqa_questions_without_annotations_have_no_answers(coco):
    _vqa(coco, [_asked()], None)
    assert read_vqa(coco)[0].answers == ()


@pytest.mark.parametrize(
    "questions, annotations, message",
    [
        ([_asked(1), _asked(2)], [_answered(1)], "don't match: 1 questions have no annotation"),
        ([_asked(1)], [_answered(1), _answered(3)], "1 annotations no question"),
        ([_asked(1, 9)], [_answered(1, 25)], "image 9.*image 25"),
        ([_asked(1, 77)], [_answered(1, 77)], "77 has no image"),
        ([_asked(1, "9")], [_answered(1, "9")], "image id 9 has no image.*_000000000009.jpg"),
        ([_asked()], [{"question_id": 1, "image_id": 9}], "answer is None"),
        ([_asked(1, 9, "  ")], [_answered()], "empty"),
        ([_asked(1, 9, "word " * 10_000)], [_answered()], "10000 words"),
        ([_asked(1, 9, 5)], [_answered()], "not a string"),
        ([_asked()], [_answered(answer=7)], "answer is 7"),
        ([_asked(), _asked()], [_answered()], "more than once"),
        ([{"question": "?"}], [], "lacks question_id"),
    ],
)
def test_broken_vqa_files_are_named_in_one_line(coco, questions, annotations, message):
    _vqa(coco, questions, annotations)
    with pytest.raises(UserError, match=message) as caught:
        read_vqa(coco)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_json_and_a_folder_without_files(coco):
    with pytest.raises(UserError, match="OpenEnded"):
        read_vqa(coco, "train")
    (coco / "v2_OpenEnded_mscoco_train2014_questions.json").write_text("{")
    with pytest.raises(UserError, match="broken JSON"):
        read_vqa(coco)


def _okvqa(coco, soft):
    (coco / "okvqa_train2014_questions.json").write_text(json.dumps({"questions": [_asked()]}))
    answers = {"question_id": 1, "image_id": 9, "soft_answers": soft}
    (coco / "okvqa_train2014_soft_answers.json").write_text(json.dumps({"annotations": [answers]}))


def test_okvqa_answers_come_with_their_accuracy_and_are_marked_and_trained_by_it(coco):
    _okvqa(coco, {"1960s": 0.667, "The Dog": 1, "": 1, "cat": 0.333})
    (question,) = QuestionSet.parse(f"okvqa:{coco}").read("train")
    assert question.soft_answers == (("1960s", 0.667), ("The Dog", 1.0), ("cat", 0.333))
    assert (question.answer, question.answers, question.image_id) == ("The Dog", (), "coco:9")
    assert [accuracy_of(said, question) for said in ("dog", "1960s", "bird")] == [1.0, 0.667, 0.0]
    assert answer_scores(question, {"dog": 0, "cat": 1}) == pytest.approx({0: 0.75, 1: 0.25}, abs=1e-3)
    _okvqa(coco, {"The Dog": 1, "1960s": 0.667, "puppy": 1})
    assert answer_vocabulary(read_okvqa(coco), 1) == ["dog", "puppy"]


def test_okvqa_without_validation_questions_has_those_about_cocos_validation_photographs(coco):
    _okvqa(coco, {"dog": 1})
    (coco / "splits").mkdir(exist_ok=True)
    (coco / "splits" / "val_image_ids.txt").write_text("")
    with pytest.raises(UserError, match="no okvqa_val"):
        read_okvqa(coco, "val")
    (coco / "splits" / "val_image_ids.txt").write_text("25\n")
    assert read_okvqa(coco, "val") == []
    (coco / "splits" / "val_image_ids.txt").write_text("9\n25\n")
    assert [question.image_id for question in read_okvqa(coco, "val")] == ["coco:9"]


@pytest.mark.parametrize("soft, message", [
    ([], "not an object"), ({}, "not an object"), ({"a": 2}, "accuracy 2"), ({"a": "1"}, "accuracy '1'"),
    ({" ": 1}, "not an object"),
])  # fmt: skip
def test_broken_soft_answers_are_named_by_question(coco, soft, message):
    _okvqa(coco, soft)
    with pytest.raises(UserError, match=f"okvqa_train2014_questions.json, question 1: .*{message}"):
        read_okvqa(coco)


def _cocoqa(coco, questions="what is it\n", answers="cat\n", ids="9\n", types="0\n"):
    folder = coco / "cocoqa" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("questions", questions), ("answers", answers), ("img_ids", ids), ("types", types)):
        (folder / f"{name}.txt").write_text(text)


def test_cocoqa_lines_belong_together(coco):
    _cocoqa(coco, "what is it\nhow many\n", "cat\ntwo\n", "9\n25\n", "0\n1\n")
    first, second = read_cocoqa(coco, "train")
    assert (first.answer, first.kind, second.answer, second.kind) == ("cat", "object", "two", "number")
    assert second.image_id == "coco:25"


@pytest.mark.parametrize("change, message", [
    ({"answers": "cat\ndog\n"}, "answers.txt has 2 lines"), ({"types": "7\n"}, "type '7'"),
    ({"ids": "x\n"}, "whole number"),
    ({"ids": "12\n"}, "12 has no image"), ({"questions": "\n"}, "empty"),
])  # fmt: skip
def test_broken_cocoqa_files_are_named_in_one_line(coco, change, message):
    _cocoqa(coco, **change)
    with pytest.raises(UserError, match=message):
        read_cocoqa(coco, "train")


def test_questions_about_validation_images_are_held_out(coco):
    _cocoqa(coco, "what is it\nhow many\n", "cat\ntwo\n", "9\n25\n", "0\n1\n")
    assert split_ids(coco, "val") == {"coco:25"}
    assert [q.image_id for q in held_out(read_cocoqa(coco, "train"), split_ids(coco, "val"))] == ["coco:9"]


def test_a_questions_file_is_read_back_as_written(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "question": "what?", "answer": "cat", "kind": "object", "boxes": [[0, 0, 0.5, 1]]},
        {"image": "a.png", "question": "who?", "answers": ["man", "man", "boy"]},
        {"image": "a.png", "question": "when?", "answer": "1960", "soft_answers": {"1960": 1, "1965": 0.5}},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second, third = read_questions_file(tmp_path / "q.jsonl")
    assert third.soft_answers == (("1960", 1.0), ("1965", 0.5))
    assert first.boxes == ((0, 0, 0.5, 1),) and second.answer == "man" and len(second.answers) == 3
    write_questions_file(tmp_path / "new" / "copy.jsonl", [first, second, third])
    again = read_questions_file(tmp_path / "new" / "copy.jsonl")
    assert [(q.text, q.answer, q.boxes, q.image_id, q.soft_answers) for q in again] == [
        (q.text, q.answer, q.boxes, q.image_id, q.soft_answers) for q in (first, second, third)
    ]
    with pytest.raises(UserError, match="cannot write"):
        write_questions_file(tmp_path / "q.jsonl" / "copy.jsonl", [first])


def test_a_csv_of_questions_is_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "q.csv").write_text('image,question,answer\na.png,"what, exactly?",cat\n')
    (question,) = read_questions_file(tmp_path / "q.csv")
    assert (question.text, question.answer) == ("what, exactly?", "cat")


@pytest.mark.parametrize("line, message", [
    ('{"image": "a.png"}', "no question"), ('{"image": "none.png", "question": "q"}', "no image"),
    ("[1]", "expected an object"),
    ('{"image": "a.png", "question": "q", "answer": 3}', "answer is 3"), ("{", "not JSON"),
    ('{"image": "a.png", "question": "q", "answers": [null]}', "answer is None"),
    ('{"image": 3, "question": "q"}', "image is 3"),
    ('{"image": "a.png", "question": "q", "boxes": [[0, 0, 2, 1]]}', "within"),
    ('{"image": "a.png", "question": ""}', "empty"),
    ('{"image": "a.png", "question": "q", "soft_answers": {"a": 7}}', "accuracy 7"),
])  # fmt: skip
def test_broken_lines_of_a_questions_file_are_named(tmp_path, line, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        read_questions_file(tmp_path / "q.jsonl")
    assert "q.jsonl" in str(caught.value)


def test_easy_vqa_comes_from_its_package_with_images():
    pytest.importorskip("easy_vqa")
    questions = read_easyvqa("test")
    assert len(questions) == 9673 and questions[0].image.is_file()
    assert {q.kind for q in questions} == {"yes/no", "shape", "color"}
    with pytest.raises(UserError, match="train and test"):
        read_easyvqa("val")


def test_human_attention_is_averaged_over_annotators_and_scaled_to_one(tmp_path):
    for name, value in (("15_1.png", 255), ("15_2.png", 0), ("16.png", 0)):
        pixels = np.zeros((4, 6), np.uint8)
        pixels[:, :3] = value
        Image.fromarray(pixels).save(tmp_path / name)
    found = find_vqahat(tmp_path)
    assert {key: len(paths) for key, paths in found.items()} == {"15": 2, "16": 1}
    attention = read_attention(found["15"], (4, 6))
    assert attention.shape == (4, 6) and attention.max() == 1.0 and attention[:, 4:].max() == 0.0
    assert read_attention(found["16"], (4, 6)).max() == 0.0
    with pytest.raises(UserError, match="question id"):
        find_vqahat(tmp_path.parent / tmp_path.name / "..")


def test_data_arguments_of_an_unknown_kind_or_place_are_refused(tmp_path):
    with pytest.raises(UserError, match="vqa2:PATH"):
        QuestionSet.parse("coco:here")
    with pytest.raises(UserError, match="there is no"):
        QuestionSet.parse(f"vqa2:{tmp_path}/nowhere")


def test_the_shared_sets_keep_training_and_validation_images_apart(shared_datasets):
    coco = shared_datasets / "coco"
    train = {q.image_id for q in (*read_vqa(coco, "train"), *read_cocoqa(coco, "train"))}
    val = {q.image_id for q in (*read_vqa(coco, "val"), *read_cocoqa(coco, "val"))}
    assert not train & val and val <= split_ids(coco, "val") and not train & split_ids(coco, "val")
    okvqa = read_okvqa(coco)  # of both
    assert len(okvqa) == 478 and len(held_out(okvqa, split_ids(coco, "val"))) < 478


def test_a_list_of_image_ids_is_refused_by_file(coco):
    (coco / "splits" / "val_image_ids.txt").write_text("25 x\n")
    with pytest.raises(UserError, match="val_image_ids.txt: 'x' is not an image id"):
        split_ids(coco, "val")
