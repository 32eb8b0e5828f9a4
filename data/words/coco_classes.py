"""COCO's 80 classes and the words that people use for them in captions: our own list.

It says which objects a caption names (CHAIR; Rohrbach et al., Object Hallucination in Image Captioning, EMNLP
2018) and which words to look for in COCO's boxes (the Grad-CAM paper's figure 11). A word that more often than
not means something else is left out: 'glasses', 'baseball' (the game), 'ski' (a slope, a lift), 'computer'.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from data.words.english import COLORS, singular
from data.words.vocabulary import FUNCTION_WORDS

# One class a line, in COCO's order: its name, then other words for it. Two words are a pair: 'dirt_bike'.
_LINES = """
person: man woman boy girl child kid baby toddler infant lady guy gentleman teenager crowd couple family
person: player surfer skier snowboarder skateboarder skater rider biker cyclist bicyclist motorcyclist batter
person: hitter pitcher catcher umpire referee worker officer policeman fireman soldier chef bride groom athlete
person: runner walker swimmer hiker climber tourist passenger pedestrian driver mother father son daughter
bicycle: bike cycle
car: taxi cab sedan suv automobile minivan
motorcycle: motorbike moped scooter dirt_bike motor_bike motor_cycle
airplane: plane aircraft aeroplane jet jetliner airliner
bus: buses
train: locomotive tram trolley train_car
truck: pickup firetruck fire_truck
boat: ship sailboat canoe kayak ferry rowboat raft yacht
traffic light: stop_light
fire hydrant: hydrant
stop sign:
parking meter:
bench:
bird: seagull duck goose pigeon owl parrot swan pelican flamingo heron ostrich chicken rooster hen
cat: kitten kitty
dog: puppy pup
horse: pony foal
sheep: lamb ram ewe
cow: bull calf cattle ox
elephant:
bear:
zebra:
giraffe:
backpack: rucksack
umbrella: parasol
handbag: purse
tie: necktie neckties
suitcase: luggage
frisbee:
skis:
snowboard: snow_board
sports ball: ball
kite:
baseball bat: bat
baseball glove: glove mitt
skateboard: skate_board
surfboard: surf_board
tennis racket: racket racquet tennis_racquet
bottle:
wine glass: wineglass wine_glasses
cup: mug
fork:
knife:
spoon:
bowl:
banana:
apple:
sandwich: hamburger burger
orange:
broccoli:
carrot:
hot dog: hotdog
pizza:
donut: doughnut
cake: cupcake
chair: stool armchair
couch: sofa
potted plant: plant houseplant
bed:
dining table: table coffee_table
toilet:
tv: television tvs
laptop:
mouse:
remote:
keyboard:
cell phone: phone cellphone smartphone
microwave:
oven: stove
toaster:
sink:
refrigerator: fridge
book:
clock:
vase:
scissors:
teddy bear: teddy stuffed_bear stuffed_animal
hair drier: hair_dryer blow_dryer
toothbrush: tooth_brush
"""

# Pairs of words that hold a class's word and mean something else.
_OTHERWISE = frozenset(
    "train station, train track, bus stop, bus station, cable car, car seat, fire station, street light, dog food, "
    "cat food, power plant, pool table, toilet paper, pizza cutter, book shelf, bed room, orange juice, apple pie, "
    "baseball game, baby carriage, pick up, horse shoe, boat house".split(", ")
)


def _synonyms() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in _LINES.strip().splitlines():
        name, _, words = line.partition(":")
        found.update({word.replace("_", " "): name for word in (name, *words.split())})
    return found


CLASS_OF: Mapping[str, str] = _synonyms()
"""Word, or pair of words, in the singular -> the class it names."""

CLASSES = tuple(dict.fromkeys(CLASS_OF.values()))
"""The 80 classes, in COCO's order."""


def named_classes(tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(place, class) of each word or pair of words of a caption that names a class, in the caption's order."""
    return ((start, name) for start, _, name in class_spans(tokens))


def class_spans(tokens: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, class) of each word or pair of words of a caption that names a class, in the caption's order."""
    place = 0
    while place < len(tokens):
        pair = " ".join([*tokens[place : place + 1], *map(_singular, tokens[place + 1 : place + 2])])
        if place + 1 < len(tokens) and (pair in _OTHERWISE or pair in CLASS_OF):
            if pair in CLASS_OF:
                yield place, place + 2, CLASS_OF[pair]
            place += 2
            continue
        name = CLASS_OF.get(tokens[place], CLASS_OF.get(_singular(tokens[place])))
        if name is not None and not (tokens[place] == "orange" and _is_colour(tokens, place)):
            yield place, place + 1, name
        place += 1


def mentioned(tokens: Sequence[str]) -> Collection[str]:
    """The classes that a caption names."""
    return {name for _, name in named_classes(tokens)}


def _singular(word: str) -> str:
    return word if word in CLASS_OF else singular(word)


def _is_colour(tokens: Sequence[str], place: int) -> bool:
    """Whether 'orange' at `place` is no fruit: it says what a thing looks like, or stands beside a colour."""
    before, after = tokens[:place], tokens[place + 1 :]
    follows_article = not before or before[-1] in {"a", "an", "the", "one", "of", "with", "sliced", "peeled"}
    ends = not after or (after[0] in FUNCTION_WORDS and not (len(after) > 1 and after[1] in COLORS))
    return not (follows_article and ends)
