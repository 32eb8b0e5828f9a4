"""Several texts about one photograph, read in one pass: the image's tokens once, behind them each text by itself.

    row:   <|user|> image image .. image | what is it?<|assistant|>cat</s> | where is it?<|assistant|>on a mat</s> | ..
    place: 0        1     2     .. n       n+1 ..                            n+1 ..

A token sees the row's start, the image and its own text up to itself; a text's places are counted from the image's
end. So each text is read as if it stood alone, for about a third of the time.

B rows, W their length, N image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scripts.chat.build import ANSWERED, ASKED
from scripts.chat.corpus import Said

LONGEST = 64  # tokens of a text
Ids = tuple[list[int], list[int]]  # of a prompt, with what marks the reply's turn, and of a reply, with its end


@dataclass
class Pack:
    """Rows of texts (B,W): tokens, their places, what each sees (B,1,W,W), and what follows each (-1: not learned).

    `weights` (B,W) are what each token to be learned counts: a text counts as the root of its reply's length.
    `start` is where the image's tokens stand, None in rows without an image.
    """

    ids: Tensor
    places: Tensor
    seen: Tensor
    following: Tensor
    weights: Tensor
    start: int | None

    @property
    def told(self) -> Tensor:
        """The tokens to be learned, row by row."""
        return self.following[self.following >= 0]

    def on(self, device: torch.device) -> Pack:
        """The same on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Packer:
    """Makes rows of texts for a model's tokenizer; `images` is N."""

    def __init__(self, words: Any, images: int):
        self.words, self.images, self.image_token = words, images, words.image_token_id
        self.asked, self.answered = words.convert_tokens_to_ids([ASKED, ANSWERED])

    def ids(self, said: Said) -> Ids:
        """The tokens of a text as the chat template writes it, behind the image."""
        prompt = self.words(f" {said.prompt}", add_special_tokens=False)["input_ids"]
        reply = self.words(f" {said.reply}", add_special_tokens=False)["input_ids"]
        return [*prompt[:LONGEST], self.answered], [*reply[:LONGEST], self.words.eos_token_id]

    def pack(self, rows: Sequence[Sequence[Ids]], image: bool) -> Pack:
        """A row of each list of texts, padded."""
        first = [self.asked, *[self.image_token] * (self.images if image else 0)]
        longest = len(first) + max(sum(len(p) + len(r) for p, r in row) for row in rows)
        ids = torch.full((len(rows), longest), self.words.pad_token_id)
        places, groups = torch.zeros_like(ids), torch.full_like(ids, -1)
        following, weights = torch.full_like(ids, -1), torch.zeros(ids.shape)
        ids[:, : len(first)], groups[:, : len(first)] = torch.tensor(first), 0
        places[:, : len(first)] = torch.arange(len(first))
        for number, row in enumerate(rows):
            at = len(first)
            for group, (prompt, reply) in enumerate(row, 1):
                stop, said = at + len(prompt) + len(reply), at + len(prompt) - 1
                ids[number, at:stop] = torch.tensor([*prompt, *reply])
                places[number, at:stop] = len(first) + torch.arange(stop - at)
                groups[number, at:stop] = group
                following[number, said : stop - 1] = torch.tensor(reply)
                weights[number, said : stop - 1] = len(reply) ** -0.5
                at = stop
        own = (groups[:, :, None] == groups[:, None, :]) | (groups[:, None, :] == 0)
        seen = own & torch.ones(longest, longest, dtype=torch.bool).tril()
        return Pack(ids, places, seen[:, None], following, weights, 1 if image else None)


def states(model: Any, pack: Pack, tokens: Tensor | None) -> Tensor:
    """What the language model makes of the tokens that something is to follow: (those of the pack, D).

    `tokens` (B,N,K) are the image's, before the projector.
    """
    inner = model.model
    embedded = inner.language_model.embed_tokens(pack.ids)
    if pack.start is not None and tokens is not None:
        image = inner.multi_modal_projector(tokens).to(embedded.dtype)
        stop = pack.start + image.shape[1]
        embedded = torch.cat([embedded[:, : pack.start], image, embedded[:, stop:]], 1)
    found = inner.language_model(
        inputs_embeds=embedded, attention_mask=pack.seen, position_ids=pack.places, use_cache=False
    )
    return found.last_hidden_state[pack.following >= 0]
