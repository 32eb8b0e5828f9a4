"""The concepts that a trunk looks for, and image-level targets for them: what is there, what isn't, what isn't known.

Concepts are COCO's 80 classes, which have a count as well, and the words that captions say most. A target is in
[0, 1], its weight 0 where nothing is known: a photograph without boxes may show a chair that no caption speaks of.

Letters: n photographs, C classes, W words, E = C+W concepts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.errors import UserError
from common.training.trunk.corpus import Corpus, Photograph, Targets, Texts
from data.derived.known import Known, Source, of_split, read_known, read_texts
from data.records import CaptionedText
from data.words.coco_classes import CLASSES, mentioned
from data.words.imagenet import classes_of_noun
from data.words.vocabulary import FUNCTION_WORDS

NUMBERS = ("two", "three", "four", "several", "many")
"""Words that say how many there are: concepts as well, but nothing that classes speak for."""
ABSENT = 0.2  # weight of a word that no question tells of
TOLD = 0.8  # least target of a word that a question shows to be true
NEEDED = 3  # photographs that a word of questions is told of, to be a concept


@dataclass(frozen=True)
class Concepts:
    """The names of what is looked for: `classes`, which are counted, then `words`; a name may be in both."""

    classes: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.classes, *self.words)

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Word -> its number among the words."""
        return {word: number for number, word in enumerate(self.words)}

    def shares(self, captions: Sequence[Sequence[str]]) -> np.ndarray:
        """(W,): the share of the captions that say each word."""
        found = np.zeros(len(self.words), np.float32)
        for word, said in Counter(word for caption in captions for word in set(caption)).items():
            if word in self.place:
                found[self.place[word]] = said / len(captions)
        return found

    def has(self, classes: Iterable[str]) -> np.ndarray:
        """(C,): 1 for each of `classes`."""
        wanted = set(classes)
        return np.array([name in wanted for name in self.classes], np.float32)


def choose_concepts(photographs: Sequence[Known], texts: Sequence[CaptionedText], count: int) -> Concepts:
    """COCO's classes and the `count` words that captions of the training photographs and of `texts` say most.

    The two are weighed alike whatever their number, COCO's texts twice, since they speak of more kinds of things.
    Where there are no captions, concepts are the words that questions tell of.
    """
    said: dict[str, float] = defaultdict(float)
    captioned = [p.captions for p in photographs if p.captions]
    for captions, weight in ((captioned, 1.0), ([text.tokens for text in texts], 2.0)):
        for word, share in _mean_shares(captions).items():
            said[word] += weight * share
    if said:
        kept = [w for w in said if w.isalpha() and (w not in FUNCTION_WORDS or w in NUMBERS)]
        return Concepts(CLASSES, tuple(sorted(kept, key=lambda w: (-said[w], w))[:count]))
    told = Counter(word for p in photographs for word, there in p.told.items() if there)
    kept = [word for word, number in told.items() if number >= NEEDED]
    with_boxes = any(p.instances is not None for p in photographs)
    return Concepts(CLASSES if with_boxes else (), tuple(sorted(kept, key=lambda w: (-told[w], w))[:count]))


def _mean_shares(images: Sequence[Sequence[Sequence[str]]]) -> dict[str, float]:
    """Word -> the mean over images of the share of their captions that say it."""
    found: dict[str, float] = defaultdict(float)
    for captions in images:
        for word in (word for caption in captions for word in set(caption)):
            found[word] += 1 / (len(captions) * len(images))
    return found


def mention_rates(texts: Iterable[CaptionedText], concepts: Concepts) -> np.ndarray:
    """(C,): the share of photographs showing a class that have a caption naming it; a half where nothing is known."""
    named, shown = np.ones(len(concepts.classes)), np.full(len(concepts.classes), 2.0)
    for text in texts:
        there = concepts.has(text.labels)
        shown += there
        named += there * concepts.has({name for tokens in text.tokens for name in mentioned(tokens)})
    return (named / shown).astype(np.float32)


