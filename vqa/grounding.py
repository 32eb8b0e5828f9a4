"""How true the maps of answers are: occlusion, human boxes, and whether they follow the question and the answer.

Every function takes an `Answerer` and questions, and returns plain rows or a table name -> `Summary`.
Source of the measures: the paper, sections 5.3 and 8.2. Letters: B images, T maps, h,w map.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from common.methods.cells import cell_occlusion
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import over_windows, rank_correlation
from common.metrics.grounding import Summary, centre_hit, centre_map, pointing, random_hit, summary
from common.request import Encoded, PhotoReader
from data.records import Question
from vqa.answerer import Answerer
from vqa.metrics import exact_match

OCCLUSION = OcclusionOptions(window=32, stride=32)  # about a cell of the last map, without overlap
WINDOWS = (32, 64, 96, 111)  # pixels
FILLS: Mapping[str, float | Literal["blur"]] = {"grey": 0.0, "blurred": "blur"}
CELLS = "cells of the map"
MEASURED = (CELLS, "32 pixels, grey", "111 pixels, blurred")  # beside the report, which has all
MAPS = ("guided", "guided_gradcam", "gradcam", "no_relu", "activation")
OF_TOKENS = ("hirescam", "gradcam", "layercam", "token_occlusion")  # of chat models, whose pixels aren't differentiated


def sample(questions: Sequence[Question], count: int, seed: int = 0) -> list[Question]:
    """At most `count` of the questions, drawn with `seed`, in an order that keeps an image's together."""
    chosen = random.Random(seed).sample(list(questions), min(count, len(questions)))
    return sorted(chosen, key=lambda q: (q.image_id, q.id))


def methods_of(answerer: Answerer) -> tuple[str, ...]:
    """The methods whose maps are measured unless somebody names others; the first is set against the baselines."""
    return OF_TOKENS if isinstance(answerer.network, PhotoReader) else ("gradcam",)


def looked_at(answerer: Answerer, questions: Sequence[Question]) -> Iterator[tuple[Question, Encoded]]:
    """Each question with its image as the model sees it; an image is encoded once for all its questions in a row."""
    last: tuple[str, Encoded] | None = None
    for question in questions:
        if last is None or last[0] != question.image_id:
            last = (question.image_id, answerer.encode(question.image))
        yield question, last[1]


def references_of(side: int, windows: Sequence[int] = WINDOWS) -> dict[str, OcclusionOptions | None]:
    """What is covered, by name: cells of the map, then windows of pixels that fit `side`, grey and blurred."""
    found: dict[str, OcclusionOptions | None] = {CELLS: None}
    for window in windows:
        for name, fill in FILLS.items():
            if window < side:
                stride = window if window == windows[0] else 16  # side by side; larger ones overlap
                found[f"{window} pixels, {name}"] = OcclusionOptions(window=window, stride=stride, fill=fill)
    return found


def references_for(answerer: Answerer) -> dict[str, OcclusionOptions | None]:
    """`references_of` a model's input; of a chat model, whose photographs are of any size, the map's cells alone."""
    if isinstance(answerer.network, PhotoReader):
        return {CELLS: None}
    return references_of(min(answerer.network.preprocessing.size))


def occlusion_correlation(
    answerer: Answerer,
    questions: Sequence[Question],
    references: Mapping[str, OcclusionOptions | None],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Summary]]:
    """Reference -> map -> Spearman's rank correlation with the occlusion map of the model's own answer.

    See `reference_correlations`. Gradient images are absolute values, largest over channels; `activation` is the
    gradient-free map: what the trunk fires at, whatever was asked. Errors are clustered by image.
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for question, encoded in looked_at(answerer, questions):
        for reference, row in reference_correlations(answerer, question, encoded, references).items():
            rows[reference].append(row)
        progress()
    images = [question.image_id for question in questions]
    return {
        reference: {name: summary([row[name] for row in found], images) for name in found[0]}
        for reference, found in rows.items()
    }


def reference_correlations(
    answerer: Answerer, question: Question, encoded: Encoded, references: Mapping[str, OcclusionOptions | None]
) -> dict[str, dict[str, float]]:
    """Reference -> map -> rank correlation, for the model's own answer to one question.

    A reference is occlusion of pixels with its options, or None: occlusion of cells of the explained map. The maps are
    `MAPS`, where a model with attention looks itself (`attention_word` and so on), and, as the ceiling of what a map of
    that layer can agree, the occlusion of cells itself: `cells`. A map that
    is zero everywhere ranks nothing and counts as 0; a reference that is leaves the question out (NaN).
    """
    answer = answerer.answer(encoded, question.text, top=1).text
    if isinstance(answerer.network, PhotoReader):
        return {CELLS: _token_correlations(answerer, question, encoded, answer)}
    found = answerer.explain(encoded, question.text, answer, methods=MAPS).maps
    maps = {name: each[:, 0].abs().amax(1) if name.startswith("guided") else each[:, 0] for name, each in found.items()}
    maps |= {**_attention(answerer, question, encoded), "cells": _occluded_cells(answerer, question, encoded, answer)}
    rows = {}
    for name, options in references.items():
        if options is None:
            rows[name] = {key: _correlation(each, maps["cells"]) for key, each in maps.items()}
            continue
        asked = answerer.explain(encoded, question.text, answer, methods="occlusion", occlusion_options=options)
        size, where = encoded.pixels.shape[-2:], (options.window, options.stride)
        pooled = {key: over_windows(each, (size[0], size[1]), *where) for key, each in maps.items()}
        rows[name] = {key: _correlation(each, asked.occlusion[:, 0]) for key, each in pooled.items()}
    return rows


def _token_correlations(answerer: Answerer, question: Question, encoded: Encoded, answer: str) -> dict[str, float]:
    """Map -> rank correlation with the occlusion of tokens, of a chat model's whole reply."""
    found = answerer.explain(encoded, question.text, answer, methods=(*OF_TOKENS, "activation")).maps
    reference = found.pop("token_occlusion")[:1, 0]
    return {name: _correlation(each[:1, 0], reference) for name, each in found.items()}


