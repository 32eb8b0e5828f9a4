"""A trained VQA model from its two files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.images import Preprocessing
from common.training.checkpoints import load_checkpoint, load_weights, stem_of
from data.words.vocabulary import Vocabulary
from vqa import trunk as trunks
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


def load_model(path: str | os.PathLike[str] | None = None) -> tuple[VqaModel, Preprocessing, dict[str, Any]]:
    """(model in eval mode, its preprocessing, the checkpoint's configuration); default: the shipped checkpoint.

    `path` is the checkpoint's stem, or either of its files, or the folder of a training run. Raises
    `UserError` for a checkpoint of something else, and for one whose vocabularies don't fit its weights.
    """
    path = SHIPPED if path is None else Path(path)
    if path.is_dir():
        path = path / "vqa"
    tensors, config = load_checkpoint(path)
    name = str(stem_of(path))
    absent = [key for key in _NEEDED if key not in config]
    if config.get("kind") != "vqa" or absent:
        what = (
            f"it lacks '{absent[0]}'"
            if absent
            else f"it holds a {config.get('kind', 'model of unknown kind')}"
        )
        raise UserError(f"'{name}' is no VQA model's checkpoint: {what}")
    for key, entry, what in (
        ("vocabulary", "question.embedding.weight", "words"),
        ("answers", "classifier.weight", "answers"),
    ):
        if entry in tensors and len(tensors[entry]) != len(config[key]):
            raise UserError(
                f"the {what} in '{name}.json' don't fit the checkpoint: {len(config[key])} {what}, the weights "
                f"know {len(tensors[entry])}; copy both files from the same training"
            )
    trunk = trunks.load(config["trunk"], random_weights=True)
    model = VqaModel(
        trunk.module,
        Vocabulary(config["vocabulary"]),
        config["answers"],
        trunk.channels,
        evidence_words=config["evidence_words"],
        embedding=config["embedding"],
        hidden=config["hidden"],
        joint=config["joint"],
        trunk_features=trunk.features,
        config=config,
    )
    load_weights(model, tensors, name)
    return model.eval().requires_grad_(False), Preprocessing.from_dict(config["preprocessing"]), config
