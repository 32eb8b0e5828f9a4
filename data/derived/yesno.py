"""Derived yes/no questions: pairs with the same text, yes on one photograph and no on another."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from data.derived.scenes import Entity, Scene
from data.derived.templates import DEEDS, Asked, templated, to_be
from data.words.english import article, countable, is_plural, plural, singular

Pair = tuple[Asked, Asked]
PRESENT = ("is there {a} in the picture?", "is there {a}?", "can you see {a} here?", "do you see {a}?")
PRESENT_MANY = ("are there {many} in the picture?", "are there any {many}?", "can you see any {many} here?")
EXPLICIT_PEOPLE = frozenset({"man", "woman", "boy", "girl", "baby", "child"})
OVERLAPPING = (
    {"child", "boy", "girl", "baby", "teenager", "teen", "youth"},
    {"person", "man", "woman", "adult"},
    {
        "water",
        "ocean",
        "lake",
        "river",
        "pool",
        "pond",
        "wave",
        "surf",
        "stream",
        "beach",
        "fountain",
        "puddle",
        "boat",
        "shore",
        "waterfall",
        "creek",
    },
    {"grass", "field", "lawn", "yard", "park", "meadow", "hill", "backyard"},
    {"road", "street", "path", "sidewalk", "track", "trail", "city", "car", "alley", "highway", "dirt"},
    {"snow", "ski", "slope", "mountain", "ice"},
    {"rock", "mountain", "cliff", "hill", "boulder", "wall"},
    {"sand", "beach", "ocean", "dirt", "shore"},
    {"tree", "forest", "woods", "park", "branch"},
    {"ball", "football", "basketball", "baseball", "soccer", "tennis", "toy", "game", "volleyball", "rugby"},
    {"stick", "branch", "log", "toy", "pole"},
    {"toy", "ball", "frisbee", "doll", "animal"},
    {"building", "house", "city", "street", "wall", "store", "church"},
    {"bike", "bicycle", "motorcycle", "vehicle", "dirtbike"},
    {"car", "truck", "vehicle", "van", "traffic"},
    {"crowd", "people", "group", "audience", "person"},
    {"skateboard", "board", "ramp"},
    {"ramp", "rail", "skateboard"},
    {"air", "sky"},
    {"bench", "chair", "table", "seat"},
    {"boat", "kayak", "canoe", "raft", "ship"},
    {"team", "player", "game", "football", "soccer"},
    {"horse", "animal"},
    {"flower", "garden", "bush"},
    {"dog", "animal"},
    {"cat", "animal"},
    {"swing", "playground", "slide"},
)
APART = (
    frozenset({"running", "sitting", "swimming", "sleeping", "lying", "climbing"}),
    frozenset({"jumping", "sitting", "swimming", "sleeping", "climbing", "digging"}),
    frozenset({"walking", "running", "sitting", "riding", "swimming", "climbing", "sleeping"}),
    frozenset({"standing", "running", "sitting", "riding", "swimming", "sleeping"}),
)


def yes_no(scenes: Sequence[Scene], rng: random.Random) -> list[Asked]:
    """Balanced yes/no questions: for every yes there is a no with the same text on another photograph."""
    asked: list[Asked] = []
    seen: set[tuple[str, str]] = set()
    for yes, no in (*_presence(scenes, rng), *_is_color(scenes, rng), *_is_doing(scenes, rng)):
        keys = {(question.image_id, question.text) for question, _ in (yes, no)}
        if not keys & seen:
            seen |= keys
            asked += [yes, no]
    return asked


def _presence(
    scenes: Sequence[Scene], rng: random.Random, per_image: int = 2, least_told: float = 0.42
) -> Iterator[Pair]:
    """'is there a dog?': yes where two captions name one, no where none does though all speaks for one."""
    told: dict[str, list[int]] = defaultdict(
        list
    )  # in how many captions a thing is named where it is named at all
    present: list[dict[str, Entity]] = []
    for scene in scenes:
        here = {singular(e.name): e for e in scene.entities.values() if e.name}
        present.append(here)
        for noun, entity in here.items():
            told[noun].append(len(entity.captions))
    enough = max(4, len(scenes) // 400)
    nouns = {
        n
        for n, counts in told.items()
        if len(counts) >= enough and sum(counts) / len(counts) >= 5 * least_told
    }
    nouns -= {"person", "child", "group", "player", "adult", "crowd"}
    together = _cooccurrence([set(here) for here in present])
    positives: dict[str, list[int]] = defaultdict(list)
    for index, here in enumerate(present):
        sure = sorted(noun for noun, entity in here.items() if noun in nouns and len(entity.captions) > 1)
        for noun in rng.sample(sure, min(per_image, len(sure))):
            positives[noun].append(index)
    load: Counter[int] = Counter()
    words = frozenset().union(*(scene.words for scene in scenes))
    for noun in sorted(positives, key=lambda n: (len(positives[n]), n)):
        telling = _telling(noun, words)
        lacking = [
            i for i, scene in enumerate(scenes) if load[i] <= per_image and not _maybe(noun, telling, scene)
        ]
        weights = {
            i: sum(together[other][noun] / len(told[other]) for other in present[i]) + 1e-6 for i in lacking
        }
        chosen = _weighted_sample(weights, len(positives[noun]), rng)
        for yes, no in zip(rng.sample(positives[noun], len(chosen)), chosen, strict=True):
            load[no] += 1
            many = is_plural(present[yes][noun].name) and countable(noun)
            text = rng.choice(PRESENT_MANY if many else PRESENT).format(a=article(noun), many=plural(noun))
            yield (
                templated(scenes[yes], text, "yes", "yes/no", present[yes][noun].boxes, "present"),
                templated(scenes[no], text, "no", "yes/no", (), "present"),
            )


def _telling(noun: str, words: Iterable[str]) -> frozenset[str]:
    """Those of `words` in a caption that leave open whether the thing is in the photograph, or say so."""
    related = set().union(*(group for group in OVERLAPPING if noun in group)) | {noun}
    if noun in EXPLICIT_PEOPLE:
        related = {noun}  # a man does not speak against a woman, though a 'person' does: see `_maybe`
    return frozenset(w for w in words if w.startswith(noun) or w in related or singular(w) in related)


def _maybe(noun: str, telling: frozenset[str], scene: Scene) -> bool:
    """Whether the thing could be in the photograph, going by the words of its captions."""
    if not telling.isdisjoint(scene.words):
        return True
    if noun not in EXPLICIT_PEOPLE:
        return False
    names = {singular(name) for e in scene.entities.values() if "people" in e.kinds for name in e.names}
    young = {"boy", "girl", "baby", "child"}
    return not names <= EXPLICIT_PEOPLE or (
        noun in young and bool(names & ({"child", "baby"} if noun != "child" else young))
    )


def _cooccurrence(sets: Iterable[set[str]]) -> dict[str, Counter[str]]:
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for names in sets:
        for name in names:
            together[name].update(names - {name})
    return together


def _weighted_sample(weights: dict[int, float], count: int, rng: random.Random) -> list[int]:
    """`count` keys without replacement, likelier with greater weight (Efraimidis and Spirakis 2006)."""
    keys = {item: rng.random() ** (1 / weight) if weight < 50 else 1.0 for item, weight in weights.items()}
    return sorted(weights, key=lambda item: (-keys[item], item))[:count]


def _is_color(scenes: Sequence[Scene], rng: random.Random) -> Iterator[Pair]:
    """'is the hat red?': yes on one photograph, no on another whose hat has another colour."""
    by_name: dict[str, list[tuple[Scene, Entity]]] = defaultdict(list)
    for scene in scenes:
        for entity in scene.entities.values():
            if entity.color and scene.only(entity) and not entity.kinds & {"people", "scene", "bodyparts"}:
                by_name[entity.name].append((scene, entity))
    for name in sorted(by_name):
        yield from _pairs(
            by_name[name],
            lambda e: {e.color},
            lambda e: set(" ".join(e.colors).split()),
            lambda value, name=name: f"{to_be(name)} the {name} {value}?",
            "colored",
            rng,
        )  # type: ignore[misc]


def _is_doing(scenes: Sequence[Scene], rng: random.Random) -> Iterator[Pair]:
    """'is the dog running?': yes on one photograph, no on another where it does what rules that out."""
    for group in APART:
        by_name: dict[str, list[tuple[Scene, Entity]]] = defaultdict(list)
        deeds: dict[int, set[str]] = {}
        for scene in scenes:
            for entity in scene.entities.values():
                done = scene.activities.get(entity.id, set())
                if entity.kinds & {"people", "animals"} and scene.only(entity) and len(done & group) == 1:
                    by_name[entity.name].append((scene, entity))
                    deeds[id(entity)] = done
        for name in sorted(by_name):
            yield from _pairs(
                by_name[name],
                lambda e, d=deeds, g=group: d[id(e)] & g,
                lambda e, d=deeds: d[id(e)],  # type: ignore[misc]
                lambda value, name=name: f"{to_be(name)} the {name} {value}?",
                "deed",
                rng,
            )  # type: ignore[misc]


def _pairs(found, values, excluded, text, frame, rng) -> Iterator[Pair]:
    """Complementary pairs among photographs with one thing of the same name: the same text, yes and no."""
    spare = list(range(len(found)))
    rng.shuffle(spare)
    while spare:
        scene, entity = found[spare.pop()]
        value = sorted(values(entity))[0]
        if frame == "deed" and value not in DEEDS:
            continue
        partner = next((i for i in spare if not set(value.split()) & excluded(found[i][1])), None)
        if partner is None:
            continue
        spare.remove(partner)
        other, its = found[partner]
        yield (
            templated(scene, text(value), "yes", "yes/no", entity.boxes, frame),
            templated(other, text(value), "no", "yes/no", its.boxes, frame),
        )
