"""Chat models by name: a folder, the local cache or the model hub. Nothing of a model's own code is run."""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from common.chat.families import FAMILIES, REFUSED
from common.chat.model import MAX_REPLY, ChatModel
from common.errors import UserError
from common.networks import hub

DTYPES = ("auto", "float32", "bfloat16", "float16")
LIBRARY = (5, 18)  # the first transformers in which `forward` and `generate` take `mm_encoder_outputs`
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_ROOM = 1.2  # of a model's size: weights, and what its passes need besides


def load(
    name: str,
    device: str | torch.device = "cpu",
    dtype: str = "auto",
    device_map: str | None = None,
    max_tokens: int = MAX_REPLY,
) -> ChatModel:
    """The chat model `name` (`hf:NAME` or `NAME`), ready to be asked.

    `dtype` is what its weights are held in, 'auto' as they were saved; `device_map` spreads them over devices, as
    `accelerate` does; `max_tokens` is the length at which a reply is cut.
    Raises `UserError` where it cannot be had, is of another kind or doesn't fit into memory.
    """
    name = name.removeprefix("hf:")
    if dtype not in DTYPES:
        raise UserError(f"no dtype '{dtype}'; choose from {', '.join(DTYPES)}")
    if max_tokens < 1:
        raise UserError(f"a reply has at least one token; received a maximum of {max_tokens}")
    if device_map is not None:
        hub.library("accelerate")
    _check_library()
    is_chat(name)
    place = hub.located(name)
    with hub.quiet(f"hf:{name}"):
        _check_weights(place)
        _check_memory(place, device, dtype, device_map)
        processor = place.load("AutoProcessor")
        spread = {} if device_map is None else {"device_map": device_map}
        module = place.model("AutoModelForImageTextToText", dtype=dtype, use_safetensors=True, **spread).eval()
    if device_map is None:  # parts that are spread may lie on a disk
        hub.check_module(module, place.source)
        module = module.to(device)
    return ChatModel(module, processor, f"hf:{name}", place.source, max_tokens)


def is_chat(name: str, others: Iterable[str] = (), what: str = "models") -> bool:
    """Whether `name` is a chat model of a covered family; False for one of the kinds of `others`, `what` in errors.

    Raises `UserError` for a model of neither, and for one that cannot be had.
    """
    name = name.removeprefix("hf:")
    kind, listed = hub.model_type(name), list(others)
    if kind in FAMILIES or kind in listed:
        return kind in FAMILIES
    explained = f"{what} that can be explained: {', '.join(listed)}, and" if listed else "those that can be explained:"
    unsaid = "no test says where its image tokens lie" if _describes(kind) else "it doesn't write about images"
    why = REFUSED.get(kind, unsaid)
    raise UserError(f"hf:{name}: is a '{kind}' model: {why}; {explained} chat models: {', '.join(FAMILIES)}")


def _describes(kind: str) -> bool:
    """Whether `transformers` has models of this kind that read images and text and write text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as names

    return kind in names


def _check_library() -> None:
    """Raises `UserError` for a `transformers` whose models don't take image features that are encoded already."""
    version = str(hub.library("transformers").__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < LIBRARY:
        least = ".".join(map(str, LIBRARY))
        raise UserError(
            f"chat models need transformers {least} or later, and this is {version}:"
            f" pip install 'transformers>={least}'"
        )


def _check_weights(place: hub.Place) -> None:
    folder = Path(place.path)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        found = f"its weights ({pickled[0]}) are pickled, and may run code" if pickled else "it has no weights"
        raise UserError(f"hf:{place.name}: {found}; save it with save_pretrained, which writes model.safetensors")


def _check_memory(place: hub.Place, device: str | torch.device, dtype: str, device_map: str | None) -> None:
    """Raises `UserError`, before anything is read, for a model that doesn't fit; a size that isn't known passes."""
    needed = sum(_sizes(place, dtype)) * _ROOM
    free, where = _free(torch.device("cpu") if device_map else torch.device(device), device_map)
    if free is not None and needed > free:
        raise UserError(
            f"hf:{place.name} needs about {needed / 2**30:.1f} GiB of memory as {dtype}; {free / 2**30:.1f} GiB are"
            f" free on {where}: take a smaller model, dtype bfloat16, or another device"
        )


def _sizes(place: hub.Place, dtype: str) -> Iterator[int]:
    """The bytes of each tensor of the weights, as they will be held."""
    for file in Path(place.path).glob("*.safetensors"):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                start, stop = tensor["data_offsets"]
                held = _BYTES.get(tensor["dtype"])
                wide = 1.0 if dtype == "auto" or held is None else getattr(torch, dtype).itemsize / held
                yield int((stop - start) * wide)


def _free(device: torch.device, device_map: str | None) -> tuple[int | None, str]:
    """(bytes that are free, where); None where nobody says."""
    graphic = 0
    if torch.cuda.is_available() and (device_map or device.type == "cuda"):
        numbers = range(torch.cuda.device_count()) if device_map else [device.index or 0]
        graphic = sum(torch.cuda.mem_get_info(number)[0] for number in numbers)
    if device.type != "cpu":
        return (graphic or None), str(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None, str(device)
    return kilobytes * 1024 + graphic, "this machine" if device_map else str(device)
