"""Captions of photographs, and why each word was said.

A word's score is its logit after the words before it, or on request its log-probability, which the paper explains
(section 8.1); a caption's and a phrase's are sums over their words.

    >>> captioner = load()
    >>> captioner.caption("data/samples/cat.jpg").text
    'a cat sitting on top of a wooden floor'
    >>> found = captioner.explain("data/samples/cat.jpg", phrases=["a wooden floor"])
    >>> found.heatmaps.shape                      # the caption, its nine words, the phrase
    torch.Size([11, 1, 9, 9])

Read `captioner` (what a user has), `network` (the model behind it), `request` (from texts to targets), in this order.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from common.errors import check_no_options

if TYPE_CHECKING:
    import torch

    from captioning.captioner import Captioner


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    layer: str | None = None,
    beam: int | None = None,
    **options: Any,
) -> Captioner:
    """The captioner of a checkpoint (default: the shipped one), ready to caption and explain.

    `checkpoint` is a checkpoint's stem, either of its files, or a training run's folder, or
    `hf:PATH_OR_NAME` for a captioner of `transformers` (see `captioning.adapters`); `layer` the layer to
    explain at (default: the map that the decoder reads of); `beam` the beam width (default: the checkpoint's).
    Chat models take `options` besides: `prompt`, `dtype`, `device_map`, `max_tokens`, see `captioning.chat.load`.
    Raises `UserError` for files that are missing, broken, or of something else.
    """
    if str(checkpoint).startswith("hf:"):
        from captioning import adapters

        return adapters.load(str(checkpoint), device, layer, beam, **options)
    check_no_options(options, str(checkpoint or "the shipped captioner"))
    from captioning.captioner import Captioner
    from captioning.checkpoint import SHIPPED, load_model
    from captioning.network import LstmNetwork

    model, config = load_model(checkpoint, device)
    decoding = config.get("decoding", {})
    network = LstmNetwork(
        model,
        name="captioner",
        source=str(checkpoint or f"shipped checkpoint {SHIPPED.name}"),
        length_penalty=float(decoding.get("length_penalty", 0.0)),
    )
    return Captioner(network, layer, beam or int(decoding.get("beam", 3)))
