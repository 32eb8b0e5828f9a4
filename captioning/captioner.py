"""The captioner as a user has it: captions of images, and why each word was said.

    captioner = captioning.load()
    captioner.caption("photo.jpg").text
    captioner.explain("photo.jpg", phrases=["a brown dog"]).heatmaps        # (T, 1, h, w)

Letters: S sequences, B images, K channels, h,w map, H,W image, L tokens, T targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from captioning import decoding
from captioning.model import CaptionModel, CaptionOutput
from captioning.request import Sentence, check_sentence, plan, unbatched
from captioning.targets import scored
from common import formulas, gradcam
from common.errors import UserError
from common.explainable import Explainable, HookedModel, SplitModel
from common.images import ImageLike, Preprocessing
from common.methods.occlusion import OcclusionOptions
from common.state import untouched
from data.words.vocabulary import END, tokenize

MAX_BEAM = 64


@dataclass(frozen=True)
class Caption:
    """A caption and how likely the model finds it: words, the log-probability of each, and further captions.

    `total` is their sum with the end token's; `sentence` the words as tokens; `alternatives` are best first.
    """

    words: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    total: float
    sentence: Sentence
    alternatives: tuple[Caption, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Seen:
    """Images that went through the trunk once: `pixels` (B, 3, H, W) and `features` as the network made
    them.
    """

    pixels: Tensor
    features: Tensor
    single: bool

    def __len__(self) -> int:
        return len(self.pixels)


class CaptionNetwork(Protocol):
    """What `Captioner` needs of a model that writes captions.

    A query is (S, B, L): S token sequences for each image, each ending in `end`, padded with 0; its
    output's fields are (S, B, L). `read` makes tokens of words, `encode` features of images, `decode`
    captions of these.
    """

    module: Any
    preprocessing: Preprocessing
    name: str
    source: str
    end: int
    vocabulary_size: int

    @property
    def layer(self) -> str:
        """The name of the layer that is explained by default."""
        ...

    def read(self, text: str | Sequence[str]) -> Sentence: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, features: Tensor, beam: int, count: int, max_length: int) -> list[list[Caption]]: ...

    def speak(self, features: Tensor, query: Tensor) -> CaptionOutput: ...

    def explainable(self, layer: str | None) -> tuple[Explainable, bool]:
        """The model split at a layer, and whether `encode`'s features are the map at that layer."""
        ...


