"""Captioners of `transformers`, explained like the project's own: `captioning.load("hf:PATH_OR_NAME")`.

VisionEncoderDecoder models (ViT-GPT2 and its kin), BLIP and GIT. Their image encoders are vision
transformers: the last block's patch tokens, put back on their grid, are the feature map.
Letters: S sequences, B images, N image tokens, L tokens, V vocabulary.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captioning.captioner import Captioner
from captioning.network import Caption
from common.chat.loading import is_chat
from common.errors import UserError, check_no_options
from common.explainable import Explainable, HookedModel, TokenGrid
from common.networks import hub
from common.text import Text, TextOutput, check_length, padded, spelled

# Special tokens that an encoder puts before its patch tokens.
PREFIX_TOKENS = {
    "vit": 1, "deit": 2, "beit": 1, "data2vec-vision": 1, "vit_msn": 1, "dinov2": 1, "swin": 0, "swinv2": 0,
    "donut-swin": 0, "clip_vision_model": 1, "blip_vision_model": 1, "git_vision_model": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How the models of one kind are run: the class's name, and where its parts are.

    `logits(model, images, tokens)` (S*B, L, V) are those of what follows each of `tokens` (S*B, L);
    `start(config)` and `end(config)` are the numbers of the tokens around a caption; `text(config)` is the
    configuration of the decoder.
    """

    loader: str
    encoder: str
    logits: Callable[[Any, Tensor, Tensor], Tensor]
    start: Callable[[Any], int | None]
    end: Callable[[Any], int | None]
    text: Callable[[Any], Any]


