"""Questions made of captions whose photographs nobody has."""

import pytest

from data.derived import cloze
from data.records import CaptionedText

ANSWERS = frozenset({"cat", "bench", "red", "2", "bathroom", "gray"})


@pytest.mark.parametrize(
    ("caption", "kind", "asked", "answer"),
    [
        ("a cat sits on the bench", "object", "what sits on the bench", "cat"),
        ("a dog is next to a large red bench", "object", "what is a dog is next to", "bench"),
        ("a dog is next to a large red bench", "color", "what is the color of the bench", "red"),
        ("a grey dog runs", "color", "what is the color of the dog", "gray"),
        ("two dogs run on grass", "number", "how many dogs run on grass", "2"),
        ("a dog waits in the bathroom", "location", "where is a dog waits", "bathroom"),
    ],
)
def test_a_noun_phrase_is_taken_out_and_asked_for(caption, kind, asked, answer):
    found = list(cloze._of_caption(caption.split(), ANSWERS))
    assert (kind, asked.split(), answer) in found


@pytest.mark.parametrize("caption", ["a cat shaped cookie", "cat", "three dogs", "a zebra in a field", ""])
def test_what_is_not_a_phrase_of_its_own_or_no_answer_is_not_asked_for(caption):
    assert not list(cloze._of_caption(caption.split(), ANSWERS))


def test_questions_say_where_they_are_from_and_the_same_seed_gives_the_same():
    texts = [CaptionedText(f"coco:{i}", ("A cat sits on two red benches in the bathroom.",)) for i in range(20)]
    found = cloze.caption_questions(texts, ANSWERS, seed=3)
    assert found == cloze.caption_questions(texts, ANSWERS, seed=3) != cloze.caption_questions(texts, ANSWERS, seed=4)
    assert {q.source for q in found} == {"captions"} and {q.image_id for q in found} <= {t.image_id for t in texts}
    assert {q.kind for q in found} == {"object", "color", "number", "location"}
