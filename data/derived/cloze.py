"""Questions made of captions whose photographs nobody has: what, what colour, how many, where.

COCO-QA's way (Ren et al., NIPS 2015, section 3.3), by simple rules instead of a parser: a noun phrase of a caption is
taken out and asked for: of 'a cat sits on the wooden bench' come 'what sits on the wooden bench?', 'what is a cat sits
on?' and 'where is a cat sits?'. They are as clumsy as many of COCO-QA's, and *derived*: nobody asked them. They teach
what goes with what: which things are 'next to a laptop on a desk'.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from data.records import CaptionedText, Question
from data.words.english import COLORS, NUMBERS
from data.words.vocabulary import FUNCTION_WORDS

LONGEST = 16  # words of a caption that are read
SOURCE = "captions"
_SHADES = COLORS | {"grey"}
_BOUNDS = frozenset(
    "of in on with at by to and is are near for from over into under onto through behind next".split()
)  # what a noun phrase does not reach across
_SIZES = frozenset("large small young little big old wooden".split())
_PLACED = frozenset({"in", "on", "at"})
_SHARES = {"color": 0.7, "number": 0.7, "object": 0.5, "location": 0.25}  # of the questions of a kind that are kept


def caption_questions(texts: Sequence[CaptionedText], answers: Collection[str], seed: int = 0) -> list[Question]:
    """Questions about `texts`, each with one of `answers`; their images are the texts' ids, and have no file."""
    rng = random.Random(seed)
    found: list[Question] = []
    for text in texts:
        for tokens in text.tokens:
            for kind, asked, answer in _of_caption(tokens[:LONGEST], answers):
                if rng.random() < _SHARES[kind]:
                    found.append(
                        Question(
                            f"{SOURCE}-{len(found)}",
                            " ".join(asked),
                            Path(),
                            text.image_id,
                            answer,
                            (answer,),
                            kind,
                            SOURCE,
                        )  # fmt: skip
                    )
    return found


def _of_caption(words: Sequence[str], answers: Collection[str]) -> Iterator[tuple[str, list[str], str]]:
    """(kind, question's words, answer) of each noun phrase that can be asked for."""
    for place, word in enumerate(words):
        after, then = [*words[place + 1 : place + 3], "", ""][:2]
        if word in _SHADES:
            color = "gray" if word == "grey" else word
            if color in answers and after.isalpha() and after not in FUNCTION_WORDS | _SHADES:
                yield "color", ["what", "is", "the", "color", "of", "the", after], color
        elif NUMBERS.get(word, 0) and after.isalpha():
            if str(NUMBERS[word]) in answers:
                yield "number", ["how", "many", *words[place + 1 :]], str(NUMBERS[word])
        elif (
            word in answers
            and word not in FUNCTION_WORDS
            and (_bounds(after) or after.endswith("ing") or (place < 4 and _is_deed(after, then)))
        ):
            yield from _thing(words, place)


def _bounds(word: str) -> bool:
    """Whether a noun phrase ends before `word`."""
    return not word or word in FUNCTION_WORDS or word in _BOUNDS


def _is_deed(word: str, after: str) -> bool:
    """Whether a caption's first noun does `word`: 'sits on', 'parked beside'."""
    return word.endswith(("s", "ed")) and bool(after) and _bounds(after)


def _thing(words: Sequence[str], place: int) -> Iterator[tuple[str, list[str], str]]:
    start = place
    while start and words[start - 1] not in _BOUNDS and words[start - 1] in FUNCTION_WORDS | _SHADES | _SIZES:
        start -= 1
    before, after = list(words[:start]), list(words[place + 1 :])
    if len(before) > 1 and before[-1] in _PLACED and len(after) < 2:
        be = "are" if words[0] in NUMBERS or words[0].endswith("s") else "is"
        yield "location", ["where", be, *before[:-1]], words[place]
    rest = before + after
    if len(rest) > 1:
        does = not before and rest[0].endswith(("s", "ed"))  # 'what sits', 'what parked'
        yield "object", ["what", *([] if does else ["is"]), *rest], words[place]
