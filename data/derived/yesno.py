"""Derived yes/no questions: pairs with the same text, yes on one photograph and no on another."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from data.derived.facts import Entity, Facts
from data.derived.templates import DEEDS, Asked, templated, to_be
from data.records import Box
from data.words.english import article, countable, is_plural, plural, singular

Key = TypeVar("Key", int, str)
Pair = tuple[Asked, Asked]
Named = tuple[Facts, Entity]  # a thing in a photograph
PRESENT = ("is there {a} in the picture?", "is there {a}?", "can you see {a} here?", "do you see {a}?")
PRESENT_MANY = ("are there {many} in the picture?", "are there any {many}?", "can you see any {many} here?")
GENERIC = frozenset({"person", "child", "group", "player", "adult", "crowd"})
EXPLICIT_PEOPLE = frozenset({"man", "woman", "boy", "girl", "baby", "child"})
# Words of which one leaves open whether the others are there as well, a group a line.
_OVERLAPPING = """
child boy girl baby teenager teen youth
person man woman adult
water ocean lake river pool pond wave surf stream beach fountain puddle boat shore waterfall creek
grass field lawn yard park meadow hill backyard
road street path sidewalk track trail city car alley highway dirt
snow ski slope mountain ice
rock mountain cliff hill boulder wall
sand beach ocean dirt shore
tree forest woods park branch
ball football basketball baseball soccer tennis toy game volleyball rugby
stick branch log toy pole
toy ball frisbee doll animal
building house city street wall store church
bike bicycle motorcycle vehicle dirtbike
car truck vehicle van traffic
crowd people group audience person
skateboard board ramp
ramp rail skateboard
air sky
bench chair table seat
boat kayak canoe raft ship
team player game football soccer
horse animal
flower garden bush
dog animal
cat animal
swing playground slide
"""
OVERLAPPING = [frozenset(line.split()) for line in _OVERLAPPING.strip().splitlines()]
# Deeds that rule one another out.
APART = (
    frozenset({"running", "sitting", "swimming", "sleeping", "lying", "climbing"}),
    frozenset({"jumping", "sitting", "swimming", "sleeping", "climbing", "digging"}),
    frozenset({"walking", "running", "sitting", "riding", "swimming", "climbing", "sleeping"}),
    frozenset({"standing", "running", "sitting", "riding", "swimming", "sleeping"}),
)


def yes_no(described: Sequence[Facts], rng: random.Random) -> list[Asked]:
    """Balanced yes/no questions: for every yes there is a no with the same text on another photograph."""
    asked: list[Asked] = []
    seen: set[tuple[str, str]] = set()
    for yes, no in (*_presence(described, rng), *_is_color(described, rng), *_is_doing(described, rng)):
        keys = {(question.image_id, question.text) for question, _ in (yes, no)}
        if not keys & seen:
            seen |= keys
            asked += [yes, no]
    return asked


def _pair(yes: Named, no: Facts, text: str, frame: str, boxes: Sequence[Box] = ()) -> Pair:
    """The question asked of two photographs; `boxes` are those of the thing on which the answer is no."""
    facts, entity = yes
    return (
        templated(facts, text, "yes", "yes/no", entity.boxes, frame),
        templated(no, text, "no", "yes/no", boxes, frame),
    )


def _presence(described: Sequence[Facts], rng: random.Random, per_image: int = 2) -> Iterator[Pair]:
    """'is there a dog?': yes where two captions name one, no where none does though all speaks for one."""
    present = [{singular(e.name): e for e in facts.entities.values() if e.name} for facts in described]
    positives = _sure(present, _told(present), per_image, rng)
    counts = Counter(noun for here in present for noun in here)
    together = _cooccurrence(present)
    words = frozenset().union(*(facts.words for facts in described))
    load: Counter[int] = Counter()
    for noun in sorted(positives, key=lambda n: (len(positives[n]), n)):
        telling = _telling(noun, words)
        weights = {
            i: sum(together[other][noun] / counts[other] for other in present[i]) + 1e-6
            for i, facts in enumerate(described)
            if load[i] <= per_image and not _maybe(noun, telling, facts)
        }
        chosen = weighted_sample(weights, len(positives[noun]), rng)
        for yes, no in zip(rng.sample(positives[noun], len(chosen)), chosen, strict=True):
            load[no] += 1
            entity = present[yes][noun]
            many = is_plural(entity.name) and countable(noun)
            text = rng.choice(PRESENT_MANY if many else PRESENT).format(a=article(noun), many=plural(noun))
            yield _pair((described[yes], entity), described[no], text, "present")


def _told(present: Sequence[dict[str, Entity]], least: float = 2.1) -> set[str]:
    """Nouns that captions don't leave out: where a thing is named, it is in `least` of five on average."""
    told: dict[str, list[int]] = defaultdict(list)
    for here in present:
        for noun, entity in here.items():
            told[noun].append(len(entity.captions))
    enough = max(4, len(present) // 400)
    return {n for n, c in told.items() if len(c) >= enough and sum(c) / len(c) >= least} - GENERIC


def _sure(
    present: Sequence[dict[str, Entity]], nouns: set[str], per_image: int, rng: random.Random
) -> dict[str, list[int]]:
    """Noun -> the photographs where it is asked for: up to `per_image` nouns each that two captions name."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, here in enumerate(present):
        sure = sorted(noun for noun, entity in here.items() if noun in nouns and len(entity.captions) > 1)
        for noun in rng.sample(sure, min(per_image, len(sure))):
            found[noun].append(index)
    return found


def _telling(noun: str, words: Iterable[str]) -> frozenset[str]:
    """Those of `words` in a caption that leave open whether the thing is in the photograph, or say so."""
    related = set().union(*(group for group in OVERLAPPING if noun in group)) | {noun}
    if noun in EXPLICIT_PEOPLE:
        related = {noun}  # a man does not speak against a woman, though a 'person' does: see `_maybe`
    return frozenset(w for w in words if w.startswith(noun) or w in related or singular(w) in related)


def _maybe(noun: str, telling: frozenset[str], facts: Facts) -> bool:
    """Whether the thing could be in the photograph, going by the words of its captions."""
    if not telling.isdisjoint(facts.words):
        return True
    if noun not in EXPLICIT_PEOPLE:
        return False
    names = {singular(name) for e in facts.entities.values() if "people" in e.kinds for name in e.names}
    young = {"boy", "girl", "baby", "child"}
    return not names <= EXPLICIT_PEOPLE or (
        noun in young and bool(names & ({"child", "baby"} if noun != "child" else young))
    )


def _cooccurrence(sets: Iterable[Collection[str]]) -> dict[str, Counter[str]]:
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for names in sets:
        for name in names:
            together[name].update(other for other in names if other != name)
    return together


def weighted_sample(weights: Mapping[Key, float], count: int, rng: random.Random) -> list[Key]:
    """`count` keys without replacement, likelier with greater weight (Efraimidis and Spirakis 2006)."""
    keys = {item: rng.random() ** (1 / weight) if weight < 50 else 1.0 for item, weight in weights.items()}
    return sorted(weights, key=lambda item: (-keys[item], item))[:count]


def _is_color(described: Sequence[Facts], rng: random.Random) -> Iterator[Pair]:
    """'is the hat red?': yes on one photograph, no on another whose hat has another colour."""

    def asked(named: Named) -> bool:
        return bool(named[1].color) and not named[1].kinds & {"people", "scene", "bodyparts"}

    for same in _by_name(described, asked):
        colors = lambda named: set(" ".join(named[1].colors).split())  # noqa: E731
        yield from _pairs(same, lambda named: {named[1].color}, colors, "colored", rng)


def _is_doing(described: Sequence[Facts], rng: random.Random) -> Iterator[Pair]:
    """'is the dog running?': yes on one photograph, no on another where it does what rules that out."""
    for group in APART:
        yield from _is_doing_of(group, described, rng)


def _is_doing_of(group: frozenset[str], described: Sequence[Facts], rng: random.Random) -> Iterator[Pair]:
    def deeds(named: Named) -> set[str]:
        return named[0].activities.get(named[1].id, set())

    def asked(named: Named) -> bool:
        return bool(named[1].kinds & {"people", "animals"}) and len(deeds(named) & group) == 1

    for same in _by_name(described, asked):
        yield from _pairs(same, lambda named: deeds(named) & group, deeds, "deed", rng)


def _by_name(described: Sequence[Facts], asked: Callable[[Named], bool]) -> list[list[Named]]:
    """The things that can be asked for by their name, those of one name together, by name."""
    found: dict[str, list[Named]] = defaultdict(list)
    for facts in described:
        for entity in facts.entities.values():
            if asked((facts, entity)) and facts.only(entity):
                found[entity.name].append((facts, entity))
    return [found[name] for name in sorted(found)]


def _pairs(
    same: Sequence[Named],
    values: Callable[[Named], set[str]],
    excluded: Callable[[Named], set[str]],
    frame: str,
    rng: random.Random,
) -> Iterator[Pair]:
    """Pairs of things of one name, of which the first is the first of its `values`, the second none `excluded`."""
    spare = list(range(len(same)))
    rng.shuffle(spare)
    while spare:
        yes = same[spare.pop()]
        value = min(values(yes))
        if frame == "deed" and value not in DEEDS:
            continue
        partner = next((i for i in spare if not set(value.split()) & excluded(same[i])), None)
        if partner is not None:
            spare.remove(partner)
            facts, entity = same[partner]
            name = entity.name
            yield _pair(yes, facts, f"{to_be(name)} the {name} {value}?", frame, entity.boxes)