class Captioner:
    """Captions images and explains captions; `network` is the model behind it.

    Wherever images are taken: one image (a path or a PIL image) gives one result, a sequence of them, or
    a tensor (B, 3, H, W) preprocessed already, gives a list. What `see` returns stands for the images it saw,
    so that captions and explanations share one pass of the trunk.
    """

    def __init__(self, network: CaptionNetwork, layer: str | None = None, beam: int = 3):
        self.network, self.layer, self.beam = network, layer, beam

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def device(self) -> torch.device:
        return next(self.network.module.parameters()).device

    def to(self, device: str | torch.device) -> Captioner:
        """Move the model; returns the captioner."""
        self.network.module.to(device)
        return self

    def see(self, images: ImageLike | Sequence[ImageLike] | Tensor | Seen) -> Seen:
        """The images' pixels and features: the one pass of the trunk."""
        if isinstance(images, Seen):
            return images
        if isinstance(images, Tensor):
            pixels, single = images, False
        else:
            single = not isinstance(images, (list, tuple))
            pixels = self.network.preprocessing(images)
        if pixels.dim() != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise UserError(
                f"images are {tuple(pixels.shape)}; give files, PIL images or a tensor (B, 3, H, W)"
            )
        pixels = pixels.to(self.device)
        return Seen(pixels, self.network.encode(pixels), single)

    def caption(
        self,
        images: ImageLike | Sequence[ImageLike] | Tensor | Seen,
        beam: int | None = None,
        alternatives: int = 0,
        max_length: int = decoding.MAX_LENGTH,
    ) -> Any:
        """A `Caption` of one image, or a list of them, by beam search, each with its `alternatives`."""
        beam = self.beam if beam is None else beam
        if not 1 <= beam <= MAX_BEAM or not 0 <= alternatives < MAX_BEAM:
            raise UserError(
                f"a beam of {beam} with {alternatives} alternatives; the beam is 1 to {MAX_BEAM},"
                f" alternatives 0 to {MAX_BEAM - 1}"
            )
        if max_length < 1:
            raise UserError(f"a caption has at least one word; received a maximum of {max_length}")
        seen = self.see(images)
        found = self.network.decode(seen.features, max(beam, alternatives + 1), alternatives + 1, max_length)
        captions = [
            Caption(c.words, c.log_probabilities, c.total, c.sentence, tuple(more)) for c, *more in found
        ]
        return captions[0] if seen.single else captions

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike] | Tensor | Seen,
        caption: str | Caption | Sequence[str | Caption] | None = None,
        phrases: str | Sequence[str] = (),
        contrast: str | Sequence[str] | None = None,
        methods: Sequence[str] = ("gradcam",),
        beam: int | None = None,
        layer: str | None = None,
        end: bool = False,
        score: str = "log_probability",
        occlusion_options: OcclusionOptions | None = None,
    ) -> Any:
        """Why the model says a caption, its own or a given one: an `Explanation` of each image.

        Targets, in order: the caption (the sum of its words' log-probabilities, without the end token),
        each word, each of `phrases`, each contrast, and with `end` the end of the caption. A phrase that
        is in the caption (first occurrence) is the sum over its words; one that is not is explained as a
        caption of its own, and its name says so. `contrast` answers 'why the phrase rather than this',
        after the same words; without phrases, 'why the caption rather than this one'. Words that the
        model does not know are named in a warning and read as its token for the unknown word. `score`
        'logit' reads every target off the words' logits instead (see `captioning.targets.Centred`). All
        maps come from one pass of the trunk, one of the decoder and one batched backward pass of the decoder.
        """
        seen = self.see(images)
        captions = self._captions(seen, caption, beam)
        asked = [phrases] if isinstance(phrases, str) else list(phrases)
        against = [contrast] if isinstance(contrast, str) else list(contrast or ())
        made = plan(
            captions, [self.read(p) for p in asked], [self.read(c) for c in against], self.network.read,
            self.network.end, end,
        )  # fmt: skip
        explainable, same = self.network.explainable(layer or self.layer)
        explanation = gradcam.explain(
            explainable, seen.pixels, scored(made.targets, score), query=made.query.to(self.device),
            methods=methods, features=seen.features if same else None, occlusion_options=occlusion_options,
        )  # fmt: skip
        about = [
            {"task": "caption", "model": self.name, "weights": self.network.source, "score": score}
            for _ in captions
        ]
        parts = unbatched(explanation, made, about)
        return parts[0] if seen.single else parts

    def score(self, images: Any, captions: str | Sequence[str]) -> Any:
        """Given captions as `Caption`s: how likely the model finds them, one for all images or one for
        each.
        """
        seen = self.see(images)
        sentences = self._captions(seen, captions, None)
        query = plan(sentences, [], [], self.network.read, self.network.end).query.to(self.device)
        with untouched(self.network.module), torch.no_grad():
            output = self.network.speak(seen.features, query)
        rows = zip(sentences, output.log_probs[0], strict=True)
        found = [
            Caption(s.words, tuple(float(row[a:b].sum()) for a, b in s.spans), float(row.sum()), s)
            for s, row in rows
        ]
        return found[0] if seen.single else found

    def read(self, text: str) -> Sentence:
        """A caption or phrase as tokens, with a warning that names the words the model does not know.

        Raises `UserError` for one that is empty, too long, or of unknown words only.
        """
        sentence = check_sentence(self.network.read(text), text, self.network.vocabulary_size)
        if sentence.unknown:
            warnings.warn(unknown_words(sentence), stacklevel=3)
        return sentence

    def _captions(self, seen: Seen, given: Any, beam: int | None) -> list[Sentence]:
        if given is None:
            captions = self.caption(seen, beam)
            return [captions.sentence] if seen.single else [caption.sentence for caption in captions]
        each = [given] * len(seen) if isinstance(given, (str, Caption)) else list(given)
        if len(each) != len(seen):
            raise UserError(
                f"{len(each)} captions for {len(seen)} image(s); give one for all, or one for each image"
            )
        return [one.sentence if isinstance(one, Caption) else self.read(one) for one in each]


