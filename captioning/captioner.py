"""The captioner as a user has it: captions of images, and why each word was said.

    captioner = captioning.load()
    captioner.caption("photo.jpg").text
    captioner.explain("photo.jpg", phrases=["a brown dog"]).heatmaps        # (T, 1, h, w)

Letters: B images, h,w map, L tokens, T targets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from captioning import decoding
from captioning.network import Caption, CaptionNetwork
from captioning.request import caption_request, check_text
from captioning.visual import gains, visual_captions
from common.errors import UserError
from common.explainable import Explainable
from common.explanation import Explanation
from common.gradcam import Known, Methods, known_of, method_names
from common.images import ImageLike
from common.methods.occlusion import OcclusionOptions
from common.request import Batch, Encoded, Facade, Images, Ragged, Request, Texts, explain_each, listed, with_visual
from common.state import untouched
from common.targets import Target, score_table
from common.text import SCORE, Text, scored

MAX_BEAM = 64
Captions = str | Caption | Sequence[str | Caption] | None


class Captioner(Facade):
    """Captions images and explains captions; `network` is the model behind it.

    Wherever images are taken: one image (a path or a PIL image) gives one result; several, or a tensor
    (B, 3, H, W) preprocessed already, give a list. What `encode` returns stands for the images, so
    that captions and explanations share one pass of the trunk.
    """

    network: CaptionNetwork

    def __init__(self, network: CaptionNetwork, layer: str | None = None, beam: int = 3):
        super().__init__(network, layer)
        self.beam = beam

    @overload
    def caption(  # type: ignore[overload-overlap]
        self, images: ImageLike, beam: int | None = ..., alternatives: int = ..., max_length: int = ...
    ) -> Caption: ...
    @overload
    def caption(
        self, images: Batch, beam: int | None = ..., alternatives: int = ..., max_length: int = ...
    ) -> list[Caption]: ...
    @overload
    def caption(
        self, images: Encoded, beam: int | None = ..., alternatives: int = ..., max_length: int = ...
    ) -> Any: ...

    def caption(
        self, images: Images, beam: int | None = None, alternatives: int = 0, max_length: int = decoding.MAX_LENGTH
    ) -> Any:
        """A `Caption` of one image, or a list of them, by beam search, each with its `alternatives`."""
        beam = self._beam(beam, alternatives)
        if max_length < 1:
            raise UserError(f"a caption has at least one word; received a maximum of {max_length}")
        encoded = self.encode(images)
        found = self.decoded(encoded, beam, alternatives + 1, max_length)
        each = iter(visual_captions(self.network, [one for image in found for one in image]))
        groups = [[next(each) for _ in image] for image in found]
        captions = [replace(first, alternatives=tuple(more)) for first, *more in groups]
        return captions[0] if encoded.single else captions

    @overload
    def explain(  # type: ignore[overload-overlap]
        self,
        images: ImageLike,
        caption: Captions = ...,
        phrases: Texts = ...,
        contrast: Texts = ...,
        methods: Methods = ...,
        *,
        beam: int | None = ...,
        layer: str | None = ...,
        end: bool = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        images: Batch,
        caption: Captions = ...,
        phrases: Texts = ...,
        contrast: Texts = ...,
        methods: Methods = ...,
        *,
        beam: int | None = ...,
        layer: str | None = ...,
        end: bool = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        images: Encoded,
        caption: Captions = ...,
        phrases: Texts = ...,
        contrast: Texts = ...,
        methods: Methods = ...,
        *,
        beam: int | None = ...,
        layer: str | None = ...,
        end: bool = ...,
        score: str = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Any: ...

    def explain(
        self,
        images: Images,
        caption: Captions = None,
        phrases: Texts = (),
        contrast: Texts = None,
        methods: Methods = "gradcam",
        *,
        beam: int | None = None,
        layer: str | None = None,
        end: bool = False,
        score: str = SCORE,
        occlusion_options: OcclusionOptions | None = None,
    ) -> Any:
        """Why the model says a caption, its own or a given one: an `Explanation` of each image.

        Targets, in order: the caption (the sum of its words' scores, without the end token),
        each word, each of `phrases`, each contrast, and with `end` the end of the caption. A phrase that
        is in the caption (first occurrence) is the sum over its words; one that is not is explained as a
        caption of its own, and its name says so. `contrast` answers 'why the phrase rather than this',
        after the same words; without phrases, 'why the caption rather than this one'. Words that the
        model does not know are named in a warning and read as its token for the unknown word. A word's
        `score` is its logit (see `common.text.Centred`), or as in the paper its 'log_probability'. Where the network
        can say how likely a text is without the image, `visual` says what of each target comes from the picture.
        All maps come from one pass of the trunk, one of the decoder and one batched backward pass of the decoder.
        """
        encoded = self.encode(images)
        captions = self._captions(encoded, caption, beam)
        request = caption_request(
            captions, self.network, list(map(self.read, listed(phrases))), list(map(self.read, listed(contrast))), end
        )  # fmt: skip
        about = {"task": "caption", "model": self.name, "weights": self.network.source, "score": score}
        placed = request.on(self.device, scored(request.targets, score))
        explainable = self.network.explainable(layer or self.layer)
        with untouched(self.network.module):
            known, seen = None, None
            if not isinstance(encoded.features, Ragged) and explainable.layer and "gradcam" in method_names(methods):
                known, seen = _known(explainable, encoded, placed, request.targets)
            found = explain_each(explainable, encoded, placed, methods, about, occlusion_options, known)
            visual = gains(self.network, encoded.features, placed.query, request.targets, seen)
        found = with_visual(found, request, visual)
        return found[0] if encoded.single else found

    @overload
    def score(  # type: ignore[overload-overlap]
        self, images: ImageLike, captions: str | Sequence[str]
    ) -> Caption: ...
    @overload
    def score(self, images: Batch, captions: str | Sequence[str]) -> list[Caption]: ...
    @overload
    def score(self, images: Encoded, captions: str | Sequence[str]) -> Any: ...

    def score(self, images: Images, captions: str | Sequence[str]) -> Any:
        """Given captions as `Caption`s: how likely the model finds them, one for all images or one for each."""
        encoded = self.encode(images)
        texts = self._captions(encoded, captions, None)
        query = caption_request(texts, self.network).query.to(self.device)
        with untouched(self.network.module), torch.no_grad():
            output = self.network.head(encoded.features, query)
        found = [Caption.of(text, row) for text, row in zip(texts, output.log_probs[0], strict=True)]
        found = visual_captions(self.network, found)
        return found[0] if encoded.single else found

    def read(self, text: str) -> Text:
        """A caption or phrase as tokens, with a warning that names the words the model does not know.

        Raises `UserError` for one that is empty, too long, or of unknown words only.
        """
        return check_text(self.network.read(text), text, self.network.vocabulary_size).warn()

    def _beam(self, beam: int | None, alternatives: int = 0) -> int:
        """The beam's width; `UserError` for one out of range."""
        beam = self.beam if beam is None else beam
        if not 1 <= beam <= MAX_BEAM or not 0 <= alternatives < MAX_BEAM:
            raise UserError(
                f"a beam of {beam} with {alternatives} alternatives; the beam is 1 to {MAX_BEAM},"
                f" alternatives 0 to {MAX_BEAM - 1}"
            )
        return beam

    def decoded(
        self, encoded: Encoded, beam: int, count: int = 1, max_length: int = decoding.MAX_LENGTH
    ) -> list[list[Caption]]:
        """The `count` likeliest captions of each image; what they owe to the picture is not asked."""
        with untouched(self.network.module), torch.no_grad():
            return self.network.decode(encoded.features, max(beam, count), count, max_length)

    def _captions(self, encoded: Encoded, given: Captions, beam: int | None) -> list[Text]:
        if given is None:
            return [best.read for best, *_ in self.decoded(encoded, self._beam(beam))]
        each = [given] * len(encoded) if isinstance(given, (str, Caption)) else list(given)
        if len(each) != len(encoded):
            raise UserError(
                f"{len(each)} captions for {len(encoded)} image(s); give one for all, or one for each image"
            )
        return [one.read if isinstance(one, Caption) else self.read(one) for one in each]


def _known(
    explainable: Explainable, encoded: Encoded, request: Request, plain: Sequence[Target]
) -> tuple[Known, Tensor]:
    """What Grad-CAM needs of a request's targets, and their log-probabilities (T, B), from one pass of the head."""
    known, output = known_of(explainable, encoded.pixels, request.targets, request.query, encoded.features)
    return known, score_table(plain, output, len(encoded)).detach()