def _encoder_decoder_logits(model: Any, images: Tensor, tokens: Tensor) -> Tensor:
    from transformers.modeling_outputs import BaseModelOutput

    hidden = model.encoder(pixel_values=images)[0]
    hidden = hidden.repeat(len(tokens) // len(images), 1, 1)
    return model(encoder_outputs=BaseModelOutput(hidden), decoder_input_ids=tokens, use_cache=False).logits


def _blip_logits(model: Any, images: Tensor, tokens: Tensor) -> Tensor:
    hidden = model.vision_model(pixel_values=images)[0]
    hidden = hidden.repeat(len(tokens) // len(images), 1, 1)
    return model.text_decoder(input_ids=tokens, encoder_hidden_states=hidden, use_cache=False).logits


def _git_logits(model: Any, images: Tensor, tokens: Tensor) -> Tensor:
    # GIT repeats the image's tokens for more captions than images by itself, in the same order.
    return model(input_ids=tokens, pixel_values=images, use_cache=False).logits[:, -tokens.shape[1] :]


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


FAMILIES: dict[str, Family] = {
    "vision-encoder-decoder": Family(
        "VisionEncoderDecoderModel", "encoder", _encoder_decoder_logits,
        lambda c: _first(c.decoder_start_token_id, c.decoder.bos_token_id),
        lambda c: _first(c.eos_token_id, c.decoder.eos_token_id),
        lambda c: c.decoder,
    ),
    "blip": Family(
        "BlipForConditionalGeneration", "vision_model", _blip_logits,
        lambda c: c.text_config.bos_token_id, lambda c: c.text_config.sep_token_id, lambda c: c.text_config,
    ),
    "git": Family(
        "GitForCausalLM", "git.image_encoder", _git_logits,
        lambda c: c.bos_token_id, lambda c: c.eos_token_id, lambda c: c,
    ),
}  # fmt: skip


def load(
    name: str, device: str | torch.device = "cpu", layer: str | None = None, beam: int | None = None, **options: Any
) -> Captioner:
    """The `transformers` captioner `name` (`hf:NAME` or `NAME`): a folder, in the local cache, or on the
    model hub. Chat models take further `options`, see `captioning.chat.load`.

    Raises `UserError` where it cannot be had, is of another kind, or has incomplete weights.
    """
    name = name.removeprefix("hf:")
    if is_chat(name, FAMILIES, "captioners"):
        from captioning import chat

        return chat.load(name, device, layer, beam, **options)
    check_no_options(options, f"hf:{name}")
    loaders = {kind: family.loader for kind, family in FAMILIES.items()}
    found = hub.transformers_pretrained(name, loaders, "captioners")
    network = TransformersNetwork(found, f"hf:{name}")
    return Captioner(network, layer, beam or 3).to(device)


class TransformersNetwork:
    """A `transformers` captioner as `Captioner` needs it (see `captioning.network.CaptionNetwork`).

    Its features are the images themselves: generation and explanation each run the encoder once.
    """

    def __init__(self, found: hub.Pretrained, name: str) -> None:
        self.module: Any = found.module
        self.tokenizer, self.preprocessing = found.tokenizer, found.preprocessing
        self.name, self.source, self.family = name, found.source, FAMILIES[found.family]
        family = self.family
        text = family.text(self.module.config)
        self.start, self.end = self._token("start", family.start), self._token("end", family.end)
        self.vocabulary_size = int(text.vocab_size)
        self.longest = int(_first(getattr(text, "max_position_embeddings", None), 512))

    @property
    def layer(self) -> str:
        """The last block of the image encoder: all its tokens reach the decoder."""
        inside = [name for name, _ in self.module.get_submodule(self.family.encoder).named_modules()]
        blocks = [name for name in inside if re.fullmatch(r"(.+\.)?layers?\.\d+", name)]
        outermost = [name for name in blocks if not re.search(r"layers?\.\d+\.", name)]
        if not outermost:
            raise UserError(f"{self.name}: no blocks found in its image encoder; name the layer to explain")
        return f"{self.family.encoder}.{outermost[-1]}"

    def grid(self) -> TokenGrid:
        """How the encoder's tokens lie on the image."""
        config = self.module.get_submodule(self.family.encoder).config
        if config.model_type not in PREFIX_TOKENS:
            raise UserError(
                f"{self.name}: its encoder is a '{config.model_type}', whose tokens have no known place;"
                f" known: {', '.join(PREFIX_TOKENS)}"
            )
        return TokenGrid(PREFIX_TOKENS[config.model_type], patch=_pair(config.patch_size))

    def read(self, text: str | Sequence[str]) -> Text:
        text = text if isinstance(text, str) else " ".join(text)
        check_length(text, "a caption")
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        hub.check_tokens(ids, self.vocabulary_size, self.name)
        return _as_written(self._text_of(ids), text.split())

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, features: Tensor, beam: int, count: int, max_length: int) -> list[list[Caption]]:
        options = {
            "num_beams": beam,
            "num_return_sequences": count,
            "max_new_tokens": min(max_length, self.longest - 2),
            "min_new_tokens": 2,
            "do_sample": False,
        }
        with hub.quiet(self.name):
            rows = self.module.generate(pixel_values=features, **options)
            found = [self._text_of(self._inner(row)) for row in rows.tolist()]
            if not all(text.words for text in found):
                raise UserError(f"{self.name} wrote an empty caption; give one of your own to explain")
            query = padded([(*text.tokens, self.end) for text in found], features.device)
            output = self.head(features.repeat_interleave(count, 0), query[None])
        captions = [Caption.of(text, row) for text, row in zip(found, output.log_probs[0], strict=True)]
        groups = [captions[start : start + count] for start in range(0, len(captions), count)]
        return [sorted(group, key=lambda c: -c.total) for group in groups]

    def head(self, images: Tensor, query: Tensor) -> TextOutput:
        """How likely S captions (S, B, L) of each image are, fields (S, B, L): one run of the encoder."""
        S, B, L = query.shape
        if self.longest <= L:
            raise UserError(f"a caption of {L - 1} tokens; {self.name} reads at most {self.longest - 2}")
        tokens = query.reshape(S * B, L)
        before = torch.cat([tokens.new_full((S * B, 1), self.start), tokens[:, :-1]], 1)
        logits = self.family.logits(self.module, images, before).view(S, B, L, -1)
        ended = query == self.end
        mask = ended.cumsum(-1) - ended.long() == 0  # up to the end token and with it
        return TextOutput.of(logits, query, mask)

    def without_image(self, query: Tensor) -> TextOutput | None:
        """None: a grey image is one in particular, and what its encoder makes of many photographs is not at hand."""
        return None

    def explainable(self, layer: str | None) -> Explainable:
        return HookedModel(self.module, layer or self.layer, self.grid(), self.head)

    def _token(self, which: str, of: Callable[[Any], int | None]) -> int:
        found = of(self.module.config)
        if found is None:
            raise UserError(f"{self.name}: its config names no {which} token; set one and save it again")
        return int(found)

    def _inner(self, row: list[int]) -> list[int]:
        """A generated row without the start, and without the end and what follows."""
        row = row[1:] if row and row[0] == self.start else row
        stop = next((i for i, token in enumerate(row) if token == self.end), len(row))
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        return [token for token in row[:stop] if token not in special]

    def _text_of(self, ids: list[int]) -> Text:
        unknown = self.tokenizer.unk_token_id
        return spelled(ids, self._decoded, unknown=None if unknown == self.end else unknown)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _as_written(text: Text, words: list[str]) -> Text:
    """The text with the words as the user wrote them, where the tokenizer splits at the same places."""
    if len(words) != len(text.words):
        return text
    lost = [new for new, old in zip(words, text.words, strict=True) if old in text.unknown]
    return Text(tuple(words), text.tokens, text.spans, tuple(dict.fromkeys(lost)))


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return int(height), int(width)