def unknown_words(sentence: Sentence) -> str:
    """The line that names the words of a sentence that the model does not know."""
    words = ", ".join(f"'{word}'" for word in sentence.unknown)
    return (
        f"the model does not know {words} (in '{sentence.text}'); it is read as the token for unknown words"
    )


class LstmNetwork:
    """The project's own captioner, split at the last feature map of its trunk."""

    def __init__(
        self,
        module: CaptionModel,
        preprocessing: Preprocessing,
        name: str = "captioner",
        source: str = "the caller's",
        length_penalty: float = 0.0,
    ) -> None:
        self.module, self.preprocessing, self.name, self.source = module, preprocessing, name, source
        self.end, self.vocabulary_size, self.length_penalty = END, len(module.vocabulary), length_penalty

    def read(self, text: str | Sequence[str]) -> Sentence:
        words = tokenize(text) if isinstance(text, str) else list(text)
        ids = self.module.vocabulary.encode(words)
        spans = tuple((i, i + 1) for i in range(len(words)))
        return Sentence(tuple(words), tuple(ids), spans, tuple(self.module.vocabulary.unknown(words)))

    def encode(self, images: Tensor) -> Tensor:
        with untouched(self.module), torch.no_grad():
            return self.module.features(images)

    def decode(self, features: Tensor, beam: int, count: int, max_length: int) -> list[list[Caption]]:
        with untouched(self.module):
            found = decoding.beam(self.module, features, beam, max_length, self.length_penalty)
        return [[self._caption(hypothesis) for hypothesis in each[:count]] for each in found]

    def explainable(self, layer: str | None) -> tuple[Explainable, bool]:
        if layer in (None, self.layer):
            return _Seam(self.module, self.layer), True
        return HookedModel(self.module, layer, forward=self._forward), False

    @property
    def layer(self) -> str:
        """The name of the map the decoder reads."""
        if self.module.layer is not None:
            return f"trunk.{self.module.layer}"
        last = [
            name
            for name, _ in self.module.trunk.named_children()
            if name in ("bn2", "norm_head", "final_conv")
        ]
        return f"trunk.{last[-1]}" if last else "trunk"

    def speak(self, features: Tensor, query: Tensor) -> CaptionOutput:
        return speak(self.module, features, query)

    def _forward(self, images: Tensor, query: Tensor) -> CaptionOutput:
        return speak(self.module, self.module.features(images), query)

    def _caption(self, hypothesis: decoding.Hypothesis) -> Caption:
        words = tuple(self.module.vocabulary.words[token] for token in hypothesis.tokens)
        spans = tuple((i, i + 1) for i in range(len(words)))
        sentence = Sentence(words, hypothesis.tokens, spans, ())
        return Caption(words, hypothesis.log_probs, hypothesis.total, sentence)


class _Seam(SplitModel):
    def __init__(self, module: CaptionModel, layer: str) -> None:
        self.network, self.layer = module, layer
        self.module = module

    def features(self, images: Tensor, query: Any = None) -> Tensor:
        return self.module.features(images)

    def head(self, features: Tensor, query: Tensor | None = None) -> CaptionOutput:
        if query is None:
            raise UserError("a captioner explains a caption; give its tokens (S, B, L) as the query")
        return speak(self.module, features, query)

    def importance(self, scores: Tensor, A: Tensor, output: Any) -> Tensor:
        """As `common.formulas.importance`, by way of what the decoder saw: the map itself is left out, where the
        backward pass of many words would spend most of its time."""
        if len(output.seen) != len(A):  # maps repeated for several captions of several images
            return formulas.importance(scores, A)
        return self.module.decoder.importance(formulas.gradients(scores, output.seen), A[0, 0].numel())


def speak(model: CaptionModel, features: Tensor, query: Tensor) -> CaptionOutput:
    """The model's output, fields (S, B, L), for a map (B, K, h, w) and S captions of each image (S, B, L).

    One pass of the decoder for all of them.
    """
    S, B, L = query.shape
    # `head` takes one map for several captions; the maps of several images are repeated.
    maps = features if B == 1 or S == 1 else features.repeat(S, 1, 1, 1)
    output = model.head(maps, query.reshape(S * B, L))
    return CaptionOutput(
        output.log_probs.view(S, B, L),
        output.distributions.view(S, B, L, -1),
        output.tokens.view(S, B, L),
        output.mask.view(S, B, L),
        output.seen,
    )
