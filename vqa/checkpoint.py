"""A trained VQA model from its two files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.images import Preprocessing
from common.networks.trunk import Trunk
from common.training import checkpoints
from data.words.vocabulary import Vocabulary
from vqa.model import VqaModel

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "vqa"


def load_model(path: str | os.PathLike[str] | None = None) -> tuple[VqaModel, Preprocessing, dict[str, Any]]:
    """See `common.training.checkpoints.load_model`; the shipped one by default."""
    rows = {"vocabulary": "question.embedding.weight", "answers": "classifier.weight"}
    return checkpoints.load_model(path or SHIPPED, "vqa", rows, _build)


def _build(config: Mapping[str, Any], trunk: Trunk) -> VqaModel:
    sizes = {key: config[key] for key in ("evidence_words", "embedding", "hidden", "joint")}
    words = Vocabulary(config["vocabulary"])
    return VqaModel(trunk.module, words, config["answers"], trunk.channels, layer=trunk.layer, **sizes)