def _attention(answerer: Answerer, question: Question, encoded: Encoded) -> dict[str, Tensor]:
    """Maps (1, h, w) of where a model with attention looks, by level; none of one without."""
    if not hasattr(answerer.network, "attention"):
        return {}
    found = answerer.attention(encoded, question.text)
    return {f"attention_{level}": image[None] for level, image in zip(found.levels, found.image, strict=True)}


def _occluded_cells(answerer: Answerer, question: Question, encoded: Encoded, answer: str) -> Tensor:
    network = answerer.network
    request = network.request([answerer.read(question.text)], [[answer]]).on(encoded.pixels.device)
    explainable = network.explainable(answerer.layer)
    features = encoded.features if explainable.layer == network.layer else None
    return cell_occlusion(explainable, encoded.pixels, request.targets, request.query, features)[:, 0]


def pointing_accuracy(
    answerer: Answerer,
    questions: Sequence[Question],
    progress: Callable[[], None] = lambda: None,
    methods: Sequence[str] | None = None,
) -> dict[str, dict[str, Summary]]:
    """Whether a map's largest value lies in a human box of the right answer, beside what needs no explanation.

    Maps by the first of `methods` of the model's own answer, of the right one and of another question's right answer;
    by the others of its own answer. `centre` points at the middle, `random` anywhere (its chance, exactly),
    `activation` where the trunk fires most. Rows: all questions, and those answered rightly. Questions without boxes,
    and boxes that cover the whole image, are left out.
    """
    first, *others = methods or methods_of(answerer)
    rows: list[tuple[str, bool, dict[str, float]]] = []
    boxed = [q for q in questions if q.boxes]
    wrong = _other_answers(boxed)
    for (question, encoded), other in zip(looked_at(answerer, boxed), wrong, strict=True):
        answer = answerer.answer(encoded, question.text, top=1)
        asked = (first, *others, "activation")
        maps = {
            name: found[:1, 0] for name, found in _maps(answerer, encoded, question.text, answer.text, asked).items()
        }
        maps["own answer"] = maps.pop(first)
        for name, said in (("right answer", question.answer), ("other answer", other)):
            if said and _knows(answerer, said):
                maps[name] = _map(answerer, encoded, question.text, said, first)
        found = {name: float(pointing(each, [question.boxes])) for name, each in maps.items()}
        found |= {"centre": float(centre_hit([question.boxes])), "random": float(random_hit([question.boxes]))}
        rows.append((question.image_id, bool(exact_match(answer.text, question)), found))
        progress()
    names = ("own answer", "right answer", "other answer", *others, "activation", "centre", "random")
    kept = {"all": rows, "answered rightly": [row for row in rows if row[1]]}
    return {
        which: {
            name: summary([row[2].get(name, float("nan")) for row in some], [row[0] for row in some]) for name in names
        }
        for which, some in kept.items()
    }


def _knows(answerer: Answerer, answer: str) -> bool:
    """Whether a model has an answer; one that writes has any."""
    known = getattr(answerer.network.module, "answer_index", None)
    return known is None or answer in known


def _other_answers(questions: Sequence[Question], seed: int = 0) -> list[str]:
    """For each question the answer of another one, of its kind where there is one; '' where all are the same."""
    rng, found = random.Random(seed), []
    for question in questions:
        apart = [q for q in questions if q.answer and q.answer != question.answer and q.image_id != question.image_id]
        alike = [q for q in apart if q.kind == question.kind] or apart
        found.append(rng.choice(alike).answer if alike else "")
    return found


