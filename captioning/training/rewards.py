"""What sampled captions are rewarded by: the likeness to people's captions, and the truth of the classes they name.

CIDEr-D alone rewards 'a man with a dog' where most captions of such scenes say so; naming a class that is not
there costs (Rohrbach et al. 2018 measure it so), naming one that is there pays, and so does not repeating oneself.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from captioning.metrics import CiderD
from captioning.training.corpus import Subject
from data.words.coco_classes import mentioned
from data.words.vocabulary import END, SPECIAL

_END = SPECIAL[END]


@dataclass(frozen=True)
class Weights:
    """What a class that is not there costs, what one that is there pays, what a repetition costs; CIDEr-D has 1.

    Where a subject's classes are known by its captions alone, truth and untruth count `unsure` as much.
    """

    false: float = 0.5
    true: float = 0.5
    repeated: float = 0.2
    unsure: float = 0.5


class Rewards:
    """Rewards of captions of some subjects; document frequencies are of these subjects' captions."""

    def __init__(self, subjects: Sequence[Subject]):
        self.scorer = CiderD([[[*tokens, _END] for tokens in subject.tokens] for subject in subjects])
        self.there = [subject.classes for subject in subjects]
        self.said = [frozenset().union(*map(mentioned, subject.tokens)) for subject in subjects]
        self.boxed = [subject.boxed for subject in subjects]

    def __call__(self, words: Sequence[str], ended: bool, number: int, weights: Weights) -> float:
        """The reward of a caption of subject `number`.

        The end is scored as a word, or captions learn to stop in the middle of a phrase.
        """
        likeness = self.scorer.score([*words, _END] if ended else words, number)
        return likeness + self.truth(mentioned(words), number, weights) - weights.repeated * repetitions(words)

    def truth(self, named: Collection[str], number: int, weights: Weights) -> float:
        """What the classes that a caption names are worth: those there pay, those neither there nor said cost."""
        there, said = self.there[number], self.said[number]
        false, true = len(set(named) - there - said), len(set(named) & there)
        certain = 1.0 if self.boxed[number] else weights.unsure
        return certain * (weights.true * true - weights.false * false)


def repetitions(words: Sequence[str]) -> int:
    """How often a word follows itself, and how many runs of three words were there before."""
    twice = sum(word == following for word, following in zip(words, words[1:], strict=False))
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return twice + len(runs) - len(set(runs))
