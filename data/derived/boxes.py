"""Questions derived from COCO's boxes: is there, how many, which of two, what is beside it.

Each comes in a group whose answers differ while the text is the same (VQA v2's lesson), so that who doesn't look
at the photograph is right by chance only: a yes and a no for 'is there a dog?', where the no is a photograph that
speaks for a dog by what else is in it; as many ones as twos for 'how many dogs are there?'. They are *derived*:
nobody was asked them. Boxes are the answers' (of a no, none). The same seed gives the same questions.
Source of the idea: Ren et al., NIPS 2015; Goyal et al., CVPR 2017.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.derived.yesno import PRESENT, weighted_sample
from data.readers import coco
from data.records import Box, Question
from data.words.english import article, countable, is_plural, plural

SMALLEST = 0.004  # share of the photograph that the largest box of a thing covers for it to be asked about
MOST = 4  # the largest count asked for
PRESENCE_MANY = ("are there {many} in the picture?", "are there any {many}?", "do you see any {many}?")
COUNT = ("how many {many} are there?", "how many {many} are in the picture?", "how many {many} do you see?")
CHOICE = ("is there {a} or {b}?", "is that {a} or {b}?", "do you see {a} or {b}?")
SIDE = ("what is {where} the {thing}?", "what do you see {where} the {thing}?")


@dataclass(frozen=True)
class Boxed:
    """A photograph and the boxes of each class in it."""

    path: Path
    image_id: str
    boxes: Mapping[str, tuple[Box, ...]]

    def clear(self, name: str) -> bool:
        """Whether a thing is large enough to be asked about."""
        return max(box.area for box in self.boxes[name]) >= SMALLEST


def box_questions(folder: str | Path, split: str = "train", seed: int = 0) -> list[Question]:
    """The questions about a split of the copy of COCO in `folder` (see `data.readers.coco.read_split`)."""
    return derive(_read(folder, split), seed)


def derive(photographs: Sequence[Boxed], seed: int = 0) -> list[Question]:
    """The questions about `photographs`, one of each text for a photograph, in the photographs' order."""
    rng = random.Random(seed)
    seen: set[tuple[str, str]] = set()
    kept: list[Question] = []
    for make in (_presence, _counts, _choices, _sides):
        for group in make(photographs, rng):
            keys = {(question.image_id, question.text) for question in group}
            if len(keys) == len(group) and not keys & seen:
                seen |= keys
                kept += group
    order = {photograph.image_id: place for place, photograph in enumerate(photographs)}
    kept.sort(key=lambda question: order[question.image_id])
    return [replace(question, id=f"boxes-{number}") for number, question in enumerate(kept)]


def _read(folder: str | Path, split: str) -> list[Boxed]:
    found = []
    for image, instances in coco.read_split(folder, split):
        boxes: dict[str, tuple[Box, ...]] = {}
        for instance in instances:
            boxes[instance.name] = (*boxes.get(instance.name, ()), instance.box)
        found.append(Boxed(image.path, image.image_id, boxes))
    return found


def _presence(photographs: Sequence[Boxed], rng: random.Random, per_image: int = 3) -> Iterator[list[Question]]:
    """'is there a dog?': yes where there is one, no where all else speaks for one."""
    together = _cooccurrence(photographs)
    asked: Counter[str] = Counter()
    for name, there in _by_class(photographs, rng, per_image).items():
        weights = {
            other.image_id: sum(together[seen][name] for seen in other.boxes) + 1e-6
            for other in photographs
            if name not in other.boxes and asked[other.image_id] < 2 * per_image
        }
        absent = {photograph.image_id: photograph for photograph in photographs}
        chosen = weighted_sample(weights, len(there), rng)
        for yes, no in zip(there, chosen, strict=False):
            asked[no] += 1
            forms = PRESENCE_MANY if is_plural(name) or len(yes.boxes[name]) > 2 else PRESENT
            text = rng.choice(forms).format(a=_a(name), many=plural(name))
            yield [
                _question(yes, text, "yes", "presence", yes.boxes[name]),
                _question(absent[no], text, "no", "presence"),
            ]


def _counts(photographs: Sequence[Boxed], rng: random.Random) -> Iterator[list[Question]]:
    """'how many dogs are there?': a photograph with one, one with two and so on, as far as there are enough."""
    for name in filter(countable, _classes(photographs)):
        groups: dict[int, list[Boxed]] = defaultdict(list)
        for photograph in photographs:
            if name in photograph.boxes and photograph.clear(name):
                groups[len(photograph.boxes[name])].append(photograph)
        highest = max((n for n in range(2, MOST + 1) if min(len(groups[k]) for k in range(1, n + 1)) >= 3), default=0)
        rows = [rng.sample(groups[n], len(groups[n])) for n in range(1, highest + 1)]
        for row in zip(*rows, strict=False):
            text = rng.choice(COUNT).format(many=plural(name))
            yield [
                _question(photograph, text, str(n), "count", photograph.boxes[name])
                for n, photograph in enumerate(row, 1)
            ]


