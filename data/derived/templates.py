"""The question templates: what is asked of one described photograph (yes/no: data/derived/yesno.py).

Every function yields `(question, frame)`: the frame is the template with its nouns taken out, by which the
answers are balanced. Answers are canonical nouns, colours ('black and white'), digits, scenes, yes and no.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from data.derived.scenes import Entity, Scene
from data.records import Box, Question
from data.words.english import countable, is_plural, plural, singular

Asked = tuple[Question, str]
DEEDS = frozenset(
    "running standing playing jumping sitting walking climbing smiling posing swimming leaping eating swinging flying "
    "racing talking fighting sliding surfing skateboarding dancing splashing lying skiing drinking snowboarding "
    "skating "
    "digging wrestling sleeping laughing diving wading smoking paddling resting hiking kissing rollerblading kneeling "
    "bouncing reading rowing fishing jogging kayaking wakeboarding floating singing squatting crouching biking "
    "painting "
    "sledding cooking bowling waving shouting yelling crawling skipping performing waiting falling hugging".split()
)  # what one can be said to do without saying what to


def ask(scene: Scene, rng: random.Random) -> list[Asked]:
    """Every object, color, number, location and activity question that the captions of one photograph answer."""
    makers = (_colors, _objects, _worn, _numbers, _locations, _activities)
    return [asked for make in makers for asked in make(scene, rng)]


def templated(scene: Scene, text: str, answer: str, kind: str, boxes: Sequence[Box], frame: str) -> Asked:
    """The question `text` about the photograph, with the answer that its captions give, and its frame."""
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


def to_be(noun: str) -> str:
    """'is' or 'are', whichever the noun takes."""
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
            or entity.kinds & {"people", "scene"}
            or ("bodyparts" in entity.kinds and name != "hair")
        ):
            continue
        be, texts = to_be(name), []
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
            yield templated(scene, text, color, "color", entity.boxes, singular(name))


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
            be = to_be(subject.name)
            if "scene" not in object_.kinds:
                yield templated(
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
                yield templated(
                    scene,
                    f"where {be} the {subject.name} {relation.verb}?",
                    object_.name,
                    "location",
                    object_.boxes,
                    relation.verb,
                )
        if scene.only(object_) and len({r.subject for r in twins if r.object == object_.id}) == 1:
            asker = "who" if "people" in subject.kinds else "what"
            yield templated(
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
            yield templated(
                scene,
                f"what {to_be(subject.name)} the {subject.name} wearing?",
                entity.name,
                "object",
                entity.boxes,
                "wearing",
            )


def _numbers(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    people = [entity for entity in scene.entities.values() if "people" in entity.kinds]
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
            or entity.kinds & {"scene", "bodyparts"}
            and number == 1
        ):
            continue
        many = plural(singular(name))
        texts = [
            f"how many {many} are there?",
            f"how many {many} are in the picture?",
            f"how many {many} can you see?",
        ]
        yield templated(scene, rng.choice(texts), str(number), "number", entity.boxes, "how many")
        if people == [entity] and entity.boxes and singular(name) != "person":
            text = rng.choice(["how many people are there?", "how many people are in the picture?"])
            yield templated(scene, text, str(number), "number", entity.boxes, "how many people")


def _locations(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    places = [entity for entity in scene.entities.values() if "scene" in entity.kinds and entity.name]
    if not places:
        return
    place = max(places, key=lambda entity: (len(entity.captions), entity.name))
    rivals = [
        entity for entity in places if entity is not place and 2 * len(entity.captions) > len(place.captions)
    ]
    if len(place.captions) < 2 or rivals:
        return
    for entity in scene.entities.values():
        if entity.kinds & {"people", "animals"} and len(entity.captions) > 2 and scene.only(entity):
            yield templated(
                scene,
                f"where {to_be(entity.name)} the {entity.name}?",
                place.name,
                "location",
                place.boxes,
                "where",
            )


def _activities(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    for name, verbs in sorted(scene.activities.items()):
        entity = scene.entities.get(name)
        if entity is not None and len(verbs) == 1 and verbs <= DEEDS and scene.only(entity):
            yield templated(
                scene,
                f"what {to_be(entity.name)} the {entity.name} doing?",
                next(iter(verbs)),
                "activity",
                entity.boxes,
                "doing",
            )
