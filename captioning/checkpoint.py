"""A trained captioner from its two files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from captioning.model import CaptionModel
from common.images import Preprocessing
from common.networks.trunk import load_trunk
from common.training.checkpoints import load_task, load_weights
from data.words.vocabulary import Vocabulary

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "captioner"
_NEEDED = ("trunk", "vocabulary", "evidence_words", "hidden", "preprocessing")
_ROWS = {"vocabulary": "decoder.embedding.weight"}


def load_model(
    path: str | os.PathLike[str] | None = None,
) -> tuple[CaptionModel, Preprocessing, dict[str, Any]]:
    """(model in eval mode, its preprocessing, the checkpoint's configuration); the shipped one by default.

    `path` is the checkpoint's stem, or either of its files, or the folder of a training run. Raises
    `UserError` for a checkpoint of something else, and for one whose vocabulary doesn't fit its weights.
    """
    name, tensors, config = load_task(path or SHIPPED, "captioner", _NEEDED, _ROWS)
    trunk = load_trunk(config["trunk"], random_weights=True)
    model = CaptionModel(
        trunk.module,
        Vocabulary(config["vocabulary"]),
        trunk.channels,
        config["evidence_words"],
        config["hidden"],
        layer=trunk.layer,
    )
    load_weights(model, tensors, name)
    return model.eval().requires_grad_(False), Preprocessing.from_dict(config["preprocessing"]), config
