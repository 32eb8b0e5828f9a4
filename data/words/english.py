"""The little English that question derivation needs: head nouns, numbers, colours and verb forms.

Rules and short word lists, no tagger: they are made for the noun phrases of image captions.
"""

from collections.abc import Collection, Sequence

COLORS = frozenset("red blue green yellow black white brown orange pink purple gray tan gold silver".split())
_COLOR_SPELLINGS = {"grey": "gray", "golden": "gold"}
NUMBERS = {word: n for n, word in enumerate("one two three four five six seven eight nine ten".split(), 1)}
# The word that stands for others, then those others.
_SYNONYMS = """
dog: puppy doggy pup
man: guy gentleman male vendor
woman: lady female
child: kid toddler
baby: infant
bike: bicycle
motorcycle: motorbike
shirt: tshirt t-shirt tee-shirt
phone: cellphone telephone
car: automobile
couch: sofa
beach: seashore
hat: cap
ocean: sea
skateboard: skate-board
forest: woods
road: roadway
hill: hillside
air: midair mid-air
"""
SYNONYMS = {
    word: name
    for name, _, words in (line.partition(":") for line in _SYNONYMS.strip().splitlines())
    for word in words.split()
}
_IRREGULAR_FORMS = (
    "men/man women/woman children/child people/person mice/mouse geese/goose feet/foot teeth/tooth "
    "leaves/leaf wolves/wolf knives/knife policemen/policeman firemen/fireman fishermen/fisherman "
    "snowmen/snowman calves/calf scarves/scarf sheep/sheep deer/deer fish/fish persons/person"
)
_IRREGULAR = dict(pair.split("/") for pair in _IRREGULAR_FORMS.split())
_PLURALS = {singular: plural for plural, singular in _IRREGULAR.items() if plural != "persons"}
_ALWAYS_PLURAL = frozenset(
    "shorts pants jeans glasses sunglasses goggles clothes trousers tights overalls stairs woods outdoors trunks "
    "pajamas binoculars scissors headphones bleachers gymnastics tennis".split()
)
_NOT_PLURAL = frozenset(
    "grass dress bus glass mattress harness canvas cross moss tennis lens princess "
    "class mess bass walrus cactus octopus fitness waitress kiss pass chess atlas this his".split()
)
_COLLECTIVE = frozenset(
    "group pair couple bunch crowd pile team lot number piece body bit line row patch set bottle cup glass bowl plate "
    "stack string stream flock herd pack bucket bag can box handful mug trio variety mound".split()
)
VAGUE = frozenset(
    "one ones other others another something someone each it its them they him her he she that which who this what "
    "there thing things object objects item items part side top back front background picture photo camera air "
    "distance way area place scene day night time view end middle bottom edge corner left right outside inside "
    "outdoors indoors everything nothing anything else themselves himself herself itself reflection shadow trick "
    "tricks jump race game event fun ride look pose position action turn break motion flight day sunset competition "
    "gear equipment stuff set colors color design lot bunch number several many some both all two three four few "
    "surface structure weather style run attention pieces piece series kind type sort form shape back".split()
)


def color_of(words: Sequence[str]) -> str:
    """The colour a phrase names: 'red', 'black and white', or '' without one.

    >>> color_of("a black and white dog".split())
    'black and white'
    """
    named: list[str] = []
    for word in words:
        for part in word.split("-"):
            part = _COLOR_SPELLINGS.get(part, part)
            if part in COLORS and part not in named:
                named.append(part)
    return " and ".join(sorted(named))


def modified_nouns(words: Sequence[str]) -> list[str]:
    """The words of a phrase that belong to its head: all up to an 'of' that does not count or measure."""
    words = list(words)
    if "of" not in words[1:-1]:
        return words
    place = words.index("of", 1)
    collective = {words[place - 1], words[place - 1].removesuffix("s")} & _COLLECTIVE
    return words[place + 1 :] if collective else words[:place]


