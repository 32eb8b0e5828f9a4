"""Chat models of `transformers` as captioners: they are asked for a caption, and what they reply is explained.

Letters: S sequences, B images, L tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captioning.captioner import Captioner
from captioning.decoding import MAX_LENGTH
from captioning.network import Caption
from common.chat import loading
from common.chat.model import ChatModel, Sight
from common.chat.split import ENTRANCE, ChatSplit, split_at
from common.errors import UserError
from common.request import PhotoReader
from common.text import Text, TextOutput, joined, padded

PROMPT = "Describe the image in one sentence."


def load(
    name: str,
    device: str | torch.device = "cpu",
    layer: str | None = None,
    beam: int | None = None,
    prompt: str | None = None,
    **held: Any,
) -> Captioner:
    """The chat model in a folder, in the local cache or on the model hub, as a captioner that asks `prompt`.

    `held`: `dtype`, `device_map` and `max_tokens`, see `common.chat.loading.load`.
    """
    network: Any = ChatNetwork(loading.load(name, device, **held), prompt or PROMPT)
    return Captioner(network, layer, beam or 1)


class ChatNetwork(PhotoReader):
    """A chat model as `Captioner` needs it (see `captioning.network.CaptionNetwork`): its caption is its reply.

    Features are what the model has seen of each photograph; a query is (S, B, L), the replies' tokens.
    """

    layer = ENTRANCE

    def __init__(self, model: ChatModel, prompt: str = PROMPT) -> None:
        if not prompt.strip():
            raise UserError("the prompt is empty; ask for what is to be described")
        self.model, self.prompt = model, " ".join(prompt.split())
        self.module: Any = model.module
        self.name, self.source, self.fingerprint = model.name, model.source, f"{model.kind} {model.source}"
        self.end, self.vocabulary_size = model.end, model.vocabulary_size
        self.asked = model.prompts.read(self.prompt).tokens
        self.unseen = model.prompts.read(self.prompt, image=False).tokens

    def read(self, text: str | Sequence[str]) -> Text:
        return self.model.checked_reply(self.model.prompts.reply(text if isinstance(text, str) else " ".join(text)))

    def look(self, photograph: Any) -> Sight:
        return self.model.look(photograph)

    def decode(self, features: Any, beam: int, count: int, max_length: int) -> list[list[Caption]]:
        length = None if max_length == MAX_LENGTH else max_length
        return [self._decoded(sight, beam, count, length) for sight in features]

    def _decoded(self, sight: Sight, beam: int, count: int, length: int | None) -> list[Caption]:
        found = self.model.replies(sight, self.asked, beam, count, length)
        query = padded([(*text.tokens, self.end) for text in found], self.model.device, fill=-1)
        output = self._run(sight, sight.tokens, query[:, None])
        captions = [Caption.of(text, row) for text, row in zip(found, output.log_probs[:, 0], strict=True)]
        return sorted(captions, key=lambda caption: -caption.total)

    def head(self, features: Any, query: Tensor) -> TextOutput:
        """How likely S captions (S, B, L) of each image are, fields (S, B, L)."""
        each = [self._run(sight, sight.tokens, query[:, [b]]) for b, sight in enumerate(features)]
        return joined(each)

    def _run(self, sight: Sight | None, tokens: Tensor | None, query: Tensor) -> TextOutput:
        """The same for one image (S, 1, L), given its tokens (N, C)."""
        replies, mask = self._ended(query[:, 0])
        prompt = self.unseen if sight is None else self.asked
        logits = self.model.logits(sight, tokens, [prompt] * len(replies), replies)
        return TextOutput.of(logits[:, None], replies.clamp(min=0)[:, None], mask[:, None])

    def _ended(self, replies: Tensor) -> tuple[Tensor, Tensor]:
        """Replies (S, L) with -1 behind their end, and which tokens are theirs."""
        ended = (replies == self.end).cumsum(-1) - (replies == self.end).long()
        mask = (ended == 0) & (replies >= 0)
        return replies.masked_fill(~mask, -1), mask

    def without_image(self, query: Tensor) -> TextOutput:
        """How likely captions are where the same prompt comes without an image."""
        return joined([self._run(None, None, query[:, [b]]) for b in range(query.shape[1])])

    def explainable(self, layer: str | None) -> Callable[[Sight], ChatSplit]:
        return split_at(self.model, layer, self._run)
