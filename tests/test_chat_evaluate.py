"""`saywhy evaluate` of chat models: accuracy beside the blind model, captions, and how true the maps are."""

import json
import math

import pytest
import torch

import captioning
import vqa
from captioning import grounding as words
from common.chat.views import Layout, View
from data.derived.question_sets import QuestionSet
from data.records import Box
from data.words.vocabulary import SPECIAL
from scripts import saywhy
from tests import coco_copy
from tests.chats import saved
from vqa import grounding
from vqa.curves import STEPS, areas_of


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return coco_copy.make(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"hf:{saved('fast_vlm', tmp_path_factory.mktemp('chat'))}"


@pytest.fixture(scope="module")
def asked(coco, model):
    answerer = vqa.load(model, max_tokens=3)
    questions = QuestionSet.parse(f"boxes:{coco}").read("val")
    return answerer, [q for q in questions if q.boxes]


def test_what_a_map_says_of_a_token_is_its_mean_over_what_the_token_sees():
    layout = Layout((View(1, 2), View(2, 2)))
    found = layout.read(torch.tensor([[[1.0, 2.0], [3.0, 8.0]]]))
    assert found.tolist() == [[2, 5, 1, 2, 3, 8]]
    crop = Layout((View(1, 1, (0.25, 0.0, 0.75, 1.0)),))
    assert crop.read(torch.tensor([[[1.0, 2.0, 4.0, 9.0]]])).tolist() == [[3]]


def test_areas_are_those_of_a_plain_loop(asked):
    answerer, questions = asked
    question = questions[0]
    encoded = answerer.encode(question.image)
    areas = areas_of(answerer, question, encoded, ["hirescam"])
    kinds = {f"{what} {how}" for what in ("tokens", "pixels") for how in ("inserted", "deleted")}
    assert set(areas) == kinds and set(areas["tokens deleted"]) == {"hirescam", "activation", "centre", "random"}
    network, model = answerer.network, answerer.network.model
    reply = answerer.answer(encoded, question.text, top=1)
    found = answerer.explain(encoded, question.text, reply.text, methods="hirescam")
    sight, order = encoded.features[0], found.maps["hirescam"][0, 0].flatten().argsort(descending=True, stable=True)
    tokens = torch.tensor([network.read(question.text).tokens])
    said = model.prompts.reply(reply.text).tokens
    heights = []
    for step in range(STEPS + 1):
        left = sight.tokens.clone()
        left[order[: round(step * len(order) / STEPS)]] = sight.tokens.mean(0)
        with torch.no_grad():
            logits = model.logits(sight, left, [tokens[0].tolist()], torch.tensor([said]))[0].log_softmax(-1)
        heights.append(math.exp(sum(float(logits[i, t]) for i, t in enumerate(said)) / len(said)))
    expected = sum((a + b) / 2 for a, b in zip(heights, heights[1:], strict=False)) / STEPS
    assert areas["tokens deleted"]["hirescam"] == pytest.approx(expected, abs=1e-5)


def test_pointing_has_the_other_answers_map_beside_it(asked):
    answerer, questions = asked
    first = questions[0]
    other = next(q for q in questions if q.answer != first.answer and q.image_id != first.image_id)
    found = grounding.pointing_accuracy(answerer, [first, other], methods=["hirescam", "gradcam"])["all"]
    names = ["own answer", "right answer", "other answer", "gradcam", "activation", "centre", "random"]
    assert list(found) == names and all(0 <= each.mean <= 1 for each in found.values())
    assert found["right answer"].n == 2  # a model that writes has any answer


def test_words_with_capitals_and_points_are_grounded(model, coco):
    captioner = captioning.load(model)
    text = captioner.network.read("A Dog, on the cat.")
    case = words.class_case(0, text, [_thing("dog", 0.1), _thing("cat", 0.2)])
    assert [(head.start, head.word) for head in case.heads] == [(1, "Dog,"), (4, "cat.")]
    encoded = captioner.encode(next((coco / "train2014").glob("*.jpg")))
    records = words.measure(captioner, encoded, [case, case], methods=["hirescam", "gradcam"])
    assert len(records) == 4 and all(math.isfinite(record.visual) for record in records)
    alone = captioner.explain(encoded, "A Dog, on the cat.", methods="hirescam").maps["hirescam"][2, 0]
    (box,) = [span.boxes for span in case.heads[:1]]
    assert records[0].pointing["hirescam"] == float(words.metrics.pointing(alone[None], [box]))
    assert {"gradcam", "other word", "centre", "random", "energy"} <= records[0].pointing.keys()


class _thing:
    crowd, segmentation = False, None

    def __init__(self, name, left):
        self.name, self.box = name, Box(left, 0.1, 0.6, 0.6)


def test_words_of_the_shipped_captioner_are_scored_as_they_are():
    from data.words.vocabulary import tokenize

    known = [word for word in captioning.load().network.module.vocabulary.words if word not in SPECIAL]
    assert [word for word in known if tokenize(word) != [word]] == []


def test_the_command_measures_answers_captions_and_maps(model, coco, tmp_path, capsys):
    out = ["--out", str(tmp_path), "--json"]
    arguments = ["evaluate", "vqa", "--model", model, "--data", f"boxes:{coco}", "--maps", "1", "--limit", "2"]
    assert saywhy.main([*arguments, "--baselines", "--methods", "hirescam,gradcam", *out]) == 0
    found = json.loads(capsys.readouterr().out)["sets"]["boxes"]
    assert found["without_image"]["all"]["n"] == found["accuracy"]["all"]["n"] == 2
    assert set(found["maps"]) == {"occlusion", "curves", "swap"}  # whose boxes are of no object asked for
    assert set(found["maps"]["occlusion"]) == {"cells of the map"}
    assert found["maps"]["curves"]["pixels inserted"]["hirescam"]["n"] == 1
    arguments = ["evaluate", "captioner", "--model", model, "--data", f"coco:{coco}", "--limit", "1"]
    assert saywhy.main([*arguments, "--metrics", "BLEU", *out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"] == list(grounding.OF_TOKENS) and "human" in found["grounding"]
