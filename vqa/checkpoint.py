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
from vqa.model import VqaModel

SCHEMA = {
    "vocabulary": schema.names(),
    "answers": schema.names(),
    **{size: schema.whole(1, 8192) for size in ("embedding", "hidden", "joint")},
}
SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "vqa"


def load_model(
    path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> tuple[VqaModel, dict[str, Any]]:
    """See `common.training.trunks.load_head`; the shipped one by default."""
    rows = {"vocabulary": "question.embedding.weight", "answers": "classifier.weight"}
    return load_head(path or SHIPPED, "vqa", rows, SCHEMA, _build, device)


def _build(config: Mapping[str, Any], trunk: SeeingTrunk) -> VqaModel:
    sizes = {key: config[key] for key in ("embedding", "hidden", "joint")}
    return VqaModel(trunk, Vocabulary(config["vocabulary"]), config["answers"], **sizes)
