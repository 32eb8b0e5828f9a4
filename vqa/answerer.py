"""The VQA model as a user has it: answers to questions about images, and why each was given.

    answerer = vqa.load()
    answerer.answer("photo.jpg", "what color is the hat?").text
    answerer.explain("photo.jpg", "what color is the hat?", answers=["red", "blue"]).heatmaps     # (T, 1, h, w)

Letters: B images, h,w map, L words, N answers, T targets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch

from common.errors import UserError
from common.explanation import Explanation
from common.gradcam import Methods
from common.images import ImageLike
from common.methods.occlusion import OcclusionOptions
from common.request import Encoded, Facade, Images, Request, Texts, explain_each, listed
from common.state import untouched
from common.text import Text
from vqa.attribution import with_words
from vqa.network import Answer, AnswerNetwork
from vqa.request import answer_request

Questions = str | Text | Iterable[str | Text]
Answers = str | Answer | Iterable[str | Answer] | None


class Answerer(Facade):
    """Answers questions about images and explains the answers; `network` is the model behind it.

    Wherever images are taken: one image (a path or a PIL image) with one question gives one result; several images,
    or several questions about one image, give a list. What `encode` returns stands for the images, so that answers
    and explanations share one pass of the trunk.
    """

    network: AnswerNetwork

    def encode(self, images: Images) -> Encoded:
        """The images' pixels, features and what the head reads of them: the one pass of the trunk."""
        if isinstance(images, Encoded) and images.states is not None:
            return super().encode(images)
        with untouched(self.network.module), torch.no_grad():
            encoded = super().encode(images)
            return replace(encoded, states=self.network.states(encoded.features))

    def read(self, question: str) -> Text:
        """A question as the model reads it, with a warning that names the words it does not know.

        Raises `UserError` for one that is empty or too long.
        """
        return self.network.read(question).warn()

    @overload
    def answer(self, images: ImageLike, questions: str | Text, top: int = ...) -> Answer: ...
    @overload
    def answer(self, images: Images, questions: Questions, top: int = ...) -> Any: ...

    def answer(self, images: Images, questions: Questions, top: int = 5) -> Any:
        """The likeliest `Answer` with `top - 1` runners-up: to one question about one image, or a list of them.

        Several images take one question for all, or one for each; one image takes one question or several.
        """
        if top < 1:
            raise UserError(f"top is {top}; ask for at least 1 answer")
        encoded, texts = self._paired(images, questions)
        best = self._answers(encoded, texts, top)
        return best[0] if encoded.single else best

    def _answers(self, encoded: Encoded, texts: Sequence[Text], top: int) -> list[Answer]:
        with untouched(self.network.module), torch.no_grad():
            found = self.network.answers(encoded, texts, top)
        return [replace(first, runners_up=tuple(others)) for first, *others in found]

    def attention(self, images: Images, questions: Questions) -> Any:
        """Where a model with attention looks itself, level by level: an `Attention`, or a list of them.

        It is one for all answers; `explain` says what speaks for each. Raises `UserError` for a model without.
        """
        find = getattr(self.network, "attention", None)
        if find is None:
            raise UserError(f"'{self.name}' has no attention to show; ask why it answers what it does, with explain")
        encoded, texts = self._paired(images, questions)
        with untouched(self.network.module), torch.no_grad():
            found = find(encoded, texts)
        return found[0] if encoded.single else found

    @overload
    def explain(
        self,
        images: ImageLike,
        questions: str | Text,
        answers: Answers = ...,
        contrast: Texts = ...,
        methods: Methods = ...,
        *,
        layer: str | None = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        images: Images,
        questions: Questions,
        answers: Answers = ...,
        contrast: Texts = ...,
        methods: Methods = ...,
        *,
        layer: str | None = ...,
        occlusion_options: OcclusionOptions | None = ...,
    ) -> Any: ...

    def explain(
        self,
        images: Images,
        questions: Questions,
        answers: Answers = None,
        contrast: Texts = None,
        methods: Methods = "gradcam",
        *,
        layer: str | None = None,
        occlusion_options: OcclusionOptions | None = None,
    ) -> Any:
        """Why these answers? An `Explanation` of each image and question, with the question's words.

        `answers` left out: the model's own top answer to each question. `contrast` explains besides why each answer
        rather than this one; one for all, or one for each. Any number of answers takes one pass of the trunk, and
        one batched backward pass. Raises `AnswerError` for an answer the model does not have.
        """
        with untouched(self.network.module):
            encoded, texts = self._paired(images, questions)
            found = self._explained(
                encoded,
                texts,
                [answers] if isinstance(answers, Answer) else listed(answers),
                listed(contrast),
                methods,
                layer,
                occlusion_options,
            )
        return found[0] if encoded.single else found

    def _explained(
        self,
        encoded: Encoded,
        texts: Sequence[Text],
        given: Sequence[str | Answer],
        others: Sequence[str],
        methods: Methods,
        layer: str | None,
        occlusion_options: OcclusionOptions | None,
    ) -> list[Explanation]:
        said: list[Sequence[str | Answer]] = [given] * len(texts)
        if not given:
            said = [[answer] for answer in self._answers(encoded, texts, 1)]
        own = [[_asked(answer) for answer in each] for each in said]

        def ask(questions: Sequence[Text], numbers: Sequence[int]) -> Request:
            made = answer_request(self.network, questions, [own[number] for number in numbers], others)
            return made.on(self.device)

        layer = layer or self.layer
        explainable, request = self.network.explainable(layer), ask(texts, range(len(texts)))
        known, slopes = self.network.attribute(encoded, request)
        if layer != self.network.layer:
            known = None
        more = getattr(self.network, "about", {})
        about = {"task": "vqa", "model": self.name, "weights": self.network.source, **more}
        found = explain_each(explainable, encoded, request, methods, about, occlusion_options, known)
        found = [
            replace(each, provenance={**each.provenance, "question": text.text})
            for each, text in zip(found, texts, strict=True)
        ]
        return with_words(self.network, encoded, texts, ask, request, slopes, found)

    def _paired(self, images: Images, questions: Questions) -> tuple[Encoded, list[Text]]:
        """As many images as questions: one of either stands for all."""
        encoded = self.encode(images)
        several = not isinstance(questions, (str, Text))
        given: list[Any] = list(questions) if several else [questions]  # type: ignore[arg-type]
        if not given:
            raise UserError("no question given; ask at least one")
        texts = [question if isinstance(question, Text) else self.read(question) for question in given]
        if len(encoded) == 1 and several:
            return replace(encoded[[0] * len(texts)], single=False), texts
        if len(texts) == 1:
            return encoded, texts * len(encoded)
        if len(texts) != len(encoded):
            raise UserError(
                f"{len(texts)} questions for {len(encoded)} images; give one for all, or one for each image"
            )
        return encoded, texts


def _asked(answer: str | Answer) -> str | Text:
    """An answer as a request takes it: by name, or by its tokens where the model wrote it."""
    return answer.read or answer.text if isinstance(answer, Answer) else answer
