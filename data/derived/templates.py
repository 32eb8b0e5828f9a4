"""The question templates: what is asked of one described photograph (yes/no: data/derived/yesno.py).

Every function yields `(question, frame)`: the frame is the template with its nouns taken out, by which the
answers are balanced. Answers are canonical nouns, colours ('black and white'), digits, scenes, yes and no.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from data.derived.facts import Entity, Facts
from data.records import Box, Question
from data.words.english import countable, is_plural, plural, singular

Asked = tuple[Question, str]
# What one can be said to do without saying what to, and which of these may have an object.
DEEDS = frozenset(
    "running standing playing jumping sitting walking climbing smiling posing swimming leaping eating swinging "
    "flying racing talking fighting sliding surfing skateboarding dancing splashing lying skiing drinking "
    "snowboarding skating digging wrestling sleeping laughing diving wading smoking paddling resting hiking "
    "kissing rollerblading kneeling bouncing reading rowing fishing jogging kayaking wakeboarding floating "
    "singing squatting crouching biking painting sledding cooking bowling waving shouting yelling crawling "
    "skipping performing waiting falling hugging".split()
)
TRANSITIVE = frozenset("climbing playing eating reading hugging".split())
PLACING = frozenset("in on at through across along down up near into".split())
HOW_MANY = ("how many {many} are there?", "how many {many} are in the picture?", "how many {many} can you see?")


def ask(facts: Facts, rng: random.Random) -> list[Asked]:
    """Every object, color, number, location and activity question that the captions of one photograph answer."""
    makers = (_colors, _objects, _worn, _numbers, _locations, _activities)
    return [asked for make in makers for asked in make(facts, rng)]


def templated(facts: Facts, text: str, answer: str, kind: str, boxes: Sequence[Box], frame: str) -> Asked:
    """The question `text` about the photograph, with the answer that its captions give, and its frame."""
    question = Question(
        id=f"{facts.image.image_id} {text}",
        text=text,
        image=facts.image.path,
        image_id=facts.image.image_id,
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


def _named(facts: Facts, text: str, answer: Entity, kind: str, frame: str) -> Asked:
    """The question whose answer is the name of an entity, where it is."""
    return templated(facts, text, answer.name, kind, answer.boxes, frame)


def _colors(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    for entity in facts.entities.values():
        left_out = {"people", "scene"} if entity.name == "hair" else {"people", "scene", "bodyparts"}
        if entity.name and entity.color and not entity.kinds & left_out:
            texts = _color_texts(facts, entity)
            for text in rng.sample(texts, min(len(texts), 1 + (len(entity.captions) > 2))):
                yield templated(facts, text, entity.color, "color", entity.boxes, singular(entity.name))


def _color_texts(facts: Facts, entity: Entity) -> list[str]:
    """The ways to ask for a thing's colour: by its name, and by who alone wears it and nothing else of that name."""
    name, be = entity.name, to_be(entity.name)
    texts = [f"what color {be} the {name}?", f"what is the color of the {name}?"]
    texts = texts if facts.only(entity) else []
    wearers = {r.subject for r in facts.relations if r.is_worn(entity.id)} & facts.entities.keys()
    owner = facts.entities[wearers.pop()] if len(wearers) == 1 else None
    if owner is None or not facts.only(owner) or is_plural(owner.name):
        return texts
    worn = {r.object for r in facts.relations if r.subject == owner.id and r.is_worn()}
    named = [facts.entities[id] for id in worn if id in facts.entities]
    if sum(singular(name) in map(singular, thing.names) for thing in named) == 1:
        texts += [f"what color {be} the {owner.name}'s {name}?", f"what color {name} is the {owner.name} wearing?"]
    return texts


def _objects(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    for relation in facts.relations:
        subject, object_ = facts.entities.get(relation.subject), facts.entities.get(relation.object)
        if not (subject and object_ and subject.name and object_.name) or relation.verb == "wearing":
            continue
        if not relation.preposition and relation.verb in DEEDS - TRANSITIVE:
            continue  # 'sitting the table'
        deed = relation.deed
        twins = [other for other in facts.relations if other.deed == deed]
        if facts.only(subject) and len({r.object for r in twins if r.subject == subject.id}) == 1:
            asked = f"{to_be(subject.name)} the {subject.name}"
            if "scene" not in object_.kinds:
                yield _named(facts, f"what {asked} {deed}?", object_, "object", deed)
            elif relation.preposition in PLACING:
                yield _named(facts, f"where {asked} {relation.verb}?", object_, "location", relation.verb)
        if facts.only(object_) and len({r.subject for r in twins if r.object == object_.id}) == 1:
            asker = "who" if "people" in subject.kinds else "what"
            frame = f"{asker} is {deed}"
            yield _named(facts, f"{frame} the {object_.name}?", subject, "object", frame)


def _worn(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    worn: dict[str, set[str]] = defaultdict(set)
    for relation in facts.relations:
        if relation.is_worn() and {relation.subject, relation.object} <= facts.entities.keys():
            worn[relation.subject].add(relation.object)
    for wearer, clothes in sorted(worn.items()):
        subject, entity = facts.entities[wearer], facts.entities[min(clothes)]
        if len(clothes) == 1 and facts.only(subject) and entity.name and len(entity.captions) > 1:
            text = f"what {to_be(subject.name)} the {subject.name} wearing?"
            yield _named(facts, text, entity, "object", "wearing")


def _numbers(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    people = [entity for entity in facts.entities.values() if "people" in entity.kinds]
    for entity in facts.entities.values():
        if not _countable(facts, entity):
            continue
        noun, answer = singular(entity.name), str(entity.number)
        text = rng.choice(HOW_MANY).format(many=plural(noun))
        yield templated(facts, text, answer, "number", entity.boxes, "how many")
        if people == [entity] and entity.boxes and noun != "person":
            text = rng.choice(HOW_MANY[:2]).format(many="people")
            yield templated(facts, text, answer, "number", entity.boxes, "how many people")


def _countable(facts: Facts, entity: Entity) -> bool:
    """Whether two captions or more give the number of a thing, and no more or fewer boxes were drawn."""
    if entity.number is None or not facts.only(entity) or not countable(entity.name):
        return False
    one_of_many = entity.number == 1 and entity.kinds & {"scene", "bodyparts"}
    return sum(entity.numbers.values()) > 1 and len(entity.boxes) in (0, entity.number) and not one_of_many


def _locations(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    places = [entity for entity in facts.entities.values() if "scene" in entity.kinds and entity.name]
    if not places:
        return
    place = max(places, key=lambda entity: (len(entity.captions), entity.name))
    told = len(place.captions)
    if told < 2 or any(2 * len(other.captions) > told for other in places if other is not place):
        return
    for entity in facts.entities.values():
        if entity.kinds & {"people", "animals"} and len(entity.captions) > 2 and facts.only(entity):
            text = f"where {to_be(entity.name)} the {entity.name}?"
            yield _named(facts, text, place, "location", "where")


def _activities(facts: Facts, rng: random.Random) -> Iterator[Asked]:
    for name, verbs in sorted(facts.activities.items()):
        entity = facts.entities.get(name)
        if entity is not None and len(verbs) == 1 and verbs <= DEEDS and facts.only(entity):
            text = f"what {to_be(entity.name)} the {entity.name} doing?"
            yield templated(facts, text, min(verbs), "activity", entity.boxes, "doing")
