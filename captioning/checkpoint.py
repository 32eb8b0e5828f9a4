"""A trained captioner: the decoder's two files, on the trunk whose files they name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from captioning.model import CaptionModel
from common.networks.trunk import SeeingTrunk
from common.training import schema, trunks
from data.words.vocabulary import Vocabulary

SCHEMA = {
    "vocabulary": schema.names(),
    "hidden": schema.whole(1, 8192),
    "decoding": schema.optional(
        schema.table({"beam": schema.whole(1, 64), "length_penalty": schema.optional(schema.real(0, 10))})
    ),
}
SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "captioner"


def load_model(
    path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> tuple[CaptionModel, dict[str, Any]]:
    """(model in eval mode, configuration); see `common.training.trunks.load_head`. The shipped one by default."""
    rows = {"vocabulary": "decoder.embedding.weight"}
    return trunks.load_head(path or SHIPPED, "captioner", rows, SCHEMA, _build, device)


def _build(config: Mapping[str, Any], trunk: SeeingTrunk) -> CaptionModel:
    return CaptionModel(trunk, Vocabulary(config["vocabulary"]), config["hidden"])
