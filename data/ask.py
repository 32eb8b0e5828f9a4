"""The question templates of data/derive.py: what is asked of one described photograph.

Every function yields `(question, frame)`: the frame is the template with its nouns taken out, by which the
answers are balanced. Answers are canonical nouns, colours ('black and white'), digits, scenes, yes and no.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from data.phrases import article, countable, is_plural, plural, singular
from data.question import Question
from data.scenes import Box, Entity, Scene

Asked = tuple[Question, str]
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
DEEDS = frozenset(
    "running standing playing jumping sitting walking climbing smiling posing swimming leaping eating swinging flying "
    "racing talking fighting sliding surfing skateboarding dancing splashing lying skiing drinking snowboarding "
    "skating "
    "digging wrestling sleeping laughing diving wading smoking paddling resting hiking kissing rollerblading kneeling "
    "bouncing reading rowing fishing jogging kayaking wakeboarding floating singing squatting crouching biking "
    "painting "
    "sledding cooking bowling waving shouting yelling crawling skipping performing waiting falling hugging".split()
)  # what one can be said to do without saying what to
APART = (
    frozenset({"running", "sitting", "swimming", "sleeping", "lying", "climbing"}),
    frozenset({"jumping", "sitting", "swimming", "sleeping", "climbing", "digging"}),
    frozenset({"walking", "running", "sitting", "riding", "swimming", "climbing", "sleeping"}),
    frozenset({"standing", "running", "sitting", "riding", "swimming", "sleeping"}),
)


def ask(scene: Scene, rng: random.Random) -> list[Asked]:
    """Every object, color, number, location and activity question that the captions of one photograph answer."""
    makers = (_colors, _objects, _worn, _numbers, _locations, _activities)
    return [asked for make in makers for asked in make(scene, rng)]


def _item(scene: Scene, text: str, answer: str, kind: str, boxes: Sequence[Box], frame: str) -> Asked:
    question = Question(
        id=f"{scene.image.image_id} {text}",
        text=text,
        image=scene.image.path,
        image_id=scene.image.image_id,
        answer=answer,
        answers=(answer,),
        kind=kind,
        source="derived",
        boxes=tuple(boxes),
    )
    return question, f"{kind}: {frame}"


def _be(noun: str) -> str:
    return "are" if is_plural(noun) else "is"


def _wearers(scene: Scene, clothing: Entity) -> list[Entity]:
    ids = sorted({r.subject for r in scene.relations if r.verb == "wearing" and r.object == clothing.id})
    return [scene.entities[i] for i in ids if i in scene.entities]


def _colors(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for entity in scene.entities.values():
        name, color = entity.name, entity.color
        if (
            not name
            or not color
            or entity.types & {"people", "scene"}
            or ("bodyparts" in entity.types and name != "hair")
        ):
            continue
        be, texts = _be(name), []
        if scene.only(entity):
            texts += [f"what color {be} the {name}?", f"what is the color of the {name}?"]
        wearers = _wearers(scene, entity)
        if len(wearers) == 1 and scene.only(wearers[0]) and not is_plural(wearers[0].name):
            worn = [r.object for r in scene.relations if r.subject == wearers[0].id and r.verb == "wearing"]
            if (
                sum(
                    singular(name) in map(singular, scene.entities[o].names)
                    for o in set(worn)
                    if o in scene.entities
                )
                == 1
            ):
                texts += [
                    f"what color is the {wearers[0].name}'s {name}?"
                    if be == "is"
                    else f"what color are the {wearers[0].name}'s {name}?",
                    f"what color {name} is the {wearers[0].name} wearing?",
                ]
        for text in rng.sample(texts, min(len(texts), 1 + (len(entity.captions) > 2))):
            yield _item(scene, text, color, "color", entity.boxes, singular(name))


def _objects(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for relation in scene.relations:
        subject, object_ = scene.entities.get(relation.subject), scene.entities.get(relation.object)
        if (
            relation.verb == "wearing"
            or subject is None
            or object_ is None
            or not subject.name
            or not object_.name
        ):
            continue
        deed = f"{relation.verb} {relation.preposition}".strip()
        if not relation.preposition and relation.verb in DEEDS - {
            "climbing",
            "playing",
            "eating",
            "reading",
            "hugging",
        }:
            continue  # 'sitting the table'
        twins = [
            r for r in scene.relations if r.verb == relation.verb and r.preposition == relation.preposition
        ]
        if scene.only(subject) and len({r.object for r in twins if r.subject == subject.id}) == 1:
            be = _be(subject.name)
            if "scene" not in object_.types:
                yield _item(
                    scene,
                    f"what {be} the {subject.name} {deed}?",
                    object_.name,
                    "object",
                    object_.boxes,
                    deed,
                )
            elif relation.preposition in (
                "in",
                "on",
                "at",
                "through",
                "across",
                "along",
                "down",
                "up",
                "near",
                "into",
            ):
                yield _item(
                    scene,
                    f"where {be} the {subject.name} {relation.verb}?",
                    object_.name,
                    "location",
                    object_.boxes,
                    relation.verb,
                )
        if scene.only(object_) and len({r.subject for r in twins if r.object == object_.id}) == 1:
            asker = "who" if "people" in subject.types else "what"
            yield _item(
                scene,
                f"{asker} is {deed} the {object_.name}?",
                subject.name,
                "object",
                subject.boxes,
                f"{asker} is {deed}",
            )


def _worn(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    worn: dict[str, set[str]] = defaultdict(set)
    for relation in scene.relations:
        if (
            relation.verb == "wearing"
            and relation.object in scene.entities
            and relation.subject in scene.entities
        ):
            worn[relation.subject].add(relation.object)
    for wearer, clothes in sorted(worn.items()):
        subject = scene.entities[wearer]
        if len(clothes) != 1 or not scene.only(subject):
            continue
        entity = scene.entities[next(iter(clothes))]
        if entity.name and len(entity.captions) > 1:
            yield _item(
                scene,
                f"what {_be(subject.name)} the {subject.name} wearing?",
                entity.name,
                "object",
                entity.boxes,
                "wearing",
            )


def _numbers(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    people = [entity for entity in scene.entities.values() if "people" in entity.types]
    for entity in scene.entities.values():
        number, name = entity.number, entity.name
        if (
            number is None
            or not scene.only(entity)
            or not countable(name)
            or sum(entity.numbers.values()) < 2
        ):
            continue
        if (
            entity.boxes
            and len(entity.boxes) != number
            or entity.types & {"scene", "bodyparts"}
            and number == 1
        ):
            continue
        many = plural(singular(name))
        texts = [
            f"how many {many} are there?",
            f"how many {many} are in the picture?",
            f"how many {many} can you see?",
        ]
        yield _item(scene, rng.choice(texts), str(number), "number", entity.boxes, "how many")
        if people == [entity] and entity.boxes and singular(name) != "person":
            text = rng.choice(["how many people are there?", "how many people are in the picture?"])
            yield _item(scene, text, str(number), "number", entity.boxes, "how many people")


def _locations(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    places = [entity for entity in scene.entities.values() if "scene" in entity.types and entity.name]
    if not places:
        return
    place = max(places, key=lambda entity: (len(entity.captions), entity.name))
    rivals = [
        entity for entity in places if entity is not place and 2 * len(entity.captions) > len(place.captions)
    ]
    if len(place.captions) < 2 or rivals:
        return
    for entity in scene.entities.values():
        if entity.types & {"people", "animals"} and len(entity.captions) > 2 and scene.only(entity):
            yield _item(
                scene,
                f"where {_be(entity.name)} the {entity.name}?",
                place.name,
                "location",
                place.boxes,
                "where",
            )


def _activities(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for name, verbs in sorted(scene.activities.items()):
        entity = scene.entities.get(name)
        if entity is not None and len(verbs) == 1 and verbs <= DEEDS and scene.only(entity):
            yield _item(
                scene,
                f"what {_be(entity.name)} the {entity.name} doing?",
                next(iter(verbs)),
                "activity",
                entity.boxes,
                "doing",
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
                _item(scenes[yes], text, "yes", "yes/no", present[yes][noun].boxes, "present"),
                _item(scenes[no], text, "no", "yes/no", (), "present"),
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
    names = {singular(name) for e in scene.entities.values() if "people" in e.types for name in e.names}
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
            if entity.color and scene.only(entity) and not entity.types & {"people", "scene", "bodyparts"}:
                by_name[entity.name].append((scene, entity))
    for name in sorted(by_name):
        yield from _pairs(
            by_name[name],
            lambda e: {e.color},
            lambda e: set(" ".join(e.colors).split()),
            lambda value, name=name: f"{_be(name)} the {name} {value}?",
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
                if entity.types & {"people", "animals"} and scene.only(entity) and len(done & group) == 1:
                    by_name[entity.name].append((scene, entity))
                    deeds[id(entity)] = done
        for name in sorted(by_name):
            yield from _pairs(
                by_name[name],
                lambda e, d=deeds, g=group: d[id(e)] & g,
                lambda e, d=deeds: d[id(e)],  # type: ignore[misc]
                lambda value, name=name: f"{_be(name)} the {name} {value}?",
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
            _item(scene, text(value), "yes", "yes/no", entity.boxes, frame),
            _item(other, text(value), "no", "yes/no", its.boxes, frame),
        )
