"""A trained captioner from its two files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from captioning.model import CaptionModel
from common.errors import UserError
from common.images import Preprocessing
from common.networks.trunk import channels_of, load_trunk
from common.training.checkpoints import load_checkpoint, load_weights, stem_of
from data.words.vocabulary import Vocabulary

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "captioner"
_NEEDED = ("trunk", "vocabulary", "evidence_words", "hidden", "preprocessing")


def load_model(
    path: str | os.PathLike[str] | None = None,
) -> tuple[CaptionModel, Preprocessing, dict[str, Any]]:
    """(model in eval mode, its preprocessing, the checkpoint's configuration); the shipped one by default.

    `path` is the checkpoint's stem, or either of its files, or the folder of a training run. Raises
    `UserError` for a checkpoint of something else, and for one whose vocabulary doesn't fit its weights.
    """
    path = SHIPPED if path is None else Path(path)
    if path.is_dir():
        path = path / "captioner"
    tensors, config = load_checkpoint(path)
    absent = [key for key in _NEEDED if key not in config]
    if config.get("kind") != "captioner" or absent:
        what = (
            f"it lacks '{absent[0]}'"
            if absent
            else f"it holds a {config.get('kind', 'model of unknown kind')}"
        )
        raise UserError(f"'{stem_of(path)}' is no captioner's checkpoint: {what}")
    vocabulary = Vocabulary(config["vocabulary"])
    rows = tensors.get("decoder.embedding.weight")
    if rows is not None and len(rows) != len(vocabulary):
        raise UserError(
            f"the vocabulary in '{stem_of(path)}.json' doesn't fit the checkpoint: {len(vocabulary)} words, "
            f"the weights know {len(rows)}; copy both files from the same training"
        )
    network, layer = load_trunk(config["trunk"], random_weights=True)
    preprocessing = Preprocessing.from_dict(config["preprocessing"])
    model = CaptionModel(
        network.module,
        vocabulary,
        channels_of(network.module, layer, network.blank())[0],
        config["evidence_words"],
        config["hidden"],
        layer=layer,
    )
    load_weights(model, tensors, str(stem_of(path)))
    return model.eval().requires_grad_(False), preprocessing, config
