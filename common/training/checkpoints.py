"""Checkpoints: `<stem>.safetensors` with the tensors and `<stem>.json` with the configuration beside it.

Weights are stored as float16 (batch-norm statistics as float32), which halves the file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import atomic_paths, write_json
from common.printed import printable
from common.training.schema import Rule, checked

_FULL_PRECISION = ("running_mean", "running_var")


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write tensors and configuration, both or neither; returns the path of the safetensors file.

    `path` is the stem, or either file's own name.
    """
    stem = stem_of(path)
    stored = {name: _stored(name, tensor) for name, tensor in tensors.items()}
    weights = _beside(stem, ".safetensors")
    with atomic_paths(weights, _beside(stem, ".json")) as (temporary, described):
        try:
            save_file(stored, temporary)
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        write_json(described, dict(config))
    return weights


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors as float32, configuration) of a checkpoint. Raises `UserError` naming the wrong file."""
    stem = stem_of(path)
    weights, described = _beside(stem, ".safetensors"), _beside(stem, ".json")
    try:
        config = json.loads(described.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no checkpoint '{stem}': '{described}' is missing; give a checkpoint's stem") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read '{described}': {error}; copy or train the checkpoint again") from error
    if not isinstance(config, dict):
        raise UserError(f"'{described}' holds no configuration; copy or train the checkpoint again")
    if not weights.is_file():
        raise UserError(f"no checkpoint '{stem}': '{weights}' is missing; copy both files")
    try:
        with safe_open(weights, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise UserError(f"'{weights}' is truncated or not a safetensors file; copy it again") from error
    for name, tensor in tensors.items():
        if tensor.is_complex() or not bool(torch.isfinite(tensor).all()):
            what = "complex" if tensor.is_complex() else "not finite"
            raise UserError(f"entry '{name}' in '{weights}' has values that are {what}; copy or train it again")
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, config


def check_kind(config: Mapping[str, Any], kind: str, schema: Mapping[str, Rule], stem: Path) -> None:
    """Raises `UserError` for the configuration of another `kind` of model, or for an entry that `schema` refuses."""
    if config.get("kind") != kind:
        other = " ".join(printable(config.get("kind", "unknown"), 40).split()) or "nameless"
        raise UserError(f"'{stem}' is no checkpoint of a {kind} model, but of a {other} one")
    checked(config, schema, _beside(stem, ".json"))


def check_lists(config: Mapping[str, Any], tensors: Mapping[str, Tensor], lists: Mapping[str, str], stem: Path) -> None:
    """Raise `UserError` for a list of the configuration that doesn't fit: key -> the tensor with its rows."""
    for key, name in lists.items():
        if name in tensors and len(tensors[name]) != len(config[key]):
            raise UserError(
                f"'{key}' in '{stem}.json' doesn't fit the checkpoint: it has {len(config[key])} entries, the weights "
                f"know {len(tensors[name])}; copy both files from the same training"
            )


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put `tensors` into `module`; raises `UserError` naming the first entry that doesn't fit."""
    own = module.state_dict()
    wrong = [k for k in own if k not in tensors] + [k for k in tensors if k not in own]
    if wrong:
        raise UserError(f"checkpoint '{name}' doesn't fit this model: entry '{wrong[0]}' is in only one of them")
    for key, value in own.items():
        if value.shape != tensors[key].shape:
            raise UserError(
                f"checkpoint '{name}' doesn't fit this model: '{key}' is {tuple(tensors[key].shape)}, "
                f"the model's is {tuple(value.shape)} (a vocabulary or trunk of another checkpoint?)"
            )
    module.load_state_dict(dict(tensors))


def stem_of(path: str | os.PathLike[str]) -> Path:
    """The path without `.safetensors` or `.json`."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _stored(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    full = not tensor.is_floating_point() or name.endswith(_FULL_PRECISION)
    return tensor.clone() if full else tensor.half()