def head_noun(words: Sequence[str]) -> str:
    """The head noun of a phrase in canonical form, or '' where there is none worth asking about.

    >>> head_noun("a group of young men".split()), head_noun("the bicycle".split()), head_noun(["something"])
    ('men', 'bike', '')
    """
    inner = modified_nouns(words)
    if not inner:
        return ""
    head = inner[-1]
    if len(head) < 2 or not head.replace("-", "").isalpha():
        return ""
    if any(head in known for known in (VAGUE, COLORS, _COLOR_SPELLINGS)):
        return ""
    if is_plural(head) and singular(head) in SYNONYMS:
        return plural(SYNONYMS[singular(head)])
    return SYNONYMS.get(head, head)


def number_of(words: Sequence[str]) -> int | None:
    """How many things a phrase speaks of: 1 for 'a dog', 2 for 'two dogs', None for 'dogs' or 'several dogs'."""
    if not words:
        return None
    head = head_noun(words)
    if not head or "of" in words or "-" in words[0]:
        return None
    for word in words[:-1]:
        if word in NUMBERS:
            return NUMBERS[word] if (NUMBERS[word] == 1) != is_plural(head) else None
    if words[0] in ("a", "an") and not is_plural(head):
        return 1
    return None


def is_plural(noun: str) -> bool:
    """Whether a noun is a plural (grammatically: 'shorts' is one)."""
    if noun in _IRREGULAR or noun in _ALWAYS_PLURAL:
        return noun not in ("sheep", "deer", "fish")
    return noun.endswith("s") and not noun.endswith("ss") and noun not in _NOT_PLURAL and len(noun) > 3


def countable(noun: str) -> bool:
    """Whether 'how many' can be asked of the noun: it has a singular and a plural of its own."""
    return noun not in _ALWAYS_PLURAL and noun not in MASS


MASS = frozenset(
    "water grass snow sand dirt mud ice food hair clothing luggage furniture traffic smoke fire foam sky air wood "
    "grassland rain surf foliage greenery brush gravel concrete pavement ground jewelry makeup money music soccer "
    "football basketball baseball hockey rugby tennis volleyball frisbee broccoli bread beer wine milk coffee "
    "shade sunlight".split()
)


def singular(noun: str) -> str:
    """The singular of a noun; a noun that is none of a known plural form stays as it is."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if not is_plural(noun) or noun in _ALWAYS_PLURAL:
        return noun
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("shes", "ches", "xes", "sses", "zes")):
        return noun[:-2]
    return noun[:-1]


def plural(noun: str) -> str:
    """The plural of a noun: 'dogs', 'people', 'boxes', 'puppies'."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if is_plural(noun):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "sh", "ch", "x", "z")):
        return noun + "es"
    return noun + "s"


def article(noun: str) -> str:
    """'a dog', 'an umbrella', 'shorts', 'water': the noun with the indefinite article it takes."""
    if is_plural(noun) or noun in MASS:
        return noun
    return ("an " if noun[0] in "aeiou" and not noun.startswith(("uni", "one")) else "a ") + noun


def gerund(verb: str, known: Collection[str]) -> str:
    """The -ing form, among those `known`, of a verb in any present form; '' when there is none.

    >>> [gerund(form, {"running", "riding", "carrying"}) for form in ("runs", "ride", "carries", "running", "dog")]
    ['running', 'riding', 'carrying', 'running', '']
    """
    if verb in known:
        return verb
    third = () if verb.endswith("ss") else (("s", ""), ("es", ""), ("ies", "y"))
    stems = [verb[: -len(end)] + new for end, new in third if verb.endswith(end)]
    for stem in (stem for stem in (*stems, verb) if len(stem) > 1):
        ends = (("e", "ing"), ("", "ing"), ("", f"{stem[-1]}ing"), ("ie", "ying"))
        for form in (stem.removesuffix(end) + ing for end, ing in ends if stem.endswith(end)):
            if form in known:
                return form
    return ""
