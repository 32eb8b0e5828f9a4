"""A trained VQA model from its two files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.images import Preprocessing
from common.networks.trunk import load_trunk
from common.training.checkpoints import load_task, load_weights
from data.words.vocabulary import Vocabulary
from vqa.model import VqaModel

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "vqa"
_NEEDED = (
    "trunk",
    "vocabulary",
    "answers",
    "evidence_words",
    "embedding",
    "hidden",
    "joint",
    "preprocessing",
    "layer",
)
_ROWS = {"vocabulary": "question.embedding.weight", "answers": "classifier.weight"}


def load_model(path: str | os.PathLike[str] | None = None) -> tuple[VqaModel, Preprocessing, dict[str, Any]]:
    """(model in eval mode, its preprocessing, the checkpoint's configuration); default: the shipped checkpoint.

    `path` is the checkpoint's stem, or either of its files, or the folder of a training run. Raises
    `UserError` for a checkpoint of something else, and for one whose vocabularies don't fit its weights.
    """
    name, tensors, config = load_task(path or SHIPPED, "vqa", _NEEDED, _ROWS)
    trunk = load_trunk(config["trunk"], random_weights=True)
    model = VqaModel(
        trunk.module,
        Vocabulary(config["vocabulary"]),
        config["answers"],
        trunk.channels,
        evidence_words=config["evidence_words"],
        embedding=config["embedding"],
        hidden=config["hidden"],
        joint=config["joint"],
        layer=trunk.layer,
        config=config,
    )
    load_weights(model, tensors, name)
    return model.eval().requires_grad_(False), Preprocessing.from_dict(config["preprocessing"]), config
