"""An image-text chat model of `transformers`, split where its image features enter the language model.

    image -> get_image_features -> A (tokens) -> [prompt with A in its places, reply] -> logits of the reply's tokens

The encoder runs once an image; what it made is handed to `generate` and to every explained pass. The photograph's
tokens that have a place on it are the map A (1, C, 1, n): as many channels as the language model is wide (times more
where features enter further blocks), and one row of positions, see `common.chat.split`.

Letters: R rows (sequences) about one image, L reply tokens, P prompt tokens, W both, V vocabulary, C channels,
N image tokens, n of them with a place, T targets.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.chat.families import FAMILIES, Seen, check_covered, layout_of
from common.chat.features import Form, Resampled, giving, resampled, table
from common.chat.prompt import Prompts, Splice
from common.chat.views import Layout
from common.errors import EmptyReply, UserError
from common.networks import hub
from common.text import Text, padded

MAX_REPLY = 64  # tokens of a reply, unless somebody says otherwise
_BESIDE = ("image_grid_thw",)  # what the language model itself reads of an image


@dataclass(frozen=True)
class Sight:
    """A photograph as the model has seen it: what every pass of the language model is given of it.

    `tokens` (N, C) are its image features, of which those at `layout.places` are A; `form` is how they go back into
    the model, `beside` what goes with them, `splice` their place in a prompt.
    """

    tokens: Tensor
    form: Form | Resampled
    layout: Layout
    splice: Splice
    beside: Mapping[str, Tensor]

    @property
    def A(self) -> Tensor:
        """(1, C, 1, n): the tokens that have a place on the photograph."""
        return self.tokens[list(self.layout.places)].T[None, :, None]

    def with_map(self, A: Tensor) -> Tensor:
        """(N, C): the tokens, those with a place taken from A (1, C, 1, n)."""
        placed = A[0, :, 0].T
        if len(placed) == len(self.tokens):
            return placed
        index = torch.tensor(self.layout.places, device=placed.device)
        return self.tokens.detach().index_copy(0, index, placed)

    def positions(self, image_token: int) -> list[int]:
        """Where in a prompt's row the n tokens stand that have a place."""
        row = [*self.splice.before, *self.splice.image]
        found = [number for number, token in enumerate(row) if token == image_token]
        return [found[place] for place in self.layout.places]


