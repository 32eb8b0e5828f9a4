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
    explained = []
    for b, (question, explanation) in enumerate(zip(questions, found, strict=True)):
        own = slopes[request.own(b), b]
        gradients = torch.stack([own[:, start:stop].sum(1) for start, stop in question.spans], 1)
        drops = explanation.scores - scores_without(network, encoded.states, b, question, ask)
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
def scores_without(network: Any, states: Any, image: int, question: Text, ask: Ask) -> Tensor:
    """(T, L): the scores of an image's targets when its question is asked without each word."""
    shorter = [_without(question, word) for word in range(len(question.words))]
    request = ask(shorter, [image] * len(shorter))
    output = network.head(states[image : image + 1], request.query)
    return score_table(request.targets, output, len(shorter))[request.own(0)]


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
