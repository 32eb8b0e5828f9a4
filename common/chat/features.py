"""Image features as one table of tokens, and back into what the language model takes.

`get_image_features` of `transformers` gives a tensor (tiles, tokens, K), or a list of (tokens, K), and with
Qwen3-VL as much again for each of the first blocks of the language model ("DeepStack"). Here they are one table
(N, C), the DeepStack features as further channels. N tokens, K width of the language model, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        found: dict[str, Any] = {"pooler_output": self._repeated(parts[0], copies)}
        if self.deep:
            found["deepstack_features"] = [[part] * copies for part in parts[1:]]
        return self.kind(**found)

    def _repeated(self, tokens: Tensor, copies: int) -> Any:
        if self.shape is None:
            return [tokens] * copies
        return tokens.view(self.shape).repeat(copies, *[1] * (len(self.shape) - 1))


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
