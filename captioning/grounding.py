"""Do the maps of a caption's words lie on the things they name? Measured on boxes that people drew.

A word is grounded when it is the head noun of a phrase that has boxes (Flickr30k Entities), or of a class
that has instances (COCO). Its map is compared with what needs no explanation: the image's centre, a
random point, the trunk's activation energy, the map of another word of the same caption, and the map of a
wrong word, one that nobody said of the image, in the same place. Where the model can say which words come from the
picture (`captioning.visual`), the half of the words that do most is measured apart.
Letters: B captions, T targets, K channels, h,w map, L tokens.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import median
from typing import Any

import torch
from torch import Tensor

from captioning.captioner import Captioner
from captioning.network import Caption
from captioning.visual import gains, query_of
from common import gradcam
from common.metrics import grounding as metrics
from common.request import Encoded, Ragged, split_alone
from common.targets import Target
from common.text import SCORE, OtherWordLogLikelihood, Place, Text, TextLogLikelihood, marks, scored
from data.records import Box, GroundedCaption
from data.words.coco_classes import class_spans, mentioned
from data.words.english import singular
from data.words.vocabulary import tokenize

BASELINES = ("centre", "random", "energy", "other word", "wrong word")
POINTING = ("gradcam", *BASELINES)
VISUAL_HALF = "visual half"


@dataclass(frozen=True)
class Span:
    """Words start..stop of a caption with the boxes of what they name, its type, and the word that heads it."""

    start: int
    stop: int
    word: str
    kind: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Case:
    """One caption of image number `image`: its grounded head nouns, its phrases, and words nobody said of the image."""

    image: int
    text: Text
    heads: tuple[Span, ...]
    phrases: tuple[Span, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass
class Record:
    """What was measured of one word or phrase: pointing and inside/outside ratio by map, NaN where undefined.

    `visual` is what of it comes from the picture, in nats (`captioning.visual`), NaN where the model can't say.
    """

    image: int
    word: str
    kind: str
    is_phrase: bool
    pointing: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    visual: float = math.nan


def human_cases(
    image: int, captions: Sequence[GroundedCaption], network: Any, nouns: Sequence[str] = (), limit: int = 5
) -> list[Case]:
    """Cases of the captions people wrote, to be read by teacher forcing; words the model does not know are left out."""
    said = {singular(word) for caption in captions for word in caption.tokens}
    chooser = random.Random(image)
    cases = []
    for caption in captions[:limit]:
        text = network.read(caption.tokens)
        known = [i for i, word in enumerate(caption.tokens) if word not in text.unknown]
        grounded = [phrase for phrase in caption.phrases if phrase.boxes]
        heads = tuple(
            Span(p.head, p.head + 1, caption.tokens[p.head], p.kind, p.boxes) for p in grounded if p.head in known
        )
        phrases = tuple(Span(p.start, p.stop, " ".join(p.words), p.kind, p.boxes) for p in grounded)
        if heads or phrases:
            cases.append(Case(image, text, heads, phrases, tuple(_wrong(heads, nouns, said, chooser))))
    return cases


def generated_case(
    image: int, caption: Caption, captions: Sequence[GroundedCaption], nouns: Sequence[str] = ()
) -> Case:
    """The case of a generated caption: a word is grounded when it heads a phrase that somebody wrote of the image.

    Its boxes are those of all phrases with that head noun, in the singular or plural.
    """
    named: dict[str, list] = {}
    for phrase in (phrase for written in captions for phrase in written.phrases if phrase.boxes):
        named.setdefault(phrase.noun, []).append(phrase)
    heads = []
    for position, word in enumerate(_bare(caption.words)):
        found = named.get(singular(word), [])
        if found:
            boxes = tuple(dict.fromkeys(box for phrase in found for box in phrase.boxes))
            heads.append(Span(position, position + 1, word, found[0].kind, boxes))
    said = {singular(word) for written in captions for word in written.tokens}
    wrong = _wrong(heads, nouns, said, random.Random(image))
    return Case(image, caption.read, tuple(heads), (), tuple(wrong))


def class_case(image: int, text: Text, instances: Sequence[Any], nouns: Sequence[str] = ()) -> Case:
    """The case of a caption on COCO (paper, figure 11): words that name a class that the image has.

    Words are told by `data.words.coco_classes`; the boxes are those of the class's instances. Wrong words are drawn
    from `nouns`, of classes that the image doesn't have.
    """
    boxes: dict[str, list[Box]] = {}
    for instance in instances:
        boxes.setdefault(instance.name, []).append(instance.box)
    heads = []
    for start, stop, name in class_spans(_bare(text.words)):
        word = " ".join(text.words[start:stop])
        if name in boxes and not set(text.words[start:stop]) & set(text.unknown):
            heads.append(Span(start, stop, word, name, tuple(boxes[name])))
    said = {singular(noun) for noun in nouns if mentioned([noun]) & boxes.keys()}
    return Case(image, text, tuple(heads), (), tuple(_wrong(heads, nouns, said, random.Random(image))))


def _bare(words: Sequence[str]) -> list[str]:
    """Words as data sets have them: chat models write capitals and punctuation."""
    return [" ".join(tokenize(word)) or word for word in words]


def measure(
    captioner: Captioner,
    encoded: Encoded,
    cases: Sequence[Case],
    score: str = SCORE,
    methods: Sequence[str] = ("gradcam",),
) -> list[Record]:
    """Records of all words and phrases of `cases`, whose `image` numbers the images of `encoded`.

    One pass of the decoder and one batched backward pass for all the cases (of photographs that are taken one by one,
    for each); `score` as in `explain`. Maps by each of `methods` are measured, other and wrong words by the first.
    """
    cases = [case for case in cases if case.heads or case.phrases]
    if not cases:
        return []
    if isinstance(encoded.features, Ragged) and len(cases) > 1:
        return [record for case in cases for record in measure(captioner, encoded, [case], score, methods)]
    query = query_of([case.text for case in cases], captioner.network, captioner.device)
    targets, found = _targets(cases, captioner.network, query.shape)
    shown = encoded[[case.image for case in cases]]
    explainable, pixels, features = split_alone(captioner.network.explainable(captioner.layer), shown)
    explanation = gradcam.explain(
        explainable,
        pixels,
        scored(targets, score),
        query=query,
        methods=list(dict.fromkeys((*methods, "activation"))),
        features=features,
    )
    given = explanation.scores if score == "log_probability" else None
    visual = gains(captioner.network, shown.features, query, targets, given)
    maps = {method: _one_a_pixel(explanation.maps[method]).cpu() for method in methods}
    return _records(cases, maps, explanation.activation[0].cpu(), visual, found)


def _one_a_pixel(maps: Tensor) -> Tensor:
    """Maps (T, B, h, w); of those of the image's colours (T, B, 3, H, W) the magnitude, summed."""
    return maps.abs().sum(2) if maps.dim() == 5 else maps


