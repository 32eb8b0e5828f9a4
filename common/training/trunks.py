"""Files of trunks and of the heads that read them.

trunk.safetensors, trunk.json          the trunk: network and evidence
captioner.safetensors, captioner.json  a head alone; its JSON names the trunk's file beside it, and its fingerprint
summaries.h5                           beside a trunk that was trained here: see `common.training.summaries`
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import nn

from common.errors import UserError
from common.files import atomic_paths
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk, fingerprint, load_trunk
from common.training import schema
from common.training.checkpoints import check_kind, check_lists, load_checkpoint, load_weights, save_checkpoint, stem_of

SHIPPED = Path(__file__).parents[2] / "data" / "checkpoints" / "trunk"
NAME = "trunk"
_OLD = "was trained before trunks had files of their own; train it again, or use the shipped one"
_SCHEMA = {
    "network": schema.text(),
    "source": schema.text(),
    "words": schema.names(unique=False),
    "counted": schema.whole(0, schema.MOST_NAMES),
    "preprocessing": schema.table({}),
}
_loaded: WeakValueDictionary[tuple[Any, ...], SeeingTrunk] = WeakValueDictionary()

Device = str | torch.device
Head = TypeVar("Head", bound=nn.Module)


def save_seeing_trunk(path: str | os.PathLike[str], trunk: SeeingTrunk, config: Mapping[str, Any]) -> Path:
    """Write a trunk; `config` names the `network` and whatever else is to be said of it. Returns the weights' path."""
    told = {
        "kind": NAME,
        "version": 2,
        **config,
        "source": trunk.source,
        "preprocessing": trunk.preprocessing.to_dict(),
        "counted": trunk.evidence.counted,
        "words": list(trunk.evidence.words),
    }
    return save_checkpoint(path, trunk.state_dict(), told)


def load_seeing_trunk(path: str | os.PathLike[str] | None = None, device: Device = "cpu") -> SeeingTrunk:
    """The trunk of a checkpoint (its stem or either file) or of a run's folder; the shipped one by default.

    In eval mode, without gradients. Who loads the same file to the same device while it is in use gets the same
    trunk, so that heads share it. Raises `UserError` for a checkpoint of something else.
    """
    stem = trunk_stem(path)
    key = (*_identity(stem), str(torch.device(device)))
    trunk = _loaded.get(key)
    if trunk is None:
        trunk = _read(stem).to(device)
        _loaded[key] = trunk
    return trunk


def trunk_stem(path: str | os.PathLike[str] | None = None) -> Path:
    """The stem of a trunk's files, from what `--trunk` takes: a stem, either file, a run's folder, None (shipped)."""
    path = SHIPPED if path is None else Path(path)
    return stem_of(path / NAME if path.is_dir() else path)


def copy_trunk(path: str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> Path:
    """Put a trunk's files into the folder of a head's run, so that it is whole; returns their stem there.

    Raises `UserError` where the folder holds another trunk.
    """
    source, target = trunk_stem(path), Path(folder) / NAME
    wanted, suffixes = load_seeing_trunk(source), (".safetensors", ".json")
    if target.with_suffix(".json").is_file() and target.with_suffix(".safetensors").is_file():
        if not wanted.same_as(load_seeing_trunk(target)):
            raise UserError(f"'{folder}' holds another trunk than '{source}'; name another --out")
        return target
    try:
        with atomic_paths(*map(target.with_suffix, suffixes)) as temporaries:
            for suffix, temporary in zip(suffixes, temporaries, strict=True):
                shutil.copyfile(source.with_suffix(suffix), temporary)
    except OSError as error:
        raise UserError(f"cannot copy '{source}' to '{folder}': {error.strerror or error}") from error
    return target


def save_head(path: str | os.PathLike[str], model: nn.Module, config: Mapping[str, Any]) -> Path:
    """Write what a model has besides its `trunk`, whose files lie in the same folder (see `copy_trunk`).

    Returns the weights' path.
    """
    trunk: Any = model.trunk
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("trunk.")}
    return save_checkpoint(path, tensors, {**config, "trunk": {"file": NAME, "fingerprint": trunk.fingerprint}})