def question_swap(
    answerer: Answerer, questions: Sequence[Question], progress: Callable[[], None] = lambda: None
) -> dict[str, Summary]:
    """Rank correlation of maps on one image: of the question in other words, of another question, of another answer.

    `other words` compares a question with its paraphrase, `other question` with one of another text (and, in
    `other kind`, of another question type) about the same image; each for the model's own answer. `other answer`
    compares the maps of the two likeliest answers to one question. The first should be high, the others lower.
    """
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.image_id].append(question)
    values: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for image_id, asked in sorted(groups.items()):
        first = next((q for q in asked if paraphrase(q.text)), None)
        if first is None:
            continue
        encoded = answerer.encode(first.image)
        own = _map(answerer, encoded, first.text)
        found = {"other words": _map(answerer, encoded, paraphrase(first.text))}
        others = [q for q in asked if q.text not in (first.text, paraphrase(first.text))]
        apart = [q for q in others if q.kind != first.kind]
        for name, these in (("other question", others), ("other kind", apart)):
            if these:
                found[name] = _map(answerer, encoded, these[0].text)
        second = answerer.answer(encoded, first.text, top=2).runners_up
        if second:
            found["other answer"] = _map(answerer, encoded, first.text, second[0].text)
        for name, other in found.items():
            values[name].append((_correlation(own, other), image_id))
        progress()
    return {name: summary(*zip(*found, strict=True)) for name, found in values.items()}


_PARAPHRASES = (
    (re.compile(r"^what (?:color|colour) (is|are) (the .+?)\??$"), r"what \1 the color of \2?"),
    (re.compile(r"^what is the color of (the .+?)\??$"), r"what color is \1?"),
    (re.compile(r"^(?:can|do) you see (.+?)(?: here)?\??$"), r"is there \1 in the picture?"),
    (re.compile(r"^is there (.+?) in the picture\??$"), r"do you see \1?"),
    (re.compile(r"^is there (.+?)\??$"), r"is there \1 in the picture?"),
    (re.compile(r"^are there any (.+?)\??$"), r"are there \1 in the picture?"),
    (re.compile(r"^how many (.+?) are there\??$"), r"how many \1 are in the picture?"),
    (re.compile(r"^how many (.+?) are in the picture\??$"), r"how many \1 are there?"),
    (re.compile(r"^how many (.+?) can you see\??$"), r"how many \1 are there?"),
)


def paraphrase(question: str) -> str:
    """The same question in other words, or '' where no rule rewrites it.

    >>> paraphrase("What color is the hat?")
    'what is the color of the hat?'
    """
    text = question.strip().lower()
    for pattern, other in _PARAPHRASES:
        if pattern.match(text):
            return pattern.sub(other, text)
    return ""


def attention_correlation(
    answerer: Answerer, pairs: Sequence[tuple[Question, Any]], progress: Callable[[], None] = lambda: None
) -> dict[str, Summary]:
    """Rank correlation of maps with human attention (h, w) arrays (VQA-HAT; paper: Grad-CAM 0.136)."""
    values: dict[str, list[float]] = defaultdict(list)
    for question, attention in pairs:
        for name, value in attention_correlations(answerer, question, attention).items():
            values[name].append(value)
        progress()
    images = [question.image_id for question, _ in pairs]
    return {name: summary(found, images) for name, found in values.items()}


def attention_correlations(answerer: Answerer, question: Question, attention: Any) -> dict[str, float]:
    """Map -> rank correlation with where people looked (h, w) for one question, of the model's own answer.

    Beside Grad-CAM stand the activation energy, and the photograph's centre, where people look whatever is asked.
    """
    reference = torch.as_tensor(attention, dtype=torch.float32)[None]
    maps = answerer.explain(answerer.encode(question.image), question.text, methods="gradcam,activation").maps
    found = {name: _correlation(each[:, 0], reference) for name, each in maps.items()}
    return {**found, "centre": _correlation(centre_map(1, *reference.shape[-2:]), reference)}


def _map(
    answerer: Answerer, encoded: Encoded, question: str, answer: str | None = None, method: str | None = None
) -> Tensor:
    """The map (1, h, w) of an answer as a whole, by default of the model's own."""
    method = method or methods_of(answerer)[0]
    return _maps(answerer, encoded, question, answer, [method])[method][:1, 0]


def _maps(
    answerer: Answerer, encoded: Encoded, question: str, answer: str | None, methods: Sequence[str]
) -> Mapping[str, Tensor]:
    return answerer.explain(encoded, question, answer, methods=methods).maps


def _correlation(maps: Tensor, references: Tensor) -> float:
    """The rank correlation of one map with its reference: see `rank_correlation`."""
    return float(rank_correlation(maps, references)[0])
