"""A trained captioner from its two files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioning.model import CaptionModel
from common.images import Preprocessing
from common.networks.trunk import Trunk
from common.training import checkpoints
from data.words.vocabulary import Vocabulary

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "captioner"


def load_model(path: str | os.PathLike[str] | None = None) -> tuple[CaptionModel, Preprocessing, dict[str, Any]]:
    """See `common.training.checkpoints.load_model`; the shipped one by default."""
    rows = {"vocabulary": "decoder.embedding.weight"}
    return checkpoints.load_model(path or SHIPPED, "captioner", rows, _build)


def _build(config: Mapping[str, Any], trunk: Trunk) -> CaptionModel:
    return CaptionModel(
        trunk.module,
        Vocabulary(config["vocabulary"]),
        trunk.channels,
        config["evidence_words"],
        config["hidden"],
        layer=trunk.layer,
    )
