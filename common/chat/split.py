"""Chat models about one photograph, split at its image tokens where they enter the language model, or behind a block.

Behind a block N the language model is run up to there without a graph, so a backward pass costs less the later it is.
But the words have read from the image by then, in the blocks before, and that is not in the map.

C channels, n image tokens with a place on the photograph, R rows (sequences), W their length, T targets, h,w canvas.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.chat.model import ChatModel, Sight
from common.errors import LayerError, MethodError
from common.explainable import SplitModel
from common.layers import hooked

Run = Callable[[Sight, Tensor, Any], Any]  # the head of a task's network: sight, its tokens (N, C), query -> output
ENTRANCE = "image tokens"


def split_at(model: ChatModel, layer: str | None, run: Run) -> "Callable[[Sight], ChatSplit]":
    """How to split a model for a photograph: at the entrance of its language model, or behind its block N, 'llm.N'."""
    if layer in (None, ENTRANCE):
        return lambda sight: ChatSplit(model, sight, run)
    if model.family.encoder is not None:
        raise LayerError(
            f"{model.name}: its language model reads learned queries, which lie nowhere: take '{ENTRANCE}'"
        )
    blocks, asked = blocks_of(model), re.fullmatch(r"llm\.(\d+)", str(layer))
    if asked is None or int(asked[1]) >= len(blocks):
        raise LayerError(
            f"no layer '{layer}' of {model.name}; take '{ENTRANCE}', the entrance of its language model, or one of"
            f" its blocks: llm.0 to llm.{len(blocks) - 1}"
        )
    return lambda sight: BlockSplit(model, sight, run, int(asked[1]), blocks[int(asked[1])])


def blocks_of(model: ChatModel) -> list[nn.Module]:
    """The blocks of the language model, in order."""
    count = model.module.config.get_text_config().num_hidden_layers
    lists = {
        name: list(part) for name, part in model.module.named_modules()
        if isinstance(part, nn.ModuleList) and re.search(r"(language|text)_model\.(.+\.)?layers$", name)
    }  # fmt: skip
    return next((blocks for blocks in lists.values() if len(blocks) == count), [])


class ChatSplit(SplitModel):
    """A chat model about one photograph, split where its image features enter the language model: A (1, C, 1, n).

    `run(sight, tokens (N, C), query)` is the head as a function, as the task's network reads its queries.
    """

    def __init__(self, model: ChatModel, sight: Sight, run: Run) -> None:
        self.network, self.sight, self._run = model.module, sight, run
        self.layer = f"image tokens ({sight.layout.about})"
        self.about = {"chat": {"family": model.kind, **sight.layout.to_dict()}}

    def forward(self, images: Tensor, query: Any = None, relu_rule: str | None = None) -> Any:
        raise MethodError(
            "a chat model's photograph goes through its processor, so pixels are neither covered nor differentiated;"
            " choose a method at the image tokens: hirescam, gradcam, layercam, token-occlusion"
        )

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.sight.A

    def head(self, features: Tensor, query: Any = None) -> Any:
        return self._run(self.sight, self.sight.with_map(features), query)

    def on_image(self, maps: Tensor) -> Tensor:
        """Maps (T, 1, 1, n) of the tokens on the photograph: (T, 1, h, w)."""
        return self.sight.layout.place(maps[:, 0, 0])[:, None]

    def at_positions(self, maps: Tensor) -> Tensor:
        """Maps (T, 1, h, w) of the photograph as what they say of the tokens (T, 1, 1, n)."""
        return self.sight.layout.read(maps[:, 0])[:, None, None]


class BlockSplit(ChatSplit):
    """The same, split behind a block of the language model: A is what it gives at the image's tokens in every row."""

    def __init__(self, model: ChatModel, sight: Sight, run: Run, number: int, block: nn.Module) -> None:
        super().__init__(model, sight, run)
        self.layer = f"llm.{number}, {self.layer}"
        self._block, self._places = block, torch.tensor(sight.positions(model.image_token), device=model.device)

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        found: list[Tensor] = []
        with torch.no_grad(), self._behind(lambda states: found.append(states[0])):
            self._run(self.sight, self.sight.tokens, query)
        return found[0][self._places.to(found[0].device)].T[None, :, None]

    def head(self, features: Tensor, query: Any = None) -> Any:
        def put(states: Tensor) -> Tensor:
            places, tokens = self._places.to(states.device), features[0, :, 0].T.to(states)
            return states.index_copy(1, places, tokens.expand(len(states), -1, -1))

        with self._behind(put):
            return self._run(self.sight, self.sight.tokens, query)

    @contextmanager
    def _behind(self, work: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """`work` on the block's states (R, W, C) inside; what it returns stands in their place."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            states = output if isinstance(output, Tensor) else output[0]
            changed = work(states)
            if changed is None:
                return None
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        with hooked([self._block], hook):
            yield
