"""Image features as one table of tokens, and back into what the language model takes.

`get_image_features` of `transformers` gives a tensor (tiles, tokens, K), or a list of (tokens, K), and with
Qwen3-VL as much again for each of the first blocks of the language model ("DeepStack"). Here they are one table
(N, C), the DeepStack features as further channels. N tokens, K width of the language model, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.layers import hooked


@dataclass(frozen=True)
class Form:
    """What a table of tokens was made of: the output's class, and the shape of its parts."""

    kind: type
    shape: tuple[int, ...] | None  # of a tensor; None for a list of one table an image
    width: int
    deep: int  # further tables, DeepStack's

    def output(self, tokens: Tensor, copies: int = 1) -> Any:
        """The table (N, C) as the model's output once more, `copies` of it: one for each sequence that is read."""
        parts = list(tokens.split(self.width, 1))
        found: dict[str, Any] = {"last_hidden_state": None, "pooler_output": self._repeated(parts[0], copies)}
        if self.deep:
            found["deepstack_features"] = [[part] * copies for part in parts[1:]]
        return self.kind(**found)

    def _repeated(self, tokens: Tensor, copies: int) -> Any:
        if self.shape is None:
            return [tokens] * copies
        return tokens.view(self.shape).repeat(copies, *[1] * (len(self.shape) - 1))


@dataclass(frozen=True)
class Resampled:
    """A table of an image encoder's last states, where learned queries read these: the queries have no place on a
    photograph, so what reads them belongs to the head.

    `encode` is `get_image_features` of the photograph, `encoder` the module that gave `states` in it.
    """

    encode: Callable[[], Any]
    encoder: nn.Module
    states: Any

    def output(self, tokens: Tensor, copies: int = 1) -> Any:
        """What the model makes of the table (N, C) in the place of the encoder's own states, `copies` of it."""
        with giving(self.encoder, self.states_of(tokens)):
            made, form = table(self.encode())
        return form.output(made, copies)

    def states_of(self, tokens: Tensor) -> Any:
        """The table (N, C) as what the encoder gives."""
        return type(self.states)(last_hidden_state=tokens.view(self.states.last_hidden_state.shape))


@contextmanager
def giving(module: nn.Module, output: Any) -> Iterator[None]:
    """The module gives `output` inside, and isn't run."""
    own = vars(module).get("forward")
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def resampled(encode: Callable[[], Any], encoder: nn.Module) -> tuple[Tensor, Resampled]:
    """(tokens (N, C), their form) of an encoder's last states in one pass of `encode`."""
    found: list[Any] = []
    with hooked([encoder], lambda module, inputs, output: found.append(output)):
        encode()
    return _flat(found[0].last_hidden_state), Resampled(encode, encoder, found[0])


def table(output: Any) -> tuple[Tensor, Form]:
    """(tokens (N, C), their form) of what `get_image_features` returned for one photograph."""
    pooled = output.pooler_output
    deep = list(getattr(output, "deepstack_features", None) or [])
    parts = [_flat(part) for part in [pooled, *deep]]
    shape = tuple(pooled.shape) if isinstance(pooled, Tensor) else None
    return torch.cat(parts, 1), Form(type(output), shape, parts[0].shape[1], len(deep))


def _flat(part: Tensor | Sequence[Tensor]) -> Tensor:
    tables = [part] if isinstance(part, Tensor) else list(part)
    return torch.cat([each.reshape(-1, each.shape[-1]) for each in tables])