def load_head(
    path: str | os.PathLike[str],
    kind: str,
    vocabularies: Mapping[str, str],
    rules: Mapping[str, schema.Rule] | Callable[[Mapping[str, Any]], Mapping[str, schema.Rule]],
    build: Callable[[Mapping[str, Any], SeeingTrunk], Head],
    device: Device = "cpu",
) -> tuple[Head, dict[str, Any]]:
    """(model in eval mode on `device`, configuration) of a head's checkpoint, on the trunk that it was trained on.

    `path` is the checkpoint's stem, or either of its files, or the folder of a training run; `build` makes the model,
    whose attribute `trunk` is the given one, from the configuration; `vocabularies` are the lists in it (key -> the
    tensor with a row for each entry), `rules` what its entries may be (see `common.training.schema`), or a function of
    the configuration that says so. Raises `UserError` for a checkpoint of something else, an entry out of bounds, a
    list that doesn't fit the weights, and a trunk that is missing or another one.
    """
    stem = Path(path)
    if stem.suffix == ".t7":
        raise UserError(
            f"'{path}' is a file of Torch 7, as neuraltalk2 and VQA_LSTM_CNN released theirs: these are not read, see"
            " docs/own_model.md; leave it out for the shipped model, or give a checkpoint of 'saywhy train'"
        )
    stem = stem_of(stem / kind if stem.is_dir() else stem)
    tensors, config = load_checkpoint(stem)
    check_kind(config, kind, rules(config) if callable(rules) else rules, stem)
    check_lists(config, tensors, vocabularies, stem)
    model = build(config, _trunk_of(config, stem, device))
    names = [name for name in model.state_dict() if name.startswith("trunk.")]
    own = {name: model.state_dict()[name] for name in names}
    load_weights(model, {**tensors, **own}, str(stem))
    return model.eval().requires_grad_(False).to(device), config


def _trunk_of(config: Mapping[str, Any], stem: Path, device: Device) -> SeeingTrunk:
    named = config.get("trunk")
    if not isinstance(named, Mapping) or not all(_is_name(named.get(key)) for key in ("file", "fingerprint")):
        raise UserError(f"'{stem}' {_OLD}")
    file = stem.parent / str(named["file"])
    if not file.with_suffix(".json").is_file():
        raise UserError(f"'{stem}' reads the trunk '{file}', which is missing; copy trunk.safetensors and trunk.json")
    trunk = load_seeing_trunk(file, device)
    if trunk.fingerprint != named["fingerprint"]:
        raise UserError(
            f"'{stem}' was trained on another trunk ({named['fingerprint']}) than '{file}' ({trunk.fingerprint}); "
            "copy the files of one training"
        )
    return trunk


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= schema.LONGEST_NAME


def _read(stem: Path) -> SeeingTrunk:
    tensors, config = load_checkpoint(stem)
    check_kind(config, NAME, _SCHEMA, stem)
    check_lists(config, tensors, {"words": "evidence.classifier.weight"}, stem)
    network = load_trunk(config["network"], random_weights=True)
    evidence = Evidence(network.channels, config["words"], config["counted"])
    preprocessing = Preprocessing.from_dict(config["preprocessing"])
    trunk = SeeingTrunk(network.module, evidence, preprocessing, network.layer, config["source"])
    load_weights(trunk, tensors, str(stem))
    trunk.fingerprint = fingerprint(trunk, preprocessing, evidence.words, evidence.counted)
    return trunk.eval().requires_grad_(False)


def _identity(stem: Path) -> tuple[Any, ...]:
    """What tells a file's content from that of another, or of the same at another time."""
    weights = stem.with_name(f"{stem.name}.safetensors")
    try:
        status = os.stat(weights)
    except OSError:
        return (str(stem), None)  # which reading it will complain of
    return (str(weights.resolve()), status.st_mtime_ns, status.st_size)
