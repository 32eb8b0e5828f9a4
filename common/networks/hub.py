"""Networks from timm and `transformers`, from the local cache or the internet, without long retries."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from common.errors import UserError
from common.images import INTERPOLATIONS, Preprocessing
from common.networks.weights import check_finite, reachable

PROCESSOR = "preprocessor_config.json"


def library(name: str) -> Any:
    """The module of an optional library; `UserError` with the way to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {name}, which is not installed ({error}): pip install {name}") from error


def timm_pretrained(name: str) -> tuple[nn.Module, str]:
    """A timm model with its published weights, and where they came from."""
    timm = library("timm")
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url or config.file):
        raise UserError(f"timm publishes no weights for '{name}'; give a weight file, or choose random weights")
    cached, options = timm_file(name), {}
    if cached is not None:
        options = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": False}}
    elif not _hub_reachable():
        repository = config.hf_hub_id or config.url
        raise UserError(
            f"the weights of timm:{name} are not in the local cache and the model hub cannot be"
            f" reached; download model.safetensors of {repository} elsewhere and give that file as the"
            f" weights, or put the cache of a machine that has it at {_cache()}"
        )
    with quiet(f"timm:{name}"):
        module = timm.create_model(name, pretrained=True, **options)
    return module, f"timm {config.hf_hub_id or config.url}"


def timm_file(name: str) -> Path | None:
    """The weights of a timm model in the local cache, if they are there."""
    timm, hub = library("timm"), library("huggingface_hub")
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = hub.try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or file)
        if isinstance(found, str):
            return Path(found)
    return None


def transformers_classifier(name: str, random_weights: bool) -> tuple[nn.Module, Preprocessing, str]:
    """(model, preprocessing, source) from a folder, the local cache or the model hub."""
    place = located(name)
    classifier = library("transformers").AutoModelForImageClassification
    with quiet(f"hf:{name}"):
        if random_weights:
            module, source = classifier.from_config(place.load("AutoConfig")), "random weights"
        else:
            module, source = place.model("AutoModelForImageClassification"), place.source
    return module, _saved_preprocessing(place, module.config), source


@dataclass(frozen=True)
class Pretrained:
    """A `transformers` model of images and text: with its tokeniser, preprocessing, family and where it is from."""

    module: nn.Module
    tokenizer: Any
    preprocessing: Preprocessing
    family: str
    source: str


def transformers_pretrained(name: str, loaders: dict[str, str], what: str) -> Pretrained:
    """The model `name`: a folder, in the local cache, or on the model hub.

    `loaders` maps each model type that is accepted to the class that loads it; `what` names such models in
    errors. Raises `UserError` where it cannot be had, is of another kind, or has incomplete weights.
    """
    place = located(name)
    with quiet(f"hf:{name}"):
        config = place.load("AutoConfig")
        family = config.model_type
        if family not in loaders:
            raise UserError(f"hf:{name}: is a '{family}' model; {what} that can be explained: {', '.join(loaders)}")
        module, tokenizer = place.model(loaders[family]), place.load("AutoTokenizer")
    check_module(module, place.source)
    return Pretrained(module.eval(), tokenizer, _saved_preprocessing(place, config), family, place.source)


@dataclass(frozen=True)
class Place:
    """Where a `transformers` model is: a folder's path, or its name in the cache or on the hub."""

    name: str
    path: str
    offline: bool

    @property
    def source(self) -> str:
        return f"{'folder' if Path(self.path).is_dir() else 'model hub'} {self.name}"

    def load(self, kind: str, **options: Any) -> Any:
        """What one of the library's classes, `kind`, reads there."""
        loader = getattr(library("transformers"), kind)
        return loader.from_pretrained(self.path, local_files_only=self.offline, trust_remote_code=False, **options)

    def model(self, kind: str, **options: Any) -> nn.Module:
        """A model with all its weights; `UserError` where some are absent."""
        module, info = self.load(kind, output_loading_info=True, **options)
        absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if absent:
            raise UserError(
                f"hf:{self.name}: has no weights for '{absent[0]}' of {type(module).__name__}; load a model that was"
                " saved with its head"
            )
        return module


def located(name: str) -> Place:
    """Where the model is: `UserError`, at once, for what is neither here nor can be fetched."""
    library("transformers")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"hf:{name}: the folder has no config.json; give the folder that save_pretrained wrote")
        return Place(name, str(folder), offline=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"hf:{name}: no such folder; give the folder that save_pretrained wrote")
    cached, offline = _cached_config(name), not _hub_reachable()
    if offline and not cached:
        raise UserError(
            f"hf:{name}: no such folder, not in the cache ({_cache()}), and the model hub cannot be reached; download"
            " config.json, model.safetensors, preprocessor_config.json and the tokenizer's files, if it has one,"
            " elsewhere into a folder, and give hf:FOLDER"
        )
    return Place(name, name, offline)


def model_type(name: str) -> str:
    """The kind of a `transformers` model, by its configuration; `UserError` where that cannot be had."""
    place = located(name)
    with quiet(f"hf:{name}"):
        return str(place.load("AutoConfig").model_type)