def targets_of(photographs: Sequence[Known], concepts: Concepts, rates: np.ndarray) -> Targets:
    """The targets of photographs; `rates` (C,) are `mention_rates`."""
    made = Targets.unknown(len(photographs), len(concepts.classes), len(concepts.words))
    for row, known in enumerate(photographs):
        values, weights, counts = made.values[row], made.weights[row], made.counts[row]
        size = len(concepts.classes)
        if known.instances is not None:
            values[:size], weights[:size], counts[:] = _of_boxes(known, concepts)
        elif known.captions:
            values[:size], weights[:size] = _of_mentions(known, concepts, rates)
        values[size:], weights[size:] = _of_words(known, concepts)
    return made


def _of_boxes(known: Known, concepts: Concepts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, weights and counts (C,) of the classes by boxes.

    In a crowd the number isn't known; of what can hardly be seen neither the number nor whether it counts as there.
    """
    instances = known.instances or ()
    sure = Counter(i.name for i in instances if not i.crowd and not i.difficult)
    vague = {i.name for i in instances if i.crowd or i.difficult}
    there = sure.keys() | {i.name for i in instances if i.crowd}
    numbers = np.array([sure[name] for name in concepts.classes], np.int16)
    counted = concepts.has(known.covered - vague) > 0
    return concepts.has(there), concepts.has(known.covered - (vague - there)), np.where(counted, numbers, -1)


def _of_mentions(known: Known, concepts: Concepts, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights (C,) of the classes by what captions mention.

    A class that they don't mention is absent as surely as two of them would mention it; one that a single caption
    mentions is there by half.
    """
    said = Counter(name for tokens in known.captions for name in mentioned(tokens))
    times = np.array([said[name] for name in concepts.classes])
    return (times > 0).astype(np.float32), np.where(times > 0, np.minimum(1, times / 2), rates**2)


def _of_words(known: Known, concepts: Concepts) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights (W,) of the words: the share of captions that say them, or else what questions tell."""
    values, weights = np.zeros(len(concepts.words), np.float32), np.zeros(len(concepts.words), np.float32)
    if known.captions:
        return concepts.shares(known.captions), weights + 1
    if known.told:
        weights += ABSENT * np.array([word not in NUMBERS for word in concepts.words])
    for word in known.told.keys() & concepts.place.keys():
        number = concepts.place[word]
        values[number], weights[number] = TOLD if known.told[word] else 0, 1
    return values, weights


def guessed(photographs: Sequence[Known], concepts: Concepts) -> np.ndarray:
    """(n,W), true where the classes may speak for a word: of photographs with boxes of all classes, without captions.

    They speak for no number.
    """
    rows = [p.instances is not None and not p.captions and set(concepts.classes) <= p.covered for p in photographs]
    return np.outer(np.array(rows, bool), np.array([word not in NUMBERS for word in concepts.words], bool))


def read_corpus(data: Sequence[str], words: int, limit: int | None = None) -> Corpus:
    """What `data` (KIND:PATH) teaches a trunk of COCO's classes and `words` words.

    `limit` takes the first photographs of each family and split only. Raises `UserError` where none is left to train
    on.
    """
    sources = [Source.parse(text) for text in data]
    photographs = _limited(read_known(sources), limit)
    train = of_split(photographs, "train")
    if not train:
        raise UserError("no training photograph is left; every one is kept for validation")
    texts = read_texts(sources, photographs)
    concepts = choose_concepts(train, texts, words)
    classes = classes_of_noun()
    return Corpus(
        [Photograph(p.image_id, p.path, p.split) for p in photographs],
        concepts.names,
        len(concepts.classes),
        targets_of(photographs, concepts, mention_rates(texts, concepts)),
        _texts(texts, concepts),
        guessed(photographs, concepts),
        [classes.get(name, ()) for name in concepts.names],
    )


def _texts(texts: Iterable[CaptionedText], concepts: Concepts) -> Texts:
    """Those that have classes."""
    told = [text for text in texts if text.labels]
    shown = [concepts.has(text.labels) for text in told]
    said = [concepts.shares(text.tokens) for text in told]
    return Texts(
        np.array(shown, np.float32).reshape(len(told), len(concepts.classes)),
        np.array(said, np.float32).reshape(len(told), len(concepts.words)),
    )


def _limited(photographs: Sequence[Known], limit: int | None) -> list[Known]:
    """The first `limit` photographs of each family and split."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    kept = []
    for photograph in photographs:
        key = (photograph.family, photograph.split)
        seen[key] += 1
        if limit is None or seen[key] <= limit:
            kept.append(photograph)
    return kept
