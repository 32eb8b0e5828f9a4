"""Words of captions that name COCO's 80 classes, as in the paper's pointing experiment (figure 11).

Our own list: the classes' names, and the words for them that people use in captions. Plurals are found by
`data.words.english.singular`; a pair of words stands for itself.
"""

# One class a line: its name, then other words for it. A name of two words is found as a pair.
_LINES = """
person: man woman boy girl child kid baby toddler lady guy men women people children teenager crowd
person: player surfer skier snowboarder skateboarder rider biker cyclist batter pitcher catcher umpire worker
person: officer chef bride groom athlete runner walker swimmer hiker climber tourist passenger driver
bicycle: bike
car: taxi cab sedan suv automobile
motorcycle: motorbike
airplane: plane aircraft jet airliner
bus:
train: locomotive
truck: pickup
boat: ship sailboat canoe kayak ferry rowboat
traffic light:
fire hydrant: hydrant
stop sign:
parking meter:
bench:
bird: seagull duck goose pigeon owl parrot swan
cat: kitten kitty
dog: puppy pup
horse: pony
sheep: lamb
cow: bull calf cattle ox
elephant:
bear:
zebra:
giraffe:
backpack:
umbrella: parasol
handbag: purse
tie: necktie
suitcase: luggage
frisbee:
skis: ski
snowboard:
sports ball: ball football basketball baseball
kite:
baseball bat: bat
baseball glove: glove
skateboard:
surfboard:
tennis racket: racket racquet
bottle:
wine glass: wineglass
cup: mug
fork:
knife:
spoon:
bowl:
banana:
apple:
sandwich:
orange:
broccoli:
carrot:
hot dog: hotdog
pizza:
donut: doughnut
cake:
chair: stool armchair
couch: sofa
potted plant: plant
bed:
dining table: table
toilet:
tv: television
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
teddy bear: teddy
hair drier:
toothbrush:
"""

_OTHER_PAIRS = {
    "tennis racquet": "tennis racket",
    "hair dryer": "hair drier",
    "hot dogs": "hot dog",
    "stuffed bear": "teddy bear",
}


def _classes() -> dict[str, str]:
    found = dict(_OTHER_PAIRS)
    for line in _LINES.strip().splitlines():
        name, _, words = line.partition(":")
        found.update({word: name for word in (name, *words.split())})
    return found


CLASS_OF = _classes()
