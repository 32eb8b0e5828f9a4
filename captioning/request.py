"""From captions, phrases and contrasts to the tokens a model reads and the targets that are explained.

Letters: S sequences, B images, L tokens, T targets. For each image several sequences may be read: its
caption (always the first), a phrase that is not in the caption, the caption's beginning with another
phrase behind it. All of them go through the decoder in one batch, and all targets come from that one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captioning.targets import CaptionLogLikelihood, EndLogLikelihood
from common.errors import UserError
from common.request import Request, check_contrasts
from common.targets import Contrast, Target
from common.text import Place, Sequences, Text, TextLogLikelihood, marks

MAX_WORDS = 100


def check_text(text: Text, given: str, size: int) -> Text:
    """The text, or a `UserError` for one that is empty, too long, or of no word that the model knows."""
    shown = f"'{given[:60]}{'...' if len(given) > 60 else ''}'"
    if not text.words:
        raise UserError(f"the caption {shown} has no word; give a sentence, such as 'a dog runs on the grass'")
    if len(text.words) > MAX_WORDS:
        raise UserError(
            f"the caption {shown} has {len(text.words)} words; at most {MAX_WORDS} are explained; give one sentence"
        )
    if len(set(text.unknown)) == len(set(text.words)):
        raise UserError(
            f"none of the words of {shown} is among the {size} that the model knows;"
            " give a caption in the language it was trained on (English)"
        )
    return text


def find(phrase: Sequence[str], words: Sequence[str]) -> int | None:
    """Where `phrase` first stands in `words`, whatever the case and the punctuation; None where it does not."""
    wanted, given = [_bare(word) for word in phrase], [_bare(word) for word in words]
    starts = range(len(given) - len(wanted) + 1)
    return next((i for i in starts if given[i : i + len(wanted)] == wanted), None)


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'") or word


def caption_request(
    captions: Sequence[Text],
    network: Any,
    phrases: Sequence[Text] = (),
    contrasts: Sequence[Text] = (),
    end: bool = False,
) -> Request:
    """The targets for a batch of captions, in order: the caption, its words, phrases, contrasts, the end.

    A phrase that is in the caption is the sum over its words there; one that is not is read as a caption
    of its own. A contrast stands against the phrase (in the caption, with the same words before it) or,
    where no phrases are given, against the whole caption. `network` reads texts and names its `end` token.
    """
    if contrasts and phrases:
        check_contrasts(len(contrasts), len(phrases), "phrases")
    reading = _Reading(captions, network)
    longest = max(len(caption.words) for caption in captions)
    words = [[reading.word(image, i) for image in reading.images] for i in range(longest)]
    named = [[reading.phrase(image, phrase) for image in reading.images] for phrase in phrases]
    contrasts = list(contrasts) * (len(phrases) if len(contrasts) == 1 and phrases else 1)
    against = list(phrases) if phrases else [None] * len(contrasts)
    pairs = [
        [reading.contrast(image, contrast, phrase) for image in reading.images]
        for contrast, phrase in zip(contrasts, against, strict=False)
    ]
    query = reading.sequences.stacked()

    def likelihood(found: Sequence[Place | None]) -> TextLogLikelihood:
        return TextLogLikelihood(marks(found, query.shape))

    targets: list[Target] = [CaptionLogLikelihood(end=network.end), *map(likelihood, words), *map(likelihood, named)]
    targets += [Contrast(*(likelihood(each) for each in zip(*pair, strict=True))) for pair in pairs]
    targets += [EndLogLikelihood(end=network.end)] if end else []
    later = range(1 + longest, len(targets))
    return Request(
        query,
        targets,
        [_names(caption, phrases, contrasts, end) for caption in captions],
        [[*range(1 + len(caption.words)), *later] for caption in captions],
    )


@dataclass
class _Reading:
    """The sequences read for a batch of captions, and where words and phrases stand in them."""

    captions: Sequence[Text]
    network: Any

    def __post_init__(self) -> None:
        self.images = range(len(self.captions))
        self.sequences = Sequences([self._ended(caption) for caption in self.captions])

    def _ended(self, text: Text) -> tuple[int, ...]:
        return (*text.tokens, self.network.end)

    def word(self, image: int, number: int) -> Place | None:
        caption = self.captions[image]
        return Place(0, *caption.spans[number]) if number < len(caption.words) else None

    def phrase(self, image: int, phrase: Text) -> Place:
        caption = self.captions[image]
        start = find(phrase.words, caption.words)
        if start is None:
            return Place(self.sequences.add(image, self._ended(phrase)), 0, len(phrase.tokens))
        return Place(0, *caption.span(start, len(phrase.words)))

    def contrast(self, image: int, contrast: Text, phrase: Text | None) -> tuple[Place, Place]:
        caption = self.captions[image]
        if phrase is None:
            other = self.sequences.add(image, self._ended(contrast))
            return Place(0, 0, len(caption.tokens)), Place(other, 0, len(contrast.tokens))
        before = caption.words[: find(phrase.words, caption.words) or 0]
        text = self.network.read([*before, *contrast.words])
        other = self.sequences.add(image, self._ended(text))
        return self.phrase(image, phrase), Place(other, *text.span(len(before), len(contrast.words)))


def _names(caption: Text, phrases: Sequence[Text], contrasts: Sequence[Text], end: bool) -> list[str]:
    """The targets' names for one image, in the order of `caption_request`."""
    found = [_phrase_name(phrase, caption) for phrase in phrases]
    stands = found or [caption.text] * len(contrasts)
    pairs = [f"{this} rather than {other.text}" for this, other in zip(stands, contrasts, strict=False)]
    return [caption.text, *caption.words, *found, *pairs, *(["end of the caption"] if end else [])]


def _phrase_name(phrase: Text, caption: Text) -> str:
    inside = find(phrase.words, caption.words) is not None
    return phrase.text if inside else f"{phrase.text} (not in the caption)"
