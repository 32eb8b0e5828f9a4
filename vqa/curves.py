"""Insertion and deletion: how an answer goes, or comes, as what a map ranks first is taken away, or put in.

Of positions of the explained map, the others holding the mean of all (exact for the head), and of the photograph's
pixels, the others blurred (Petsiuk et al., RISE, BMVC 2018). What is followed is how likely the model's own answer
is: its probability, of a model that writes the geometric mean of its tokens'. A map is true to the model where the
answer comes early (a large area) and goes early (a small one).

Letters: h,w map, H,W photograph, S steps, K channels.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.formulas import upsample
from common.images import as_image
from common.metrics.faithfulness import area, blurred
from common.metrics.grounding import Summary, centre_map, summary
from common.request import Encoded, split_alone
from common.targets import Target, logits
from common.text import TextOutput
from data.records import Question
from vqa.answerer import Answerer
from vqa.grounding import looked_at, methods_of

STEPS = 8
Shown = Callable[[Tensor], float]  # how likely the answer is where marked positions, or pixels, are shown


def curve_areas(
    answerer: Answerer,
    questions: Sequence[Question],
    progress: Callable[[], None] = lambda: None,
    methods: Sequence[str] | None = None,
) -> dict[str, dict[str, Summary]]:
    """'tokens inserted', 'tokens deleted' and the same of pixels -> map -> the area under the curve, 0 to 1.

    Maps by `methods` of the model's own answer, beside the trunk's activation, the centre and a random order.
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for question, encoded in looked_at(answerer, questions):
        for kind, found in areas_of(answerer, question, encoded, methods or methods_of(answerer)).items():
            rows[kind].append(found)
        progress()
    images = [question.image_id for question in questions]
    return {
        kind: {name: summary([row[name] for row in found], images) for name in found[0]} for kind, found in rows.items()
    }


def areas_of(
    answerer: Answerer, question: Question, encoded: Encoded, methods: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The four areas of each map, of one question."""
    asked = answerer.answer(encoded, question.text, top=1)
    found = answerer.explain(encoded, question.text, asked.text, methods=(*methods, "activation")).maps
    maps = {name: each[:1, 0].float().cpu() for name, each in found.items()}
    h, w = next(iter(maps.values())).shape[1:]
    maps["centre"] = centre_map(1, h, w)
    generator = torch.Generator().manual_seed(random.Random(question.id).randrange(2**31))
    maps["random"] = torch.rand(1, h, w, generator=generator)
    with torch.no_grad():
        of_tokens, ranks = _tokens(answerer, encoded, question.text, asked.text)
        of_pixels = _pixels(answerer, question, asked.text)
        size = as_image(question.image).size[::-1]
        places = {"tokens": {name: ranks(each) for name, each in maps.items()}}
        places["pixels"] = {name: _rank(upsample(each[:, None], size)[0, 0]) for name, each in maps.items()}
        return {
            f"{what} {how}": {name: _area(shown, rank, inserted) for name, rank in places[what].items()}
            for what, shown in (("tokens", of_tokens), ("pixels", of_pixels))
            for how, inserted in (("inserted", True), ("deleted", False))
        }


def _area(shown: Shown, rank: Tensor, inserted: bool) -> float:
    """The area under the curve of what is shown, or left, after each of the steps, in the order of `rank`."""
    steps = torch.linspace(0, rank.numel(), STEPS + 1).round()
    return float(area(torch.tensor([shown((rank < step) == inserted) for step in steps])))


def _rank(values: Tensor) -> Tensor:
    """Each value's place among all, 0 for the largest."""
    order = values.flatten().argsort(descending=True, stable=True)
    return order.argsort().view(values.shape)


def _tokens(
    answerer: Answerer, encoded: Encoded, question: str, answer: str
) -> tuple[Shown, Callable[[Tensor], Tensor]]:
    """How likely the answer is where some positions of the map are shown; and their ranks by a map (1, h, w)."""
    network = answerer.network
    request = network.request([answerer.read(question)], [[answer]]).on(answerer.device)
    explainable, pixels, features = split_alone(network.explainable(answerer.layer), encoded)
    A = explainable.features(pixels, request.query) if features is None else features
    mean = A.mean((-2, -1), keepdim=True)

    def shown(marks: Tensor) -> float:
        seen = torch.where(marks.to(A.device), A, mean)
        return likelihood(explainable.forward_from(seen, pixels, request.query), request.targets[0])

    return shown, lambda values: _rank(explainable.at_positions(values[:, None].to(A))[0, 0].float())


def _pixels(answerer: Answerer, question: Question, answer: str) -> Shown:
    """How likely the answer is where some of the photograph's pixels are shown and the others blurred."""
    network = answerer.network
    request = network.request([answerer.read(question.text)], [[answer]]).on(answerer.device)
    image = torch.from_numpy(np.asarray(as_image(question.image), np.float32)).permute(2, 0, 1)
    without = blurred(image[None], max(image.shape[1:]) / 20)[0]

    def shown(marks: Tensor) -> float:
        seen = torch.where(marks, image, without).permute(1, 2, 0).round().clamp(0, 255)
        encoded = answerer.encode([Image.fromarray(seen.numpy().astype(np.uint8))])
        return likelihood(network.head(encoded.states, request.query), request.targets[0])

    return shown


def likelihood(output: Any, target: Target) -> float:
    """How likely the answer that `target` scores is, 0 to 1, to one question about one image."""
    if isinstance(output, TextOutput):
        return float((output.log_probs.sum() / output.mask.sum().clamp(min=1)).exp())
    return float((target(output) - logits(output).logsumexp(-1)).exp()[0])
