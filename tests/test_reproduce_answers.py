"""Section 8.2 in the report: what is printed beside ours, and the table with human attention."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import rank_correlation
from data.derived.question_sets import QuestionSet
from data.readers.aird import find_aird
from data.readers.gqa import read_gqa
from data.readers.salicon import find_salicon
from scripts.experiments import figure12, table_vqa
from scripts.experiments.lab import Lab
from tests.test_vqa_explain import answerer  # noqa: F401
from vqa.grounding import FILLS


def write_questions(folder, version, stem, asked):
    questions = [{"question_id": q, "image_id": i, "question": text} for q, i, text in asked]
    given = {"multiple_choice_answer": "red", "answer_type": "other", "answers": [{"answer": "red"}] * 10}
    answers = [{"question_id": q, "image_id": i, **given} for q, i, _ in asked]
    folder.mkdir(exist_ok=True)
    (folder / f"{version}OpenEnded_{stem}_questions.json").write_text(json.dumps({"questions": questions}))
    (folder / f"{version}{stem}_annotations.json").write_text(json.dumps({"annotations": answers}))


@pytest.fixture
def folder(tmp_path):
    """Two photographs, three questions about them, and human attention for two of these."""
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (9, 25):
        picture = Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8))
        picture.save(tmp_path / "coco" / "train2014" / f"COCO_train2014_{number:012d}.jpg")
    asked = [(1, 9, "what color is the dog"), (2, 9, "is the hat red"), (3, 25, "what is the dog")]
    write_questions(tmp_path / "coco", "v2_", "mscoco_val_from_train2014", asked)
    # VQA v1's ids: image x 10 + n. VQA v2's question 250 is about another photograph than v1's.
    first = [(90, 9, "what color is the dog"), (91, 9, "is the hat red"), (250, 25, "what is the dog")]
    write_questions(tmp_path / "coco", "", "mscoco_val2014", first)
    (tmp_path / "hat").mkdir()
    for name in ("90_1.png", "90_2.png", "250.png"):
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(tmp_path / "hat" / name)
    return tmp_path


@pytest.fixture
def lab(folder, answerer, monkeypatch):  # noqa: F811
    """Windows smaller than the 32 pixels that its model looks at."""
    monkeypatch.setattr(table_vqa, "WINDOWS", (8, 16))
    monkeypatch.setattr(table_vqa, "OCCLUSION", OcclusionOptions(window=8, stride=8))
    data = {"vqa2": folder / "coco", "vqahat": folder / "hat"}
    return Lab(folder / "report", data, shared={"VQA model": answerer})


def test_published_values_stand_beside_ours_in_the_report(lab, answerer):  # noqa: F811
    section = table_vqa.section(lab)
    occlusion, *references, attention = section.tables
    rows = {row.what: row for row in occlusion.rows}
    assert rows["Grad-CAM"].published == "0.60 ± 0.038" and rows["Guided Backprop"].published == "0.42 ± 0.038"
    assert rows["Grad-CAM"].n == 3 and -1 <= rows["Grad-CAM"].ours <= 1
    parts = [rows[f"Grad-CAM, {part}"] for part in (table_vqa.NEEDED, table_vqa.BLIND)]
    assert sum(row.n for row in parts) == 3
    known = [row.ours * row.n for row in parts if row.ours is not None]
    assert math.isclose(sum(known) / 3, rows["Grad-CAM"].ours, abs_tol=1e-9)
    assert rows["Guided Backprop"].difference == pytest.approx(rows["Guided Backprop"].ours - rows["Grad-CAM"].ours)
    names = [f"{window} pixels, {fill}" for window in (8, 16) for fill in FILLS]
    assert [table.title.split(", ")[1] for table in references] == list(table_vqa.BY_REFERENCE.values())
    assert [row.what for row in references[0].rows] == [table_vqa.CELLS, *names]
    assert [row.what for row in references[2].rows] == names  # it agrees with itself
    assert {table.reference for table in references} == {"8 pixels, grey"}
    first, blurred = references[2].rows[:2]
    assert first.difference is None and blurred.difference == pytest.approx(blurred.ours - first.ours)
    assert all(-1 <= row.ours <= 1 for table in references for row in table.rows if row.ours is not None)
    rows = {row.what: row for row in attention.rows}
    assert rows["Grad-CAM"].published == "0.136 (1374 pairs)" and rows["Grad-CAM"].n == 2
    centre, own = rows["centre of the photograph"], rows["Grad-CAM"]
    assert centre.n == 2 and centre.difference == pytest.approx(centre.ours - own.ours) and attention.verdict


def test_a_model_that_no_window_fits_is_compared_with_cells_alone(lab, monkeypatch):
    monkeypatch.setattr(table_vqa, "WINDOWS", (32, 64))
    tables = table_vqa._reference_tables("VQA v2", table_vqa.by_reference(lab, "vqa2", 2))
    assert [table.title for table in tables] == [
        "8.2, Grad-CAM, by what the reference covers",
        "8.2, Grad-CAM before its ReLU, by what the reference covers",
    ]
    assert [(row.what, row.n) for table in tables for row in table.rows] == [(table_vqa.CELLS, 2)] * 2
    assert all(table.reference == table_vqa.CELLS and not table.verdict for table in tables)


def test_without_human_attention_the_report_says_what_is_missing(lab):
    del lab.data["vqahat"]
    section = table_vqa.section(lab)
    assert len(section.tables) == 4 and "give its folder with --vqahat" in section.notes[0]


def test_other_weights_are_measured_again(lab, answerer):  # noqa: F811
    first = lab.mark("VQA model")
    table_vqa.section(lab)
    kept = (lab.out / "cells" / "vqa-ranks-vqa2.json").stat().st_mtime_ns
    table_vqa.section(lab)
    assert (lab.out / "cells" / "vqa-ranks-vqa2.json").stat().st_mtime_ns == kept
    answerer.network.module.classifier.weight.data.add_(1.0)
    again = Lab(lab.out, lab.data, shared={"VQA model": answerer})  # another run: weights are read once in each
    assert again.mark("VQA model") != first
    table_vqa.section(again)
    assert (lab.out / "cells" / "vqa-ranks-vqa2.json").stat().st_mtime_ns != kept


def test_attention_is_compared_at_14_by_14_with_the_mean_of_its_annotators(lab, answerer, folder):  # noqa: F811
    from data.readers.vqahat import read_attention

    questions = QuestionSet("vqa", folder / "coco").read("val")
    pairs = table_vqa.attention_pairs(folder / "hat", questions)
    assert [question.id for question, _ in pairs] == ["90", "250"]
    together = read_attention(sorted((folder / "hat").glob("90_*.png")), (14, 14))
    np.testing.assert_array_equal(pairs[0][1], together)
    # The twin: the map at the attention's grid, ranked by hand.
    from scipy.stats import spearmanr

    expected = []
    for question, attention in pairs:
        maps = answerer.explain(question.image, question.text).heatmaps[:, 0]
        grid = torch.nn.functional.interpolate(maps[:, None], (14, 14), mode="bilinear")[0, 0]
        expected.append(spearmanr(grid.flatten().numpy(), np.asarray(attention).flatten()).statistic)
        assert math.isclose(
            float(rank_correlation(maps, torch.as_tensor(attention, dtype=torch.float32)[None])),
            expected[-1],
            abs_tol=1e-5,
        )
    found = table_vqa.attended(lab, 10)["gradcam"]
    assert math.isclose(found["mean"], np.nanmean(expected), abs_tol=1e-5)
    with pytest.raises(UserError, match="none of the 2 attention maps"):
        table_vqa.attention_pairs(folder / "hat", questions[1:2])


def test_where_people_look_freely_is_compared_with_one_question_of_each_photograph(lab, folder):
    (folder / "salicon" / "maps" / "train").mkdir(parents=True)
    rng, files = np.random.default_rng(1), folder / "salicon" / "maps" / "train"
    for number in (25, 77):
        grey = Image.fromarray(rng.integers(0, 255, (48, 64), dtype=np.uint8))
        grey.save(files / f"COCO_train2014_{number:012d}.png")
    lab.data["salicon"] = folder / "salicon"
    table = table_vqa.section(lab).tables[-1]
    assert table.title == "8.2, VQA maps and where people look freely" and table.heading.endswith("a question of each")
    rows = {row.what: row for row in table.rows}
    assert rows["Grad-CAM"].n == 1 and not any(row.published for row in table.rows)
    assert rows["centre of the photograph"].difference is not None
    (files / "COCO_train2014_000000000025.png").unlink()
    with pytest.raises(UserError, match="no photograph of SALICON is among the 2 of VQA v2's questions"):
        table_vqa.attended(lab.on("salicon"), 5)
    with pytest.raises(UserError, match="no map named as COCO's photographs"):
        find_salicon(folder / "hat")


def test_where_people_looked_to_reason_goes_with_the_questions_of_gqa(lab, folder):
    rng = np.random.default_rng(2)
    maps, gqa = folder / "aird" / "aggregated_maps" / "fixmaps", folder / "gqa"
    maps.mkdir(parents=True)
    (gqa / "images").mkdir(parents=True)
    asked = {}
    for key, image in (("00126851", "2354786"), ("011000868", "713929"), ("07", "gone")):
        asked[key] = {"question": "Is it red?", "imageId": image, "answer": "no", "types": {"structural": "verify"}}
        Image.fromarray(rng.integers(0, 255, (30, 40), dtype=np.uint8)).save(maps / f"{key}.png")
        if image != "gone":
            Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(gqa / "images" / f"{image}.jpg")
    (gqa / "val_balanced_questions.json").write_text(json.dumps(asked))
    questions = QuestionSet.parse(f"gqa:{gqa}").read("val")
    assert [(q.id, q.image_id, q.answer, q.kind) for q in questions] == [
        ("00126851", "gqa:2354786", "no", "verify"), ("011000868", "gqa:713929", "no", "verify")
    ]  # fmt: skip
    lab.data["aird"] = folder / "aird"
    assert any("AiR-D left out" in note for note in table_vqa.section(lab).notes)
    lab.data["gqa"] = gqa
    table = table_vqa.section(lab).tables[-1]
    assert table.title == "8.2, VQA maps and attention while reasoning"
    rows = {row.what: row for row in table.rows}
    assert rows["Grad-CAM"].n == 2 and rows["centre of the photograph"].difference is not None
    # The twin: one question, by hand.
    model = lab.facade("VQA model")
    heat = model.explain(questions[0].image, questions[0].text).heatmaps[:, 0]
    grey = Image.open(maps / "00126851.png").resize((14, 14), Image.Resampling.BILINEAR)
    expected = rank_correlation(heat, torch.as_tensor(np.asarray(grey, np.float32))[None])
    found = table_vqa.attended(lab.on("aird"), 1)["gradcam"]["by_item"]["0"]
    assert found == pytest.approx([float(expected)], abs=1e-5)


def test_a_folder_without_maps_of_air_d_or_questions_of_gqa_is_named(folder):
    with pytest.raises(UserError, match=r"no map named by a question of GQA \(fixmaps_corr/"):
        find_aird(folder, "right")
    with pytest.raises(UserError, match="whose is one of all, right, wrong; received 'mine'"):
        find_aird(folder, "mine")
    (folder / "images").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="no val_balanced_questions.json"):
        read_gqa(folder)
    (folder / "val_balanced_questions.json").write_text('{"1": {"question": "Why?"}}')
    with pytest.raises(UserError, match="question 1 has no 'imageId'"):
        read_gqa(folder)


def test_human_attention_goes_with_the_questions_of_vqa_v1_only(lab, folder, capsys):
    """Its files bear v1's ids; of v2's some are the same number for another photograph."""
    from data.derived.question_sets import QuestionSet

    second = QuestionSet("vqa2", folder / "coco").read("val")
    assert [q.id for q in second] == ["1", "2", "3"]
    with pytest.raises(
        UserError, match="question 1 is about image coco:9; .*ids of VQA v1, image x 10 \\+ n .*--vqa PATH"
    ):
        table_vqa.attention_pairs(folder / "hat", second)
    apart = folder / "coco" / "first"
    write_questions(apart, "", "mscoco_val2014", [(90, 9, "is the hat red")])
    lab.data["vqa"] = apart
    assert table_vqa.attended(lab, 10)["gradcam"]["n"] == 1
    (folder / "coco" / "OpenEnded_mscoco_val2014_questions.json").unlink()
    del lab.data["vqa"]
    with pytest.raises(UserError, match="no OpenEnded_mscoco_val\\*_questions.json in"):
        table_vqa.attended(lab, 10)


def test_the_printed_table_has_the_published_column(capsys):
    row = {"mean": 0.25, "error": None, "n": 3}
    table_vqa._print({"vqa2": {"occlusion": {"gradcam": row}, "human attention": {"gradcam": row}}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["Grad-CAM", "0.250", "±", "-", "3", "0.60", "±", "0.038"]
    assert lines[5].endswith("0.136 (1374 pairs)")


def test_figure_12_has_each_answer_and_each_layer(answerer):  # noqa: F811
    photograph = Image.new("RGB", (40, 30), (90, 20, 20))
    one = figure12.draw(answerer, photograph, "what color is the dog", ["red"])
    three = figure12.draw(answerer, photograph, "what color is the dog", ["red", "blue", "no"])
    assert three.width > one.width > 400 and figure12.block_ends(answerer)[-1] == answerer.network.layer
