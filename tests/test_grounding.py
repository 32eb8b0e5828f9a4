"""Grounding measures against slow twins and literals, and the measurement against what it must find."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from captioning import grounding
from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from common.errors import UserError
from common.formulas import activation_energy
from common.metrics import grounding as metrics
from data.readers.entities import parse
from data.records import GroundedCaption, Phrase
from tests.captioners import small

SIZE = (24, 32)
LEFT_HALF = [[0.0, 0.0, 0.5, 1.0]]


def _maps(count, h=5, w=6):
    return torch.rand(count, h, w, generator=torch.Generator().manual_seed(3))


def _random_boxes(count):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(count):
        x, y = np.sort(rng.random((rng.integers(1, 4), 2))), np.sort(rng.random((4, 2)))
        found.append([[a, c, b, d] for (a, b), (c, d) in zip(x, y, strict=False)])
    return found


def _slow_upsampled(heatmap, size):
    """Bilinear, corners not aligned, one pixel at a time in float64."""
    h, w = heatmap.shape
    big = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            dy, dx = y - a, x - b
            big[i, j] = (heatmap[a, b] * (1 - dy) * (1 - dx) + heatmap[a, d] * (1 - dy) * dx
                         + heatmap[c, b] * dy * (1 - dx) + heatmap[c, d] * dy * dx)  # fmt: skip
    return big


def _inside(x, y, boxes):
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def test_measures_agree_with_slow_twins():
    maps, boxes = _maps(12), _random_boxes(12)
    pointing, ratio, energy, chance = [], [], [], []
    for heatmap, each in zip(maps.double().numpy(), boxes, strict=True):
        big = _slow_upsampled(heatmap, SIZE)
        spots = [((j + 0.5) / SIZE[1], (i + 0.5) / SIZE[0], big[i, j]) for i in range(SIZE[0]) for j in range(SIZE[1])]
        best = max(spots, key=lambda spot: spot[2])
        within = [value for x, y, value in spots if _inside(x, y, each)]
        without = [value for x, y, value in spots if not _inside(x, y, each)]
        pointing.append(float(_inside(best[0], best[1], each)))
        ratio.append(np.mean(within) / np.mean(without) if within and without else math.nan)
        energy.append(sum(within) / sum(value for *_, value in spots))
        chance.append(len(within) / len(spots))
    np.testing.assert_allclose(metrics.pointing(maps, boxes, SIZE), pointing)
    np.testing.assert_allclose(metrics.inside_outside(maps, boxes, SIZE), ratio, rtol=1e-5)
    np.testing.assert_allclose(metrics.energy_inside(maps, boxes, SIZE), energy, rtol=1e-5)
    np.testing.assert_allclose(metrics.random_hit(boxes, SIZE), chance)


def test_a_map_of_one_half_is_read_as_a_person_would():
    heatmap = torch.zeros(1, 4, 4)
    heatmap[0, 1, 0] = 2.0
    assert metrics.pointing(heatmap, [LEFT_HALF]).tolist() == [1.0]
    assert metrics.pointing(heatmap.flip(-1), [LEFT_HALF]).tolist() == [0.0]
    assert metrics.energy_inside(heatmap, [LEFT_HALF]).item() == pytest.approx(1.0)
    assert metrics.inside_outside(heatmap, [LEFT_HALF]).item() == math.inf
    assert metrics.inside_outside(torch.ones(1, 4, 4), [LEFT_HALF]).item() == pytest.approx(1.0)
    assert metrics.peak(heatmap, (4, 4)).tolist() == [[0.125, 0.375]]


def test_any_of_several_boxes_counts():
    heatmap = torch.zeros(1, 8, 8)
    heatmap[0, 7, 7] = 1
    two = [[0.0, 0.0, 0.1, 0.1], [0.9, 0.9, 1.0, 1.0]]
    assert metrics.pointing(heatmap, [two]).item() == 1
    assert metrics.random_hit([two + two], (100, 100)).item() == pytest.approx(0.02)


def test_a_map_of_zeros_points_nowhere():
    nothing = torch.zeros(2, 4, 4)
    assert metrics.pointing(nothing, [LEFT_HALF] * 2).tolist() == [0, 0]
    assert metrics.energy_inside(nothing, [LEFT_HALF] * 2).isnan().all()
    assert metrics.inside_outside(nothing, [LEFT_HALF] * 2).tolist() == [1, 1]  # as even as the uniform map


def test_without_boxes_or_with_boxes_of_everything_nothing_is_measured():
    maps = _maps(2)
    assert metrics.pointing(maps, [[], []]).isnan().all()
    assert metrics.centre_hit([[], []]).isnan().all()
    assert metrics.inside_outside(maps, [[], [[0, 0, 1, 1]]]).isnan().all()
    assert metrics.random_hit([[]]).isnan().all()
    for measure in (metrics.pointing, metrics.inside_outside, metrics.energy_inside):
        assert measure(torch.zeros(0, 4, 4), []).shape == (0,)


def test_baselines_are_what_they_say():
    assert metrics.centre_hit([LEFT_HALF, [[0.6, 0.0, 1.0, 1.0]]]).tolist() == [1.0, 0.0]
    x, y = metrics.peak(metrics.centre_map(1, 7, 7))[0].tolist()
    assert abs(x - 0.5) < 0.01 and abs(y - 0.5) < 0.01
    A = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])
    assert activation_energy(A).tolist() == [[[10.0, 4.0]]]


def test_what_does_not_fit_is_an_error():
    with pytest.raises(UserError, match="2 maps but 1"):
        metrics.pointing(_maps(2), [LEFT_HALF])
    with pytest.raises(UserError, match=r"\(n, 4\)"):
        metrics.pointing(_maps(1), [[[0, 1]]])
    with pytest.raises(UserError, match=r"\(T, h, w\)"):
        metrics.peak(torch.rand(4, 4))


def test_a_summary_counts_what_is_left_out_and_what_belongs_together():
    plain = metrics.summary([1.0, 2.0, 3.0, math.nan, math.inf])
    assert (plain.mean, plain.n, plain.left_out) == (2.0, 3, 2)
    assert metrics.summary([1.0, 2.0, math.inf, math.inf, math.nan, 3.0]).median == 3.0
    assert plain.error == pytest.approx(1 / math.sqrt(3))
    # two values in each group that are the same say no more than one of them
    together = metrics.summary([0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1, 2, 2])
    assert together.error == pytest.approx(metrics.summary([0.0, 1.0, 1.0]).error)
    empty = metrics.summary([])
    assert math.isnan(empty.mean) and empty.n == 0
    assert math.isnan(metrics.summary([1.0]).error)


SENTENCE = "[/EN#1/people A red dog] runs to [/EN#2/scene the ball] and [/EN#3/other the zebra] ."
BOXES = {"1": ((0.0, 0.0, 0.5, 0.5),), "2": ((0.5, 0.5, 1.0, 1.0),), "3": ((0.2, 0.2, 0.3, 0.3),)}


@pytest.fixture(scope="module")
def captioner():
    return Captioner(LstmNetwork(small(dtype=torch.float32)))


@pytest.fixture(scope="module")
def seen(captioner):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 30, 3), dtype=np.uint8)
    return captioner.encode([Image.fromarray(each) for each in pixels])


def test_words_are_the_head_nouns_of_phrases_with_boxes(captioner):
    caption = parse(SENTENCE, BOXES)
    (case,) = grounding.human_cases(0, [caption], captioner.network, ["cat", "dog", "ball"])
    assert [(span.word, span.kind, span.start) for span in case.heads] == [("dog", "people", 2), ("ball", "scene", 6)]
    assert [span.word for span in case.phrases] == ["a red dog", "the ball", "the zebra"]
    assert case.wrong == ("cat", "cat")  # 'dog' and 'ball' were said of the image
    without = parse(SENTENCE, {})
    assert grounding.human_cases(0, [without], captioner.network) == []


def test_a_generated_word_takes_the_boxes_of_all_phrases_it_heads(captioner, seen):
    written = captioner.caption(seen, max_length=3)[0]
    other = parse("[/EN#4/people Dogs] sit", {"4": ((0.8, 0.8, 0.9, 0.9),)})
    fixed = type(written)(("the", "dog", "sits"), (-1.0, -1.0, -1.0), -4.0, captioner.network.read("the dog sits"))
    case = grounding.generated_case(0, fixed, [parse(SENTENCE, BOXES), other])
    assert [(span.word, span.boxes) for span in case.heads] == [("dog", ((0.0, 0.0, 0.5, 0.5), (0.8, 0.8, 0.9, 0.9)))]


def test_a_measurement_is_that_of_the_maps_explained_one_by_one(captioner, seen):
    captions = [parse(SENTENCE, BOXES), parse("[/EN#3/other the cat] sits on [/EN#1/people a red dog]", BOXES)]
    cases = [
        case for row in range(2) for case in grounding.human_cases(row, captions, captioner.network, ["cat", "ball"])
    ]
    records = grounding.measure(captioner, seen, cases)
    assert len(records) == sum(len(case.heads) + len(case.phrases) for case in cases)
    expected = []
    for case in cases:
        found = captioner.explain(seen, case.text.text)[case.image] if not case.text.unknown else None
        if found is None:
            continue
        for span in case.heads:
            heatmap = found.heatmaps[1 + span.start]
            expected.append((case.image, span.word, metrics.pointing(heatmap, [span.boxes]).item(),
                             metrics.energy_inside(heatmap, [span.boxes]).item()))  # fmt: skip
    measured = {(r.image, r.word): r for r in records if not r.is_phrase and r.word in ("cat", "dog")}
    for image, word, hit, energy in expected[-2:]:
        assert measured[image, word].pointing["gradcam"] == hit
        np.testing.assert_allclose(measured[image, word].energy["gradcam"], energy, rtol=1e-4)


def test_another_words_map_is_measured_on_this_words_boxes(captioner, seen):
    caption = parse("[/EN#1/people the dog] and [/EN#2/scene the ball]", BOXES)
    (case,) = grounding.human_cases(0, [caption], captioner.network)
    records = {r.word: r for r in grounding.measure(captioner, seen, [case]) if not r.is_phrase}
    maps = captioner.explain(seen, "the dog and the ball")[0].heatmaps
    wanted = metrics.energy_inside(maps[5], [BOXES["1"]]).item()  # the map of 'ball' on the boxes of the dog
    np.testing.assert_allclose(records["dog"].energy["other word"], wanted, rtol=1e-4)


def test_a_table_has_all_types_and_leaves_out_what_is_undefined():
    records = [
        grounding.Record(0, "dog", "animals", False, {"gradcam": 1.0, "other word": math.nan}),
        grounding.Record(1, "man", "people", False, {"gradcam": 0.0, "other word": 1.0}),
        grounding.Record(1, "a man", "people", True, {"gradcam": 1.0}),
    ]
    table = grounding.table(records, False, lambda r: r.pointing)
    assert set(table) == {"all", "animals", "people"}
    assert table["all"]["gradcam"].mean == 0.5 and table["all"]["other word"].n == 1
    assert grounding.paired(records, "gradcam", "other word").mean == -1.0
    assert grounding.table([], False, lambda r: r.pointing) == {"all": {}}


def test_the_half_that_owes_the_picture_most_is_measured_apart():
    shares = [0.1, 3.0, -1.0, 2.0, math.nan]
    records = [
        grounding.Record(n, "dog", "animals", False, {"gradcam": float(share > 1)}, visual=share)
        for n, share in enumerate(shares)
    ]
    table = grounding.table(records, False, lambda r: r.pointing)
    assert [table[part]["gradcam"].mean for part in ("all", "visual half", "other half")] == [0.4, 1.0, 0.0]
    assert [len(part) for part in grounding.parts(records).values()] == [5, 2, 2, 5]
    assert set(grounding.parts(records[-1:])) == {"all", "animals"}  # nothing is known of the picture's part


def test_what_comes_from_the_picture_stands_beside_what_is_measured(captioner, seen, monkeypatch):
    caption = parse("[/EN#1/people the dog] and [/EN#2/scene the ball]", BOXES)
    (case,) = grounding.human_cases(1, [caption], captioner.network)
    monkeypatch.setattr(captioner.network, "without_image", lambda query: None)
    assert all(math.isnan(r.visual) for r in grounding.measure(captioner, seen, [case]))
    mean = seen.features.mean(0, keepdim=True)
    monkeypatch.setattr(captioner.network, "without_image", lambda query: captioner.network.head(mean, query))
    known = captioner.score(seen, "the dog and the ball")[1].visual
    for score in ("log_probability", "logit"):
        found = {r.word: r.visual for r in grounding.measure(captioner, seen, [case], score, ("hirescam", "gradcam"))}
        np.testing.assert_allclose([found["dog"], found["ball"]], [known[1], known[4]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["the dog"], known[0] + known[1], rtol=1e-4, atol=1e-5)


def test_no_grounded_word_means_no_record(captioner, seen):
    assert grounding.measure(captioner, seen, []) == []
    empty = GroundedCaption("a dog", ("a", "dog"), (Phrase(("a", "dog"), 0, 2, "1", ("people",), ()),))
    assert grounding.human_cases(0, [empty], captioner.network) == []


def test_classes_of_coco_are_found_by_word_and_by_pair_of_words(captioner, monkeypatch):
    from data.records import Instance
    from data.words import coco_classes

    monkeypatch.setitem(coco_classes.CLASS_OF, "cat run", "cat fish")
    text = captioner.network.read(["the", "dog", "cat", "runs", "zebra"])
    instances = [Instance(name, (0, 0, 0.5, edge)) for name, edge in (("dog", 0.5), ("cat fish", 1), ("zebra", 1))]
    case = grounding.class_case(0, text, instances, ["dog", "ball"])
    # the model doesn't know 'zebra'; 'ball' is a class that the image doesn't have
    assert [(s.word, s.kind, s.stop) for s in case.heads] == [("dog", "dog", 2), ("cat runs", "cat fish", 4)]
    assert case.wrong == ("ball", "ball")
    assert grounding.class_case(0, text, [Instance("person", (0, 0, 1, 1))]).heads == ()
