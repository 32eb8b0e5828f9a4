"""Questions derived from boxes: groups of one text whose answers differ, each true of its photograph."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from data.derived.boxes import MOST, Boxed, derive
from data.records import Box
from data.words.english import plural

LEFT, MIDDLE, RIGHT = Box(0.0, 0.2, 0.2, 0.8), Box(0.4, 0.2, 0.6, 0.8), Box(0.8, 0.2, 1.0, 0.8)
SPECK = Box(0.5, 0.5, 0.51, 0.51)


def _photograph(number, **boxes):
    return Boxed(Path(f"{number}.jpg"), f"coco:{number}", {name: tuple(each) for name, each in boxes.items()})


@pytest.fixture(scope="module")
def photographs():
    """Kitchens and meadows with one to four of a thing, and a speck of a bird in each meadow."""
    found = []
    for number in range(24):
        many = [LEFT, MIDDLE, RIGHT, Box(0.3, 0.0, 0.5, 0.1)][: 1 + number % 4]
        if number < 12:
            found.append(_photograph(number, cup=many, oven=[MIDDLE]))
        else:
            found.append(_photograph(number, dog=many, bird=[SPECK]))
    return found


@pytest.fixture(scope="module")
def asked(photographs):
    return derive(photographs)


def test_who_does_not_look_is_right_by_chance(asked):
    answers = defaultdict(Counter)
    for question in asked:
        answers[question.kind, question.text][question.answer] += 1
    assert {kind for kind, _ in answers} == {"presence", "count", "choice"}
    for (kind, _), counts in answers.items():
        assert len(counts) > 1 and (kind == "choice" or len(set(counts.values())) == 1)


def test_every_answer_is_true_of_its_photograph(asked, photographs):
    by_id = {photograph.image_id: photograph.boxes for photograph in photographs}
    for question in asked:
        boxes = by_id[question.image_id]
        about = next(n for n in ("cup", "oven", "dog", "bird") if n in question.text or plural(n) in question.text)
        if question.kind == "presence":
            assert question.answer == ("yes" if about in boxes else "no")
            assert question.boxes == boxes.get(about, ())
        elif question.kind == "count":
            assert 1 <= int(question.answer) <= MOST and int(question.answer) == len(boxes[about])
        else:
            assert question.answer in boxes and sum(name in question.text for name in boxes) == 1


def test_a_speck_is_not_asked_for(asked):
    assert not any("bird" in question.text for question in asked)


def test_what_is_beside_a_thing_differs_between_two_photographs():
    asked = derive([_photograph(1, dog=[MIDDLE], cup=[LEFT]), _photograph(2, dog=[MIDDLE], oven=[LEFT])])
    sides = [question for question in asked if question.kind == "side"]
    assert [(q.answer, q.boxes) for q in sides] == [("cup", (LEFT,)), ("oven", (LEFT,))]
    assert len({q.text for q in sides}) == 1 and "left of the dog" in sides[0].text


def test_the_same_seed_asks_the_same(photographs, asked):
    assert derive(photographs) == asked != derive(photographs, seed=1)