def phrase_ratios(captioner: Captioner, encoded: Encoded, case: Case, methods: Sequence[str]) -> list[dict[str, float]]:
    """Inside/outside ratio by method of each phrase of one case (paper, figure 10b).

    For maps of the image's resolution the magnitude is summed over colours. The uniform map has ratio 1.
    """
    spans = case.phrases
    targets = [TextLogLikelihood(range(*_tokens(case.text, span))) for span in spans]
    explainable = captioner.network.explainable(captioner.layer)
    query = query_of([case.text], captioner.network, encoded.pixels.device)
    shown = encoded[case.image]
    found = gradcam.explain(
        explainable, shown.pixels, targets, query=query, methods=methods, features=shown.features
    ).maps
    boxes = [span.boxes for span in spans]
    maps = [_one_a_pixel(found[method])[:, 0].cpu() for method in methods]
    ratios = [metrics.inside_outside(values, boxes).tolist() for values in maps]
    return [dict(zip(methods, each, strict=True)) for each in zip(*ratios, strict=True)]


def parts(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records, named: 'all', the half that owes the picture most and the other one, then those of each type.

    The halves are left out where the model can't say what comes from the picture.
    """
    kinds = sorted({record.kind for record in records}, key=lambda k: (-sum(r.kind == k for r in records), k))
    known = [record for record in records if math.isfinite(record.visual)]
    halves: dict[str, list[Record]] = {}
    if known:
        middle = median(record.visual for record in known)
        halves = {
            VISUAL_HALF: [record for record in known if record.visual >= middle],
            "other half": [record for record in known if record.visual < middle],
        }
    return {"all": list(records), **halves, **{kind: [r for r in records if r.kind == kind] for kind in kinds}}


def table(
    records: Iterable[Record], is_phrase: bool, measure_of: Callable[[Record], dict[str, float]]
) -> dict[str, Any]:
    """{part of the records: {map: Summary}}, see `parts`; errors are over images."""
    found = {}
    for part, chosen in parts([record for record in records if record.is_phrase == is_phrase]).items():
        groups = [record.image for record in chosen]
        names = list(dict.fromkeys(name for record in chosen for name in measure_of(record)))
        found[part] = {
            name: metrics.summary([measure_of(record).get(name, float("nan")) for record in chosen], groups)
            for name in names
        }
    return found


def paired(records: Iterable[Record], first: str, second: str) -> metrics.Summary:
    """Mean difference of pointing between two maps over the words that have both, with its error over images."""
    kept = [record for record in records if not record.is_phrase]
    nan = float("nan")
    differences = [r.pointing.get(first, nan) - r.pointing.get(second, nan) for r in kept]
    return metrics.summary(differences, [record.image for record in kept])


def head_nouns(captions: Iterable[GroundedCaption], network: Any) -> list[str]:
    """Every head noun with boxes, as often as it occurs: what wrong words are drawn from."""
    nouns = [c.tokens[p.head] for c in captions for p in c.phrases if p.boxes]
    known = {noun: not network.read([noun]).unknown for noun in set(nouns)}
    return [noun for noun in nouns if known[noun]]


def _wrong(heads: Sequence[Span], nouns: Sequence[str], said: set[str], chooser: random.Random) -> list[str]:
    """For each head a noun drawn from `nouns` that nobody said of the image ('' where none is found)."""
    drawn = []
    for _ in heads:
        tries = [nouns[chooser.randrange(len(nouns))] for _ in range(50)] if nouns else []
        drawn.append(next((noun for noun in tries if singular(noun) not in said), ""))
    return drawn


Key = tuple[int, int]  # of a case, and of one of its heads or phrases
Found = dict[str, dict[Key, int]]  # heads, phrases or wrong words -> the target that explains each


def _targets(cases: Sequence[Case], network: Any, shape: torch.Size) -> tuple[list[Target], Found]:
    """Targets for all the cases at once, read as a query of `shape` (1, B, L).

    Target t explains the t-th head (phrase, wrong word) of every case.
    """
    targets: list[Target] = []
    found: Found = {"heads": {}, "phrases": {}, "wrong": {}}
    for kind in ("heads", "phrases"):
        for number, spans in enumerate(zip_longest(*(getattr(case, kind) for case in cases))):
            found[kind].update({(row, number): len(targets) for row, span in enumerate(spans) if span})
            places = [
                Place(0, *_tokens(case.text, span)) if span else None for case, span in zip(cases, spans, strict=True)
            ]
            targets.append(TextLogLikelihood(marks(places, shape), f"{kind} {number}"))
    for number, words in enumerate(zip_longest(*(case.wrong for case in cases))):
        positions, numbers = torch.zeros(2, len(cases), dtype=torch.long)
        for row, word in enumerate(words):
            if word:
                positions[row] = _tokens(cases[row].text, cases[row].heads[number])[0]
                numbers[row] = network.read([word]).tokens[0]
                found["wrong"][row, number] = len(targets)
        targets.append(OtherWordLogLikelihood(positions, numbers, f"wrong {number}"))
    return targets, found


def _tokens(text: Text, span: Span) -> tuple[int, int]:
    return text.span(span.start, span.stop - span.start)


def _records(
    cases: Sequence[Case], maps: dict[str, Tensor], energy: Tensor, visual: Tensor | None, found: Found
) -> list[Record]:
    """Records of all that was `found`, from maps (T, B, h, w) by method, the activation energy (B, h, w) and what of
    each target comes from the picture (T, B).
    """
    first = next(iter(maps.values()))
    centre = metrics.centre_map(1, *first.shape[-2:])[0]
    records: list[Record] = []
    for kind in ("heads", "phrases"):
        places = {key: (target, key[0]) for key, target in found[kind].items()}
        own = {key: first[place] for key, place in places.items()}
        sources = {method: {key: values[place] for key, place in places.items()} for method, values in maps.items()}
        sources |= {"energy": {key: energy[key[0]] for key in own}, "centre": dict.fromkeys(own, centre)}
        if kind == "heads":
            others = {(row, number): (row, _other(cases[row], number)) for row, number in own}
            sources["other word"] = {key: own[other] for key, other in others.items() if other in own}
            sources["wrong word"] = {key: first[target, key[0]] for key, target in found["wrong"].items()}
        spans = {(row, number): getattr(cases[row], kind)[number] for row, number in own}
        measured = _measured(cases, spans, sources, kind == "phrases")
        for record, place in zip(measured, places.values(), strict=True):
            record.visual = math.nan if visual is None else float(visual[place])
        records += measured
    return records


def _measured(
    cases: Sequence[Case], spans: dict[Key, Span], sources: dict[str, dict[Key, Tensor]], is_phrase: bool
) -> list[Record]:
    """A record of each word or phrase, with what is measured of its maps (h, w) by source."""
    records = {key: Record(cases[key[0]].image, s.word, s.kind, is_phrase) for key, s in spans.items()}
    measures = {"pointing": metrics.pointing, "ratio": metrics.inside_outside, "energy": metrics.energy_inside}
    for name, maps in sources.items():
        boxes = [spans[key].boxes for key in maps]
        for kept, measured in measures.items() if maps else ():
            values = measured(torch.stack(list(maps.values())).float(), boxes).tolist()
            for key, value in zip(maps, values, strict=True):
                getattr(records[key], kept)[name] = value
    hits = metrics.random_hit([span.boxes for span in spans.values()]).tolist()
    for record, hit in zip(records.values(), hits, strict=True):
        record.pointing["random"] = hit
    return list(records.values())


def _other(case: Case, number: int) -> int | None:
    """Another grounded word of the caption that names something else: the next one, around the end."""
    mine = case.heads[number]
    rest = [*range(number + 1, len(case.heads)), *range(number)]
    return next((i for i in rest if case.heads[i].boxes != mine.boxes and case.heads[i].word != mine.word), None)
