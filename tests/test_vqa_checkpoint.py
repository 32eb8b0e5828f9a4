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


def test_it_sees_the_duck_and_its_map_lies_on_the_duck(sample_images):
    photo = next(path for path in sample_images if path.name == "duck.jpg")
    answerer = vqa.load()
    assert answerer.answer(photo, "what is in the water?").text in ("bird", "duck")
    heatmap = answerer.explain(photo, "what is in the water?", "bird").heatmaps[0, 0]
    duck = heatmap[2:8, 1:7]  # where the duck is in the photograph
    rest = (heatmap.sum() - duck.sum()) / (heatmap.numel() - duck.numel())
    assert duck.max() == heatmap.max() and duck.mean() > 1.5 * rest


def test_the_same_question_in_other_words_gets_the_same_answer(sample_images):
    photo = next(path for path in sample_images if path.name == "cat.jpg")
    answerer = vqa.load()
    first = answerer.answer(photo, "what color is the cat?").text
    assert first == answerer.answer(photo, "what is the color of the cat?").text
