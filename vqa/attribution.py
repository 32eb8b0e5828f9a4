"""Which words of a question an answer rests on: gradient times embedding, and leaving each word out.

Letters: B images, L words of a question, M tokens, T targets.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common.explanation import Explanation
from common.formulas import gradients
from common.request import Encoded, Request
from common.targets import score_table
from common.text import Text

ROWS = 64  # questions that a head is asked together
Ask = Callable[[Sequence[Text], Sequence[int]], Request]  # questions, and the number of the image of each


def with_words(
    network: Any,
    encoded: Encoded,
    questions: Sequence[Text],
    ask: Ask,
    request: Request,
    slopes: Tensor,
    found: Sequence[Explanation],
) -> list[Explanation]:
    """Explanations of answers, with what each word of the questions adds to the targets' scores.

    `request` is for the whole questions, `slopes` (T, B, M) what their tokens add to first order, `found` are the
    explanations; `ask` makes the request for any questions about the images.
    """
    explained, without = [], scores_without(network, encoded.states, questions, ask)
    for b, (question, explanation, shorter) in enumerate(zip(questions, found, without, strict=True)):
        own = slopes[request.own(b), b]
        gradients = torch.stack([own[:, start:stop].sum(1) for start, stop in question.spans], 1)
        drops = explanation.scores - shorter
        explained.append(replace(explanation, words=question.words, word_gradients=gradients, word_drops=drops))
    return explained


def token_gradients(network: Any, states: Any, request: Request) -> Tensor:
    """d score / d a token's embedding, times the embedding, summed over its entries (T, B, M), of any network.

    To first order, what the token adds to the score. `network.embedding` is the name of the module that embeds.
    """
    embedding = network.module.get_submodule(network.embedding)
    with torch.enable_grad(), leaves(embedding) as found:
        scores = score_table(request.targets, network.head(states, request.query), len(request.names))
        return (gradients(scores, found[0]) * found[0].detach()).sum(-1)


@torch.no_grad()
def scores_without(network: Any, states: Any, questions: Sequence[Text], ask: Ask) -> list[Tensor]:
    """(T, L) for each image: the scores of its targets when its question is asked without each word."""
    found: list[Tensor] = []
    for images in _together([len(question.words) for question in questions]):
        rows = [image for image in images for _ in questions[image].words]
        shorter = [_without(questions[image], word) for image in images for word in range(len(questions[image].words))]
        request = ask(shorter, rows)
        seen = states[images[0] : images[0] + 1] if len(images) == 1 else states[rows]
        table = score_table(request.targets, network.head(seen, request.query), len(rows))
        for image in images:
            own = slice(rows.index(image), rows.index(image) + rows.count(image))
            found.append(table[request.own(own.start), own])
    return found


def _together(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Images whose shortened questions are asked together: so many that there are `ROWS` of them, and at least one."""
    images: list[int] = []
    for image, length in enumerate(lengths):
        if images and sum(lengths[other] for other in images) + length > ROWS:
            yield images
            images = []
        images.append(image)
    yield images


def _without(question: Text, word: int) -> Text:
    start, stop = question.spans[word]
    return replace(question, tokens=question.tokens[:start] + question.tokens[stop:], words=(), spans=())


@contextlib.contextmanager
def leaves(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module` inside the block, each replaced by a leaf that gradients are taken for."""
    found: list[Tensor] = []

    def swap(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        found.append(output.detach().clone().requires_grad_())
        return found[-1].clone()  # what follows may work in place

    handle = module.register_forward_hook(swap)
    try:
        yield found
    finally:
        handle.remove()