def _saved_preprocessing(place: Place, config: Any) -> Preprocessing:
    try:
        with quiet(f"hf:{place.name}"):
            processor = place.load("AutoImageProcessor")
    except UserError:
        if (Path(place.path) / PROCESSOR).is_file():  # there, and not to be read
            raise
        assumed = preprocessing_from_config(config)
        warnings.warn(
            f"hf:{place.name} has no {PROCESSOR}: assuming {'x'.join(map(str, assumed.size))} pixels,"
            f" mean {assumed.mean}, std {assumed.std}",
            stacklevel=2,
        )
        return assumed
    try:
        return _from_processor(processor.to_dict())
    except UserError as problem:
        raise UserError(f"hf:{place.name}: {PROCESSOR}: {problem}") from problem
    except (TypeError, ValueError, OverflowError, AttributeError) as problem:  # entries of other kinds
        raise UserError(f"hf:{place.name}: {PROCESSOR} has an entry of a wrong kind ({_line(problem)})") from problem


def check_tokens(ids: Iterable[int], known: int, name: str) -> None:
    """Raise `UserError` where a tokenizer writes tokens that the model `name`, which knows so many, doesn't know."""
    most = max(ids, default=0)
    if most >= known:
        raise UserError(f"{name}: its tokenizer writes token {most}, and the model knows {known}: files of two models?")


def _from_processor(values: dict[str, Any]) -> Preprocessing:
    """The numbers of a saved image processor; its crop is left out, so that the whole image is seen."""
    size = values.get("crop_size") if values.get("do_center_crop") else None
    size = dict(size or values.get("size") or {})
    side = size.get("shortest_edge") or 224
    scale = 255 * (values.get("rescale_factor") or 1 / 255) if values.get("do_rescale", True) else 255.0
    normalised = values if values.get("do_normalize", True) else {}
    mean, std = (normalised.get("image_mean") or (0.0, 0.0, 0.0), normalised.get("image_std") or (1.0, 1.0, 1.0))
    resample = values.get("resample")
    interpolation = "bilinear" if resample is None else Image.Resampling(int(resample)).name.lower()
    return Preprocessing(
        (int(size.get("height") or side), int(size.get("width") or side)),
        tuple(float(m) / scale for m in mean),
        tuple(float(s) / scale for s in std),
        interpolation if interpolation in INTERPOLATIONS else "bilinear",
    )


def preprocessing_from_config(config: Any) -> Preprocessing:
    """What a `transformers` model usually wants: the side in its config; ViTs have their input in -1..1."""
    config = getattr(config, "encoder", None) or getattr(config, "vision_config", None) or config
    side = getattr(config, "image_size", None) or 224
    size = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
    half = (0.5, 0.5, 0.5)
    if str(getattr(config, "model_type", "")) in ("vit", "beit", "vit_msn"):
        return Preprocessing(size, half, half)  # type: ignore[arg-type]
    return Preprocessing(size)  # type: ignore[arg-type]


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """What a module says of its own input (timm, `transformers`); else 224x224 and ImageNet's mean, std."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if isinstance(config, dict) and "input_size" in config:
        interpolation = config.get("interpolation", "bilinear")
        return Preprocessing(
            tuple(config["input_size"][1:]),  # type: ignore[arg-type]
            tuple(config.get("mean", Preprocessing.mean)),
            tuple(config.get("std", Preprocessing.std)),
            interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
        )
    if _is_transformers(module):
        return preprocessing_from_config(module.config)
    return Preprocessing()


def classes_of(module: nn.Module) -> int | None:
    """The number of classes, where the module says it or ends in a linear layer."""
    if _is_transformers(module):
        return int(module.config.num_labels)  # type: ignore[union-attr,arg-type]
    for count in (getattr(module, "num_classes", None), getattr(module, "out_features", None)):
        if isinstance(count, int):
            return count
    heads = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return heads[-1].out_features if heads else None


def labels_of(module: nn.Module) -> tuple[str, ...] | None:
    """The names in a `transformers` config, unless they are none or the placeholders LABEL_0, LABEL_1, ..."""
    if not _is_transformers(module) or not module.config.id2label:  # type: ignore[union-attr]
        return None
    names: dict[int, str] = {int(i): str(name) for i, name in module.config.id2label.items()}  # type: ignore
    labels = tuple(names[i] for i in sorted(names))
    return None if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels


def forward_of(module: nn.Module) -> Callable[..., Tensor] | None:
    """How to call a module so that it returns the logits (B, classes); None where its own call does."""
    if not _is_transformers(module):
        return None
    return lambda images, query=None: module(pixel_values=images).logits


def check_module(module: nn.Module, source: str) -> None:
    """Raises `UserError` naming the first tensor of a module with NaN or infinite values."""
    check_finite({**dict(module.named_parameters()), **dict(module.named_buffers())}, source)


def _is_transformers(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.") and hasattr(module, "config")


def _cached_config(name: str) -> bool:
    hub = library("huggingface_hub")
    try:
        return isinstance(hub.try_to_load_from_cache(name, "config.json"), str)
    except ValueError as error:  # not the form of a repository's name
        line = " ".join(str(error).split())
        raise UserError(f"hf:{name}: neither a folder nor a model's name ({line})") from error


def _cache() -> str:
    return str(library("huggingface_hub").constants.HF_HUB_CACHE)


def _hub_reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    return reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Library chatter off; any failure becomes one line that names the model."""
    restore = _silenced()
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if "gated" in str(error).lower():
            raise UserError(
                f"{name}: is gated: accept its terms on its page on the hub, then log in with 'hf auth login'"
            ) from error
        raise UserError(f"{name}: could not be loaded ({_line(error)}); get its files again") from error
    except Exception as error:
        raise UserError(f"{name}: transformers or timm failed ({_line(error)})") from error
    finally:
        restore()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _silenced() -> Callable[[], None]:
    """Turns the library's messages and progress bars off; the result turns them on again."""
    if "transformers" not in sys.modules:
        return lambda: None
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def restore() -> None:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()

    return restore
