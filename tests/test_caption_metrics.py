import math
import random
import shutil

import numpy as np
import pytest

from captioning import metrics
from common.errors import UserError
from data.words.coco_classes import CLASS_OF, CLASSES, named_classes

WORDS = ["a", "the", "dog", "cat", "man", "runs", "sits", "on", "in", "grass", "snow", "red", "ball", "and"]


def _sentences(seed, images=40):
    chooser = random.Random(seed)

    def sentence(low=1):
        return [chooser.choice(WORDS) for _ in range(chooser.randint(low, 12))]

    references = [[sentence(3) for _ in range(chooser.randint(1, 5))] for _ in range(images)]
    hypotheses = []
    for each in references:
        words = list(chooser.choice(each))
        for _ in range(chooser.randint(0, 3)):
            words[chooser.randrange(len(words))] = chooser.choice(WORDS)
        hypotheses.append(words[: chooser.randint(1, len(words))])
    return hypotheses, references


def _coco(hypotheses, references):
    gold = {i: [" ".join(r) for r in each] for i, each in enumerate(references)}
    return gold, {i: [" ".join(h)] for i, h in enumerate(hypotheses)}


@pytest.mark.parametrize("seed", range(4))
def test_scores_agree_with_the_coco_evaluation(seed):
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (pip install 'saywhy[metrics]')")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    hypotheses, references = _sentences(seed)
    gold, candidates = _coco(hypotheses, references)
    ours = metrics.evaluate(hypotheses, references)
    bleu = Bleu(4).compute_score(gold, candidates, verbose=0)[0]
    np.testing.assert_allclose([ours[f"BLEU-{n}"] for n in range(1, 5)], bleu, atol=1e-6)
    total, each = Cider().compute_score(gold, candidates)
    assert ours["CIDEr"] == pytest.approx(total, abs=1e-6)
    np.testing.assert_allclose(metrics.cider(hypotheses, references), each, atol=1e-6)
    total, each = Rouge().compute_score(gold, candidates)
    assert ours["ROUGE-L"] == pytest.approx(total, abs=1e-6)
    np.testing.assert_allclose(metrics.rouge_l(hypotheses, references), each, atol=1e-6)


def test_bleu_agrees_with_nltk_where_captions_have_four_words_or_more():
    from nltk.translate.bleu_score import corpus_bleu

    hypotheses, references = _sentences(7)
    kept = [i for i, h in enumerate(hypotheses) if len(h) >= 4]
    h, r = [hypotheses[i] for i in kept], [references[i] for i in kept]
    for n in range(1, 5):
        assert metrics.bleu(h, r)[n - 1] == pytest.approx(corpus_bleu(r, h, [1 / n] * n), abs=1e-9)


def test_scores_of_known_captions():
    references = [[["a", "dog", "runs", "in", "snow"]], [["a", "cat", "sits"]]]
    perfect = metrics.evaluate([r[0] for r in references], references)
    assert perfect["BLEU-4"] == pytest.approx(1.0) and perfect["ROUGE-L"] == pytest.approx(1.0)
    assert metrics.rouge_l([["a", "dog"]], [[["a", "red", "dog"]]])[0] == pytest.approx(2.44 * 2 / 3 / (2 / 3 + 1.44))
    # 'a' is in every image: no weight; 'dog' alone remains of the unigrams, and no pair is shared
    score = metrics.cider([["dog"], ["cat"]], [[["a", "dog"]], [["a", "cat"]]])[0]
    assert score == pytest.approx(10 / 4 * np.exp(-1 / 72))


def test_nothing_in_common_scores_nothing():
    scores = metrics.evaluate([["x", "y", "z", "u", "v"]] * 2, [[["a", "b"]], [["c", "d"]]])
    assert set(scores.values()) == {0.0}


def test_fixed_references_score_one_caption_as_the_corpus_does():
    hypotheses, references = _sentences(3)
    scorer = metrics.CiderD(references)
    one_by_one = [scorer.score(h, i) for i, h in enumerate(hypotheses)]
    np.testing.assert_allclose(one_by_one, metrics.cider(hypotheses, references))


