"""What five captions of a photograph say of the things in it: the facts that questions are derived from.

An entity is a chain of phrases that Flickr30k Entities ties together (and to boxes) across the captions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from data.records import Box, GroundedImage, Phrase
from data.words.english import color_of, gerund, head_noun, is_plural, modified_nouns, number_of, singular

AUXILIARIES = ("is", "are")
ADVERBS = frozenset("now currently happily quickly slowly also both all each together".split())
PREPOSITIONS = frozenset(
    "in on at over through into with across along down up onto under behind from off out of near by "
    "around past towards toward against to inside beside above front next".split()
)
BASIC_COLORS = {"red", "blue", "green", "yellow", "black", "white", "brown"}
# The words between two phrases: the second is worn by the first; it is one of two; it is on who is spoken of.
WEARING = {("wearing",), ("wears",), ("is", "wearing"), ("are", "wearing"), ("wear",), ("dressed", "in")}
JOINED = {("and",), (",",), (",", "and")}
WORN = {(), ("in",), ("with",), ("wearing",), ("and",), ("dressed", "in"), ("wears",), (",",), ("in", "a")}


@dataclass(frozen=True)
class Lexicon:
    """The verbs (-ing forms) and head nouns that derivation knows, learnt from the training captions."""

    verbs: frozenset[str]
    nouns: frozenset[str]

    @classmethod
    def of(cls, images: Sequence[GroundedImage], verb_count: int = 3, noun_share: float = 0.001) -> Lexicon:
        """Verbs seen `verb_count` times behind 'is' or 'are'; nouns named in a share of the photographs."""
        return cls(gerunds(images, verb_count), frequent_nouns(images, max(2, round(noun_share * len(images)))))


@dataclass
class Entity:
    """What the captions of one photograph agree on about one thing in it."""

    id: str
    kinds: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    colors: Counter[str] = field(default_factory=Counter)
    numbers: Counter[int] = field(default_factory=Counter)
    captions: set[int] = field(default_factory=set)
    boxes: tuple[Box, ...] = ()

    @property
    def name(self) -> str:
        """The commonest head noun; the alphabetically first on a tie; '' when no mention has one."""
        return min(self.names, key=lambda name: (-self.names[name], name)) if self.names else ""

    @property
    def color(self) -> str:
        """The colour on which two thirds of the coloured mentions agree, or ''."""
        return _agreed(self.colors)

    @property
    def number(self) -> int | None:
        """The number all mentions that give one agree on, or None."""
        return next(iter(self.numbers)) if len(self.numbers) == 1 else None


@dataclass(frozen=True)
class Relation:
    """`subject` is `verb`-ing `preposition` `object`: ('12', 'jumping', 'over', '13')."""

    subject: str
    verb: str
    preposition: str
    object: str

    @property
    def deed(self) -> str:
        return f"{self.verb} {self.preposition}".strip()

    def is_worn(self, clothing: str | None = None) -> bool:
        """Whether the subject wears something, or the one thing `clothing`."""
        return self.verb == "wearing" and clothing in (None, self.object)


@dataclass
class Facts:
    """What the captions of one photograph say: its entities, who does what to what, and every word."""

    image: GroundedImage
    entities: dict[str, Entity]
    relations: Counter[Relation]
    activities: dict[str, set[str]]
    words: frozenset[str]

    def named(self, name: str) -> list[Entity]:
        """The entities that have ever been called `name`, in singular or plural."""
        return [e for e in self.entities.values() if any(singular(n) == singular(name) for n in e.names)]

    def only(self, entity: Entity) -> bool:
        """Whether 'the NAME' can only mean this entity."""
        return bool(entity.name) and len(self.named(entity.name)) == 1


def _agreed(counts: Counter[str]) -> str:
    if not counts:
        return ""
    best, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return best if 3 * count >= 2 * sum(counts.values()) else ""


def gerunds(images: Iterable[GroundedImage], minimum: int = 3) -> frozenset[str]:
    """The -ing forms that follow 'is' or 'are' at least `minimum` times: the verbs that derivation knows."""
    counts = Counter(
        after
        for image in images
        for caption in image.captions
        for word, after in pairwise(caption.tokens)
        if word in AUXILIARIES and after.endswith("ing")
    )
    return frozenset(
        word for word, count in counts.items() if count >= minimum and word not in ("being", "wearing", "having")
    )


def frequent_nouns(images: Iterable[GroundedImage], minimum: int) -> frozenset[str]:
    """The head nouns named in at least `minimum` photographs, whatever their number."""
    counts = Counter(
        noun
        for image in images
        for noun in {head_noun(mention.words) for caption in image.captions for mention in caption.phrases}
    )
    return frozenset(noun for noun, count in counts.items() if noun and count >= minimum)


def describe(image: GroundedImage, lexicon: Lexicon) -> Facts:
    """What the captions say: entities, and relations between them."""
    entities: dict[str, Entity] = {}
    relations: Counter[Relation] = Counter()
    activities: dict[str, set[str]] = defaultdict(set)
    for number, caption in enumerate(image.captions):
        for mention in caption.phrases:
            if "notvisual" not in mention.kinds and mention.entity != "0":
                entity = entities.setdefault(mention.entity, Entity(mention.entity))
                _add(entity, mention, number, lexicon.nouns)
                entity.boxes = mention.boxes
        for relation in dict.fromkeys(_relations(caption.tokens, caption.phrases, lexicon.verbs)):
            if relation.object:
                relations[relation] += 1
            activities[relation.subject].add(relation.verb)
    words = {word for caption in image.captions for word in caption.tokens}
    said = words | {singular(head_noun([word]) or word) for word in words}
    return Facts(image, entities, relations, activities, frozenset(said))


def _add(entity: Entity, mention: Phrase, caption: int, nouns: frozenset[str]) -> None:
    entity.kinds.update(mention.kinds)
    entity.captions.add(caption)
    name = head_noun(mention.words)
    if name not in nouns:
        return
    entity.names[name] += 1
    # 'a man in a red hat' in one phrase, or 'red and blue shirts': the colour is not the head's own.
    inner = modified_nouns(mention.words)
    joined = "and" in inner and len(set(inner) & BASIC_COLORS) > 1
    color = color_of(inner[:-1])
    if color and not (joined and is_plural(name)) and not {"in", "with", "striped", "plaid"} & set(inner):
        entity.colors[color] += 1
    number = number_of(mention.words)
    if number is not None:
        entity.numbers[number] += 1


def _relations(words: tuple[str, ...], mentions: Sequence[Phrase], verbs: frozenset[str]) -> Iterator[Relation]:
    """Who does what to what in one caption; relations without an object have object ''."""
    for place, mention in enumerate(mentions):
        after = mentions[place + 1] if place + 1 < len(mentions) else None
        between = words[mention.stop : after.start if after else len(words)]
        between = tuple(word for word in between if word not in ADVERBS)
        subject = _subject(mentions, place, words)
        if subject is None or not between:
            continue
        clothes = after if after and "clothing" in after.kinds else None
        if between in WEARING or (between == ("in",) and clothes and subject is mention):
            if clothes:
                yield Relation(subject.entity, "wearing", "", clothes.entity)
        else:
            yield from _deed(subject, between, after, verbs)


def _deed(subject: Phrase, between: tuple[str, ...], after: Phrase | None, verbs: frozenset[str]) -> Iterator[Relation]:
    """What the words `between` two phrases say that the subject does, and to what."""
    rest = between[1:] if between[0] in AUXILIARIES else between
    verb = gerund(rest[0], verbs) if rest else ""
    if not verb or (between[0] in AUXILIARIES and not rest[0].endswith("ing")):
        return
    plain = len(rest) <= 4 and all(word in PREPOSITIONS for word in rest[1:])
    if after and plain and after.entity not in ("0", subject.entity) and "notvisual" not in after.kinds:
        yield Relation(subject.entity, verb, " ".join(rest[1:]), after.entity)
    else:
        yield Relation(subject.entity, verb, "", "")


def _subject(mentions: Sequence[Phrase], place: int, words: tuple[str, ...]) -> Phrase | None:
    """The person, animal or vehicle that the words behind mention `place` speak of."""
    for mention, before in zip(mentions[place::-1], [*mentions[:place][::-1], None], strict=True):
        link = words[before.stop : mention.start] if before else None
        if {"people", "animals", "vehicles"} & set(mention.kinds):
            # 'a dog and a cat are ...', 'a man watches a boy riding ...': two could be meant, so neither is.
            return None if link in JOINED else mention
        if not {"clothing", "bodyparts"} & set(mention.kinds) or link not in WORN:
            return None
    return None
