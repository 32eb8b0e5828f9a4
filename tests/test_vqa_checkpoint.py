"""The shipped VQA checkpoint: small, complete, and it answers and explains on the bundled photographs."""

import json

import vqa
from vqa.checkpoint import SHIPPED


def test_the_shipped_files_are_small_and_say_what_they_are():
    size = sum(SHIPPED.with_suffix(suffix).stat().st_size for suffix in (".safetensors", ".json"))
    config = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert size < 20e6 and SHIPPED.with_suffix(".md").is_file()
    assert {"figures", "baselines", "settings", "trained_on", "validated_on"} <= set(config)
    figures, blind = config["figures"]["cocoqa"]["all"], config["baselines"]["without_image"]["cocoqa"]["all"]
    assert figures["n"] == 522 and figures["accuracy"] > blind["accuracy"] + 0.2


def test_it_sees_the_cat_and_its_map_lies_on_the_cat(sample_images):
    photo = next(path for path in sample_images if path.name == "espresso_and_cat.jpg")
    answerer = vqa.load()
    assert answerer.answer(photo, "what is on the table?").text == "cat"
    heatmap = answerer.explain(photo, "what is on the table?", "cat").heatmaps[0, 0]
    assert heatmap[4:].sum() > 2 * heatmap[:3].sum()  # the cat is in the lower half of the photograph


def test_the_same_question_in_other_words_gets_the_same_answer(sample_images):
    photo = next(path for path in sample_images if path.name == "cat.jpg")
    answerer = vqa.load()
    first = answerer.answer(photo, "what color is the cat?").text
    assert first == answerer.answer(photo, "what is the color of the cat?").text