def test_bad_input_is_named():
    with pytest.raises(UserError, match="2 captions but references for 1 images"):
        metrics.evaluate([["a"], ["b"]], [[["a"]]])
    with pytest.raises(UserError, match="no captions to score"):
        metrics.evaluate([], [])
    with pytest.raises(UserError, match="image number 0 has an empty reference"):
        metrics.evaluate([["a"]], [[[]]])
    with pytest.raises(UserError, match="no caption metric 'WER'; choose from BLEU, ROUGE-L, CIDEr, METEOR, SPICE"):
        metrics.evaluate([["a"]], [[["a"]]], ["WER"])


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_without_java_the_metrics_that_need_it_say_so(monkeypatch, name):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=f"{name} needs Java"):
        metrics.evaluate([["a", "dog"]], [[["a", "dog"]]], [name])
    assert metrics.evaluate([["a", "dog"]], [[["a", "dog"]]], ["ROUGE-L"]) == {"ROUGE-L": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("a man with skis and two tennis rackets", ["person", "skis", "tennis racket"]),
        ("an orange cat on oranges beside an orange", ["cat", "orange", "orange"]),
        ("people riding a dirt bike at a train station", ["person", "motorcycle"]),
        ("two knives and wine glasses , men , geese", ["knife", "wine glass", "person", "bird"]),
        ("buses at a bus stop", ["bus"]),
        ("a teddy bear and a bear", ["teddy bear", "bear"]),
        ("a baseball game on tv", ["tv"]),
        ("the orange and black bird flies", ["bird"]),
        ("a computer on a ski slope", []),
        ("", []),
        ("the shirt is orange", []),
        ("a sliced orange", ["orange"]),
    ],
)
def test_words_and_pairs_of_words_name_classes(caption, classes):
    assert [name for _, name in named_classes(caption.split())] == classes


def test_the_classes_are_cocos_each_known_by_its_own_name():
    assert len(CLASSES) == 80 and CLASSES[0] == "person" and CLASSES[-1] == "toothbrush"
    assert all(CLASS_OF[name] == name for name in CLASSES)


def test_named_objects_that_are_not_there_are_counted():
    captions = ["a dog on a couch", "two dogs and a dog", "a red wall"]
    captions = [caption.split() for caption in captions]
    present = [{"dog", "chair"}, {"dog"}, {"cat", "cup"}]
    found = metrics.chair(captions, present)
    # named: dog, couch | dog | nothing. untrue: couch. there: dog, chair | dog | cat, cup
    assert found["CHAIRi"].mean == pytest.approx(1 / 3) and found["CHAIRi"].n == 3
    assert found["CHAIRs"].mean == pytest.approx(1 / 3) and found["CHAIRs"].n == 3
    assert found["class recall"].mean == pytest.approx(2 / 5) and found["class recall"].n == 5
    # deviations summed over each photograph: (-1/3 + 2/3), -1/3; two photographs name something
    assert found["CHAIRi"].error == pytest.approx(math.sqrt((1 / 9 + 1 / 9) * 2 / 1) / 3)


def test_what_people_say_is_there_counts_as_there():
    said, present = [["a", "couch"]], [{"dog"}]
    assert metrics.chair(said, present)["CHAIRi"].mean == 1
    assert metrics.chair(said, present, [[["a", "sofa"], ["it"]]])["CHAIRi"].mean == 0


def test_chair_needs_the_classes_of_each_photograph():
    with pytest.raises(UserError, match="2 captions but the classes of 1"):
        metrics.chair([["a"], ["b"]], [{"dog"}])


def test_standard_errors_are_over_images_and_bleus_by_drawing_them_anew():
    words = "a dog runs on the grass with a ball".split()
    said = [words[: 4 + i % 5] for i in range(40)]
    people = [[words, words[: 3 + i % 4]] for i in range(40)]
    found = metrics.standard_errors(said, people)
    each = metrics.cider(said, people)
    assert found["CIDEr"] == pytest.approx(each.std(ddof=1) / 40**0.5)
    assert found.keys() == metrics.evaluate(said, people).keys()
    rng = np.random.default_rng(5)
    draws = [rng.integers(40, size=40) for _ in range(400)]
    scores = [metrics.bleu([said[n] for n in drawn], [people[n] for n in drawn])[3] for drawn in draws]
    assert found["BLEU-4"] == pytest.approx(np.std(scores), rel=0.25)
    assert metrics.standard_errors(said[:1] * 5, people[:1] * 5, ["BLEU"])["BLEU-4"] == pytest.approx(0, abs=1e-9)
