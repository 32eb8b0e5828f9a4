"""Answers to questions about photographs, and why each was given.

An answer's score is its score before the softmax (paper, section 8.2). It is explained twice: by a map, where on the
photograph the evidence is, and by the question's words, what each adds to the score.

    >>> answerer = load()
    >>> answerer.answer("data/samples/cat.jpg", "what animal is this?").text
    'cat'
    >>> found = answerer.explain("data/samples/cat.jpg", "what animal is this?", answers=["cat", "dog"])
    >>> found.heatmaps.shape, found.words
    (torch.Size([2, 1, 9, 9]), ('what', 'animal', 'is', 'this'))
    >>> found.word_gradients.shape
    torch.Size([2, 4])

Read `answerer` (what a user has), `network` (the model behind it), `request` (from answers to targets), in this order.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from common.errors import check_no_options

if TYPE_CHECKING:
    import torch

    from vqa.answerer import Answerer


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    layer: str | None = None,
    **options: Any,
) -> Answerer:
    """The VQA model of a checkpoint (default: the shipped one), ready to answer and explain.

    `checkpoint` is a checkpoint's stem, either of its files, a training run's folder, or `hf:PATH_OR_NAME` for
    a ViLT, BLIP or chat model of `transformers`; `layer` the layer to explain at (default: the map that is
    classified). Chat models take `options` besides: `dtype`, `device_map`, `max_tokens`, see `vqa.chat.load`.
    Raises `UserError` for files that are missing, broken, or of something else.
    """
    if checkpoint is not None and str(checkpoint).startswith("hf:"):
        from vqa.adapters import load as load_transformers

        return load_transformers(str(checkpoint), device, layer, **options)
    check_no_options(options, str(checkpoint or "the shipped VQA model"))
    from vqa.answerer import Answerer
    from vqa.checkpoint import SHIPPED, load_model
    from vqa.network import own_network

    model, config = load_model(checkpoint, device)
    source = str(checkpoint or f"shipped checkpoint {SHIPPED.name}")
    return Answerer(own_network(model, source=source, baselines=config.get("baselines")), layer)
