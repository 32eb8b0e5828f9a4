"""Everyday nouns and the ImageNet classes they cover, for data that names things more coarsely than ImageNet.

`GROUPS` has PASCAL VOC's and some of COCO's and Flickr30k's classes; a class's index is its place in
ILSVRC's order.
"""


def _classes(*ranges: int | tuple[int, int]) -> tuple[int, ...]:
    """Indices from single ones and from ranges (first, last), both included."""
    found: list[int] = []
    for part in ranges:
        found += [part] if isinstance(part, int) else list(range(part[0], part[1] + 1))
    return tuple(found)


GROUPS: dict[str, tuple[int, ...]] = {
    "aeroplane": _classes(404, 895),
    "ball": _classes(429, 430, 522, 574, 722, 768, 805, 852, 890),
    "bench": _classes(703),
    "bicycle": _classes(444, 671),
    "bird": _classes((7, 24), (80, 100), (127, 146)),
    "boat": _classes(472, 484, 554, 576, 625, 780, 814, 871, 914),
    "bottle": _classes(440, 720, 737, 898, 899, 907),
    "bus": _classes(654, 779, 874),
    "car": _classes(436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": _classes((281, 285)),
    "chair": _classes(423, 559, 765, 857),
    "cow": _classes(345),
    "diningtable": _classes(532),
    "dog": _classes((151, 268)),
    "horse": _classes(339),
    "motorbike": _classes(665, 670),
    "pottedplant": _classes(738),
    "sheep": _classes(348, 349),
    "sofa": _classes(831),
    "train": _classes(466, 547, 705, 820),
    "tvmonitor": _classes(664, 782, 851),
}
# What captions call the same things.
NAMES = {
    "airplane": "aeroplane", "plane": "aeroplane", "bike": "bicycle", "puppy": "dog", "kitten": "cat",
    "motorcycle": "motorbike", "canoe": "boat", "kayak": "boat", "sailboat": "boat", "ship": "boat",
    "couch": "sofa", "pony": "horse", "lamb": "sheep", "taxi": "car",
}  # fmt: skip
# Classes that figure 4 tells apart on Flickr8k, and the nouns that captions have for them.
NOUNS: dict[str, tuple[str, ...]] = {
    "person": (
        "person", "man", "woman", "boy", "girl", "child", "kid", "guy", "lady", "people", "baby", "toddler",
        "player", "rider", "skier", "snowboarder", "surfer", "climber", "biker", "cyclist", "skateboarder",
        "swimmer", "adult", "couple", "group", "crowd", "runner", "hiker", "men", "women", "children",
    ),
    "dog": ("dog", "puppy", "greyhound", "poodle", "terrier"),
    "ball": ("ball", "basketball", "football", "soccerball"),
    "bicycle": ("bicycle", "bike"),
    "horse": ("horse", "pony"),
}  # fmt: skip


def group_of(noun: str) -> str | None:
    """The group that a noun belongs to, or None."""
    name = NAMES.get(noun, noun)
    return name if name in GROUPS else None