class ChatModel:
    """A chat model with its processor: prompts, replies, and how likely given replies are."""

    def __init__(self, module: Any, processor: Any, name: str, source: str, max_tokens: int = MAX_REPLY) -> None:
        self.module, self.processor, self.name, self.source = module, processor, name, source
        module.requires_grad_(False)
        self.max_tokens = max_tokens
        self.kind = str(module.config.model_type)
        check_covered(self.kind, module.config, name)
        self.family = FAMILIES[self.kind]
        self.prompts = Prompts(processor, self.family, name)
        text = module.config.get_text_config()
        self.vocabulary_size = int(text.vocab_size)
        self.longest = int(getattr(text, "max_position_embeddings", None) or 2**31)
        self.image_token = int(module.config.image_token_id)
        self.ends = self._end_tokens(text)
        self.pad = next(token for token in (*self.ends, 0, 1) if token != self.image_token)

    @property
    def end(self) -> int:
        """The token that ends a reply."""
        return self.ends[0]

    @property
    def device(self) -> torch.device:
        return self.module.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are held in; BLIP-2 keeps its queries in float32."""
        return self.module.get_input_embeddings().weight.dtype

    def _end_tokens(self, text: Any) -> tuple[int, ...]:
        named = self.module.generation_config.eos_token_id
        named = text.eos_token_id if named is None else named
        listed = [] if named is None else [named] if isinstance(named, int) else list(named)
        if not all(type(token) is int and 0 <= token < self.vocabulary_size for token in listed):
            raise UserError(f"{self.name}: its eos_token_id, {str(named)[:40]}, is none of the model's tokens")
        own = self.processor.tokenizer.eos_token_id
        found = dict.fromkeys([*([own] if own in listed else []), *listed, *([own] if own is not None else [])])
        if not found:
            raise UserError(f"{self.name}: neither its configuration nor its tokenizer names a token that ends replies")
        return tuple(int(token) for token in found)

    @torch.no_grad()
    def look(self, image: Image.Image) -> Sight:
        """The one pass of the image encoder over a photograph (RGB)."""
        with hub.quiet(self.name):
            inputs = self.prompts.inputs(image)
            encoder = self.module.base_model.get_image_features
            names = inspect.signature(encoder).parameters
            given = {name: self._moved(value) for name, value in inputs.items() if name in names}
            encode = partial(encoder, **given, return_dict=True)
            tokens, form = table(encode()) if self._queried is None else resampled(encode, self._queried)
        seen = Seen(self.module.config, self.processor, inputs, image.size, len(tokens))
        splice = self.prompts.splice(inputs)
        places = int((inputs["input_ids"] == self.image_token).sum())
        if self._queried is None and places != len(tokens):
            raise UserError(
                f"{self.name}: {len(tokens)} image features for {places} places in the prompt; its processor's settings"
                " don't fit its weights: get both from the same folder"
            )
        beside = {name: self._moved(inputs[name]) for name in _BESIDE if name in inputs}
        return Sight(tokens, form, layout_of(self.kind, seen), splice, beside)

    @property
    def _queried(self) -> Any:
        """The image encoder, in families whose learned queries read its states."""
        return self.family.encoder and self.module.base_model.get_submodule(self.family.encoder)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

    @torch.no_grad()
    def replies(
        self, sight: Sight | None, prompt: Sequence[int], beam: int = 1, count: int = 1, length: int | None = None
    ) -> list[Text]:
        """What the model says to a prompt's tokens, best first: greedy, or by beam search; `count` replies.

        A reply is cut at `length` tokens, by default the model's `max_tokens`. Without a `sight` there is no image, nor
        a placeholder for one.
        """
        length = length or self.max_tokens
        row = self._checked(tuple(prompt) if sight is None else sight.splice(prompt), length)
        tokens = torch.tensor([row], device=self.device)
        with hub.quiet(self.name), self._writing(sight, tokens) as (module, read):
            rows = module.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                **read,
                max_new_tokens=length,
                num_beams=max(beam, count),
                num_return_sequences=count,
                do_sample=False,
                pad_token_id=self.pad,
                suppress_tokens=[self.image_token],  # it stands for an image that isn't there
            )
        return [self._reply(found[len(row) :]) for found in rows.tolist()]

    @contextmanager
    def _writing(self, sight: Sight | None, row: Tensor) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The module that writes behind a row (1, W), and what it reads besides.

        BLIP-2's own `generate` takes no encoded image: its encoder gives what it gave, whatever the pixels.
        """
        if sight is None:
            yield self._reader(sight), self._types(row, row.shape[1])
        elif self.family.asks and isinstance(sight.form, Resampled):
            with giving(sight.form.encoder, sight.form.states_of(sight.tokens)):
                yield self.module, {"pixel_values": torch.zeros(1, device=self.device)}
        else:
            yield self.module, self._read(sight, sight.tokens, row, row.shape[1])

    def _reader(self, sight: Sight | None) -> Any:
        """What reads rows of tokens: BLIP-2 reads none without an image, and its language model does."""
        return self.module.language_model if self.family.asks and sight is None else self.module

    def _reply(self, tokens: list[int]) -> Text:
        stop = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        found = self.prompts.spelled(tokens[:stop])
        if not found.words:
            raise EmptyReply(f"{self.name} wrote an empty reply; give one of your own to explain")
        return self.checked_reply(found)

    def checked_reply(self, reply: Text) -> Text:
        """A reply, or a `UserError` for one that has the image's placeholder in it, or tokens nobody knows."""
        hub.check_tokens(reply.tokens, self.vocabulary_size, self.name)
        if self.image_token in reply.tokens:
            raise UserError(f"the reply '{reply.text[:60]}' has the image's token in it; leave it out")
        return reply

    def logits(
        self, sight: Sight | None, tokens: Tensor | None, prompts: Sequence[Sequence[int]], replies: Tensor
    ) -> Tensor:
        """(R, L, V): of what follows at each place of R replies (R, L) to as many prompts, given image tokens (N, C).

        Prompts are as they are read, with the image's placeholder; replies are padded with -1. Without a `sight`
        there is no image, nor a placeholder for one.
        """
        ids, starts = self.rows(sight, prompts, replies)
        places = starts[:, None] + torch.arange(replies.shape[1], device=self.device)
        mask = (torch.arange(ids.shape[1], device=self.device) <= places[:, -1:]).long()
        read: dict[str, Any] = self._types(ids, starts)
        if sight is not None and tokens is not None:
            read = self._read(sight, tokens, ids, starts)
        if self.family.asks and sight is not None:
            read["pixel_values"] = None
        found = self._reader(sight)(
            input_ids=ids, attention_mask=mask, **read, logits_to_keep=places - 1, use_cache=False
        )
        return found.logits.to(self.device)

    def rows(self, sight: Sight | None, prompts: Sequence[Sequence[int]], replies: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that are read (R, W), prompt and reply, and where in each its reply begins (R,)."""
        L = replies.shape[1]
        rows = [self._checked(tuple(row) if sight is None else sight.splice(row), L) for row in prompts]
        starts = torch.tensor([len(row) for row in rows], device=self.device)
        places = starts[:, None] + torch.arange(L, device=self.device)
        ids = padded([[*row, *[self.pad] * L] for row in rows], self.device, self.pad)
        return ids.scatter(1, places, torch.where(replies < 0, self.pad, replies)), starts

    def _read(self, sight: Sight, tokens: Tensor, ids: Tensor, starts: Any) -> dict[str, Any]:
        """What the language model reads besides the rows (R, W): the image's features, and which tokens are its."""
        R = len(ids)
        beside = {name: value.repeat(R, *[1] * (value.dim() - 1)) for name, value in sight.beside.items()}
        return {"mm_encoder_outputs": {"image": sight.form.output(tokens, R)}, **beside, **self._types(ids, starts)}

    def _types(self, ids: Tensor, starts: Any) -> dict[str, Tensor]:
        if self.family.types is None:
            return {}
        types = (ids == self.image_token).long() * self.family.image_type
        replied = torch.arange(ids.shape[1], device=ids.device) >= torch.as_tensor(starts, device=ids.device)[..., None]
        return {self.family.types: torch.where(replied, self.family.reply_type, types)}

    def _checked(self, row: tuple[int, ...], length: int) -> tuple[int, ...]:
        hub.check_tokens([token for token in row if token != self.image_token], self.vocabulary_size, self.name)
        if len(row) + length > self.longest:
            raise UserError(
                f"a prompt of {len(row)} tokens (the image's among them) and a reply of {length}: {self.name} reads"
                f" {self.longest}; ask a shorter question, or give a smaller photograph"
            )
        return row
