"""A trained captioner: the decoder's two files, on the trunk whose files they name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from captioning.model import CaptionModel
from common.networks.trunk import SeeingTrunk
from common.training import trunks
from data.words.vocabulary import Vocabulary

SHIPPED = Path(__file__).parent.parent / "data" / "checkpoints" / "captioner"


def load_model(
    path: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> tuple[CaptionModel, dict[str, Any]]:
    """(model in eval mode, configuration); see `common.training.trunks.load_head`. The shipped one by default."""
    rows = {"vocabulary": "decoder.embedding.weight"}
    return trunks.load_head(path or SHIPPED, "captioner", rows, _build, device)


def _build(config: Mapping[str, Any], trunk: SeeingTrunk) -> CaptionModel:
    return CaptionModel(trunk, Vocabulary(config["vocabulary"]), config["hidden"])
