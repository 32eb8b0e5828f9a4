"""Answers to questions about photographs, and why each was given.

import vqa
answerer = vqa.load()
answerer.answer("photo.jpg", "what color is the hat?").text
answerer.explain("photo.jpg", "what color is the hat?", answers=["red", "blue"]).heatmaps
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from vqa.answerer import Answerer


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    layer: str | None = None,
) -> Answerer:
    """The VQA model of a checkpoint (default: the shipped one), ready to answer and explain.

    `checkpoint` is a checkpoint's stem, either of its files, a training run's folder, or `hf:PATH_OR_NAME` for
    a ViLT or BLIP model of `transformers`; `layer` the layer to explain at (default: the map that is classified).
    Raises `UserError` for files that are missing, broken, or of something else.
    """
    from vqa.answerer import Answerer

    if checkpoint is not None and str(checkpoint).startswith("hf:"):
        from vqa.adapters import load as load_transformers

        return load_transformers(str(checkpoint), device, layer)
    from vqa.checkpoint import SHIPPED, load_model
    from vqa.network import LstmNetwork

    model, preprocessing, config = load_model(checkpoint)
    source = str(checkpoint or f"shipped checkpoint {SHIPPED.name}")
    network = LstmNetwork(model.to(device), preprocessing, "vqa", source, config["layer"])
    return Answerer(network, layer)
