"""A trained VQA model from its head's two files, and the trunk's beside them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.networks.trunk import SeeingTrunk
from common.training import schema
from common.training.trunks import load_head
from data.words.vocabulary import Vocabulary
from vqa.coattention import ATTENTION, CoattentionModel
from vqa.model import VqaModel
from vqa.pooled import PooledModel

Model = VqaModel | CoattentionModel | PooledModel
MODELS: dict[str, type[VqaModel] | type[CoattentionModel] | type[PooledModel]] = {
    "evidence": VqaModel, "coattention": CoattentionModel, "pooled": PooledModel
}  # fmt: skip
"""By what reads the image."""
_SIZE = schema.whole(1, 8192)
_SCHEMA = {"model": schema.optional(schema.one_of(MODELS)), "vocabulary": schema.names(), "answers": schema.names()}
SIZES: dict[str, dict[str, schema.Rule]] = {
    "evidence": {"embedding": _SIZE, "hidden": _SIZE, "joint": _SIZE},
    "pooled": {"embedding": _SIZE, "hidden": _SIZE, "joint": _SIZE},
    "coattention": {"embedding": _SIZE, "joint": _SIZE, "attention": schema.one_of(ATTENTION)},
}
"""What else a model is built with."""
SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "vqa"


def load_model(
    path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> tuple[Model, dict[str, Any]]:
    """See `common.training.trunks.load_head`; the shipped one by default."""
    rows = {"vocabulary": "question.embedding.weight", "answers": "classifier.weight"}
    return load_head(path or SHIPPED, "vqa", rows, _rules, _build, device)


def _rules(config: Mapping[str, Any]) -> dict[str, schema.Rule]:
    return {**_SCHEMA, **SIZES.get(_model(config), {})}


def _model(config: Mapping[str, Any]) -> str:
    """The model's name; checkpoints without one are older than the second model."""
    return str(config.get("model", "evidence"))


def _build(config: Mapping[str, Any], trunk: SeeingTrunk) -> Model:
    model = _model(config)
    sizes: dict[str, Any] = {key: config[key] for key in SIZES[model]}
    return MODELS[model](trunk, Vocabulary(config["vocabulary"]), config["answers"], **sizes)
