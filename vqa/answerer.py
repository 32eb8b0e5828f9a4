"""The VQA model as a user has it: answers to questions about images, and why each was given.

    answerer = vqa.load()
    answerer.answer("photo.jpg", "what color is the hat?").text
    answerer.explain("photo.jpg", "what color is the hat?", answers=["red", "blue"]).heatmaps     # (T, 1, h, w)

Letters: B images, K channels, h,w map, H,W image, L words, N answers, T targets.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common import gradcam
from common.errors import UserError
from common.explainable import Explainable
from common.explanation import Explanation
from common.images import ImageLike, Preprocessing
from common.methods.occlusion import OcclusionOptions
from common.state import untouched
from common.targets import Contrast, Target
from vqa.metrics import normalise_answer

Contrasts = str | tuple[str, str] | Sequence[tuple[str, str]] | None


class AnswerError(UserError):
    """An answer that the model does not have; the message names the nearest ones."""


@dataclass(frozen=True)
class Asked:
    """A question as the model reads it: its words, their tokens (1, L), and the words it does not know.

    `word_of` says which word each token belongs to, -1 for special tokens (empty: one token a word).
    """

    text: str
    words: tuple[str, ...]
    tokens: Tensor
    unknown: tuple[str, ...] = ()
    word_of: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer: its score before the softmax, its probability among all answers, and the next best ones."""

    text: str
    score: float
    probability: float
    runners_up: tuple[Answer, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class VqaExplanation(Explanation):
    """An `Explanation` of answers that also says which words of the question each answer rests on.

    `word_gradients` (T, L): the gradient of the target with respect to each word's embedding, times the
    embedding, summed (to first order, what the word adds to the score). `word_drops` (T, L): by how much the
    target's score falls when the word is left out. Both in the score's units, positive where a word speaks for it.
    """

    question: str = ""
    words: tuple[str, ...] = ()
    word_gradients: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    word_drops: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def arrays(self) -> dict[str, np.ndarray]:
        """The maps, and the question attribution as `word_gradients` and `word_drops` (T, L)."""
        words = {"word_gradients": self.word_gradients, "word_drops": self.word_drops}
        return {**super().arrays(), **{name: values.float().cpu().numpy() for name, values in words.items()}}


class VqaNetwork(Protocol):
    """What `Answerer` needs of a model that answers questions.

    `encode` makes features of images (B, ...), once; `best` their likeliest answers, best first; `explainable` the
    model split at a layer, the query that it is explained with, and whether `encode`'s features are the map at
    that layer; `words` the question attribution (T, L) twice, after the maps of `explained`.
    """

    module: Any
    preprocessing: Preprocessing
    name: str
    source: str

    def read(self, question: str) -> Asked: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def best(self, features: Tensor, asked: Asked, top: int) -> list[Answer]: ...

    def targets(self, answers: Sequence[str]) -> tuple[list[Target], Any]:
        """Targets for answers by name, and what the model has to be told of these answers."""
        ...

    def explainable(self, layer: str | None, asked: Asked, told: Any) -> tuple[Explainable, Any, bool]: ...

    def words(
        self, features: Tensor, asked: Asked, told: Any, targets: Sequence[Target], explained: Explainable
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Seen:
    """Images that went through the trunk once: `pixels` (B, 3, H, W) and `features` as the network made them."""

    pixels: Tensor
    features: Tensor
    single: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def one(self, index: int) -> Seen:
        if len(self) == 1:  # the same features, so that what is kept of them is found again
            return Seen(self.pixels, self.features, True)
        return Seen(self.pixels[index : index + 1], self.features[index : index + 1], True)


class Answerer:
    """Answers questions about images and explains the answers; `network` is the model behind it.

    Wherever an image is taken, what `see` returned stands for it, so that answers and explanations of one
    image share one pass of the trunk.
    """

    def __init__(self, network: VqaNetwork, layer: str | None = None):
        self.network, self.layer = network, layer

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def device(self) -> torch.device:
        return next(self.network.module.parameters()).device

    def see(self, images: ImageLike | Sequence[ImageLike] | Tensor | Seen) -> Seen:
        """The images' pixels and features: the one pass of the trunk."""
        if isinstance(images, Seen):
            return images
        single = not isinstance(images, (list, tuple, Tensor))
        pixels = images if isinstance(images, Tensor) else self.network.preprocessing(images)
        if pixels.dim() != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise UserError(
                f"images are {tuple(pixels.shape)}; give files, PIL images or a tensor (B, 3, H, W)"
            )
        pixels = pixels.to(self.device)
        with untouched(self.network.module), torch.no_grad():
            return Seen(pixels, self.network.encode(pixels), single)

    def read(self, question: str) -> Asked:
        """A question as the model reads it, with a warning that names the words it does not know.

        Raises `UserError` for one that is empty or too long.
        """
        asked = self.network.read(question)
        if asked.unknown:
            warnings.warn(unknown_words(asked), stacklevel=3)
        return asked

    def answer(
        self,
        images: ImageLike | Sequence[ImageLike] | Tensor | Seen,
        questions: str | Asked | Sequence[str],
        top: int = 5,
    ) -> Any:
        """The likeliest `Answer` with `top - 1` runners-up: to one question about one image, or a list of them.

        Several images take one question for all, or one for each; one image takes one question or several.
        """
        if top < 1:
            raise UserError(f"top is {top}; ask for at least 1 answer")
        seen = self.see(images)
        one = isinstance(questions, (str, Asked))
        several: Sequence[Any] = [questions] if isinstance(questions, (str, Asked)) else questions
        asked = [question if isinstance(question, Asked) else self.read(question) for question in several]
        pairs = _pairs(len(seen), len(asked))
        found = []
        with untouched(self.network.module), torch.no_grad():
            for image, number in pairs:
                best, *others = self.network.best(seen.one(image).features, asked[number], top)
                found.append(Answer(best.text, best.score, best.probability, tuple(others)))
        return found[0] if seen.single and one else found

    def explain(
        self,
        image: ImageLike | Tensor | Seen,
        question: str | Asked,
        answers: str | Sequence[str] | None = None,
        contrast: Contrasts = None,
        methods: Sequence[str] | str = ("gradcam",),
        layer: str | None = None,
        occlusion_options: OcclusionOptions | None = None,
    ) -> VqaExplanation:
        """Why these answers? One image, one question; answers left out: the model's own top answer.

        `contrast` is an answer ('why each answer rather than this one'), or a pair or pairs of answers ('why the
        first rather than the second'), explained besides `answers`. One pass of the trunk, one of the head and one
        batched backward pass for any number of answers. Raises `AnswerError` for an answer the model does not have.
        """
        seen = self.see(image)
        if len(seen) != 1:
            raise UserError(f"{len(seen)} images for one question; explain one image at a time")
        asked = question if isinstance(question, Asked) else self.read(question)
        names, pairs = self._wanted(seen, asked, answers, contrast)
        unique = list(dict.fromkeys([*names, *(name for pair in pairs for name in pair)]))
        made, told = self.network.targets(unique)
        by_name = dict(zip(unique, made, strict=True))
        targets = [by_name[name] for name in names] + [Contrast(by_name[a], by_name[b]) for a, b in pairs]
        with untouched(self.network.module):
            explainable, query, same = self.network.explainable(layer or self.layer, asked, told)
            found = gradcam.explain(
                explainable,
                seen.pixels,
                targets,
                query=query,
                methods=methods,
                features=seen.features if same else None,
                occlusion_options=occlusion_options,
            )
            gradients, drops = self.network.words(seen.features, asked, told, targets, explainable)
        about = {"task": "vqa", "model": self.name, "weights": self.network.source, "question": asked.text}
        return VqaExplanation(
            found.names,
            found.scores,
            found.maps,
            {**found.provenance, **about},
            asked.text,
            asked.words,
            gradients.detach(),
            drops.detach(),
        )

    def _wanted(
        self, seen: Seen, asked: Asked, answers: Any, contrast: Contrasts
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """Names of the answers to explain, and pairs to contrast."""
        given = [answers] if isinstance(answers, str) else list(answers or ())
        pairs = (
            [contrast]
            if isinstance(contrast, tuple)
            else []
            if isinstance(contrast, str)
            else list(contrast or ())
        )
        for pair in pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise UserError(
                    f"contrast is {contrast!r}; give one answer, or pairs (this, rather than that)"
                )
        if not given and not pairs:
            given = [self.answer(seen.one(0), asked, top=1).text]
        if isinstance(contrast, str):
            return [], [(answer, contrast) for answer in given]
        return given, [(str(a), str(b)) for a, b in pairs]


def _pairs(images: int, questions: int) -> list[tuple[int, int]]:
    """(image, question) numbers: one image with each question, or images and questions one to one."""
    if not questions:
        raise UserError("no question given; ask at least one")
    if images == 1 or questions == 1:
        return [(i, q) for i in range(images) for q in range(questions)]
    if images != questions:
        raise UserError(f"{questions} questions for {images} images; give one for all, or one for each image")
    return [(i, i) for i in range(images)]


def unknown_words(asked: Asked) -> str:
    """The line that names the words of a question that the model does not know."""
    words = ", ".join(f"'{word}'" for word in asked.unknown)
    return f"the model does not know {words} (in '{asked.text}'); each is read as its token for unknown words"


def find_answer(answer: str, known: dict[str, int]) -> int:
    """The number of an answer in a model's list, whatever its spelling; `AnswerError` names the nearest ones.

    Compared in the official normal form; 'yellow and red' also finds 'red and yellow'.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise AnswerError(f"an answer is a word or a few; received {answer!r}")
    plain = normalise_answer(answer)
    turned = " and ".join(reversed(plain.split(" and ")))
    for form in (answer, answer.strip().lower(), plain, turned):
        if form in known:
            return known[form]
    near = difflib.get_close_matches(plain, known, n=5, cutoff=0.55)
    within = [name for name in known if set(plain.split()) & set(name.split())]
    hints = list(dict.fromkeys([*near, *within]))[:6]
    named = (
        f"nearest: {', '.join(hints)}" if hints else f"none is near it; among them: {', '.join([*known][:6])}"
    )
    raise AnswerError(f"the model has no answer '{answer}' among its {len(known)}; {named}")
