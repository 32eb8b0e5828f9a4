"""Which of a trunk's concepts words and answers are names of.

Letters: V words, N answers, E concepts, the first of which are counted classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.words.coco_classes import CLASS_OF, CLASSES
from data.words.english import singular


class Concepts:
    """The concepts' numbers by name: `counted` classes first, then words of captions; a name may be in both."""

    def __init__(self, names: Sequence[str], counted: int):
        self.classes = {name: number for number, name in enumerate(names[:counted])}
        self.words = {name: number for number, name in enumerate(names[counted:], counted)}

    def class_of(self, word: str) -> int | None:
        """The class that a word or pair of words is a name of, or the start of one ('traffic' of 'traffic light')."""
        names = (*_class_names(word), _BY_START.get(word, ""))
        return next((self.classes[name] for name in names if name in self.classes), None)

    def of(self, word: str) -> list[int]:
        """The class and the word of captions that a word names: in the form it has, else in the singular."""
        own = next((self.words[form] for form in (word, singular(word)) if form in self.words), None)
        return [number for number in (self.class_of(word), own) if number is not None]


def word_concepts(words: Sequence[str], names: Sequence[str], counted: int) -> Tensor:
    """(V,3), int16: the concepts a question's word names, E in the place of those that there aren't.

    They are the class and the word of captions with its name, and the latter in the singular.
    """
    concepts = Concepts(names, counted)
    rows = []
    for word in words:
        own = [concepts.words[form] for form in (word, singular(word)) if form in concepts.words]
        found = dict.fromkeys([*concepts.of(word), *own])
        rows.append([*found, *[len(names)] * 3][:3])
    return torch.tensor(rows, dtype=torch.int16).view(len(rows), 3)


def answer_concepts(answers: Sequence[str], names: Sequence[str], counted: int) -> Tensor:
    """(N,2), int16: the concepts an answer names, E in the place of one that there isn't."""
    concepts = Concepts(names, counted)
    rows = [[*concepts.of(answer), len(names), len(names)][:2] for answer in answers]
    return torch.tensor(rows, dtype=torch.int16).view(len(answers), 2)


def _class_names(word: str) -> list[str]:
    """Names that a class may have which is called `word`."""
    return [CLASS_OF.get(word, word), CLASS_OF.get(singular(word), singular(word))]


# The first word of each class's name of which no word is a name of the class by itself.
_BY_START = {
    name.split()[0]: name
    for name in CLASSES
    if " " in name and not any(CLASS_OF.get(word) == name for word in name.split())
}