def _choices(photographs: Sequence[Boxed], rng: random.Random) -> Iterator[list[Question]]:
    """'is there a cat or a dog?': a photograph with the one, and one with the other."""
    single = _by_class(photographs, rng, 1)
    together = _cooccurrence(photographs)
    for name, there in single.items():
        rivals = [other for other in single if other > name and not is_plural(name) and not is_plural(other)]
        weights = {other: together[name][other] + 0.02 for other in rivals}
        for yes in there:
            for other in weighted_sample({r: w for r, w in weights.items() if r not in yes.boxes}, 1, rng):
                partner = next((p for p in rng.sample(single[other], len(single[other])) if name not in p.boxes), None)
                if partner is None:
                    continue
                first, second = rng.sample((name, other), 2)
                text = rng.choice(CHOICE).format(a=_a(first), b=_a(second))
                yield [
                    _question(yes, text, name, "choice", yes.boxes[name]),
                    _question(partner, text, other, "choice", partner.boxes[other]),
                ]


def _sides(photographs: Sequence[Boxed], rng: random.Random) -> Iterator[list[Question]]:
    """'what is left of the dog?': of two photographs with a thing on that side, different ones."""
    found: dict[tuple[str, str], list[tuple[Boxed, str]]] = defaultdict(list)
    for photograph in photographs:
        alone = [n for n, boxes in photograph.boxes.items() if len(boxes) == 1 and photograph.clear(n)]
        for thing in alone:
            for where, beside in (("left of", _is_left), ("right of", lambda a, b: _is_left(b, a))):
                other = _only(photograph, thing, beside)
                if other in alone:
                    found[thing, where].append((photograph, str(other)))
    for (thing, where), each in sorted(found.items()):
        text = rng.choice(SIDE).format(where=where, thing=thing)
        rng.shuffle(each)
        while each:
            photograph, other = each.pop()
            partner = next((pair for pair in each if pair[1] != other), None)
            if partner is not None:
                each.remove(partner)
                yield [
                    _question(p, text, answer, "side", p.boxes[answer]) for p, answer in ((photograph, other), partner)
                ]


def _only(photograph: Boxed, thing: str, beside: Callable[[Box, Box], bool]) -> str | None:
    """The one class whose things are beside the thing; None where there are several, or none."""
    own = photograph.boxes[thing][0]
    names = [n for n, boxes in photograph.boxes.items() if n != thing and any(beside(box, own) for box in boxes)]
    return names[0] if len(names) == 1 else None


def _is_left(box: Box, of: Box) -> bool:
    """Whether a box ends before the middle of the other, and they share some height."""
    return box.right <= (of.left + of.right) / 2 and min(box.bottom, of.bottom) > max(box.top, of.top)


def _question(photograph: Boxed, text: str, answer: str, kind: str, boxes: Sequence[Box] = ()) -> Question:
    return Question(
        id="", text=text, image=photograph.path, image_id=photograph.image_id, answer=answer, answers=(answer,),
        kind=kind, source="boxes", boxes=tuple(boxes),
    )  # fmt: skip


def _a(name: str) -> str:
    return "a frisbee" if name == "frisbee" else article(name)  # captions speak of 'playing frisbee'


def _classes(photographs: Sequence[Boxed]) -> list[str]:
    return sorted({name for photograph in photographs for name in photograph.boxes})


def _by_class(photographs: Sequence[Boxed], rng: random.Random, per_image: int) -> dict[str, list[Boxed]]:
    """The photographs on which a class is asked for, rarest class first: up to `per_image` classes each."""
    frequency = Counter(name for photograph in photographs for name in photograph.boxes)
    found: dict[str, list[Boxed]] = {}
    for photograph in photographs:
        clear = sorted(name for name in photograph.boxes if photograph.clear(name))
        for name in weighted_sample({n: 1 / frequency[n] for n in clear}, per_image, rng):
            found.setdefault(name, []).append(photograph)
    return {name: found[name] for name in sorted(found, key=lambda n: (frequency[n], n))}


def _cooccurrence(photographs: Sequence[Boxed]) -> dict[str, dict[str, float]]:
    """together[a][b]: the share of photographs with `a` that have `b` as well."""
    frequency = Counter(name for photograph in photographs for name in photograph.boxes)
    pairs = Counter((a, b) for photograph in photographs for a in photograph.boxes for b in photograph.boxes)
    return {a: defaultdict(float, {b: pairs[a, b] / frequency[a] for b in frequency}) for a in frequency}
