"""From captions, phrases and contrasts to the tokens a model reads and the targets that are explained.

Letters: S sequences, B images, L tokens, T targets. For each image several sequences may be read: its
caption (always the first), a phrase that is not in the caption, the caption's beginning with another
phrase behind it. All of them go through the decoder in one batch, and all targets come from that one
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captioning.targets import CaptionLogLikelihood, EndLogLikelihood, PhraseLogLikelihood
from common.errors import UserError
from common.explanation import Explanation
from common.targets import Contrast, Target

MAX_WORDS = 100


@dataclass(frozen=True)
class Sentence:
    """Words of a caption and the tokens they are written with: word i is `ids[spans[i][0] : spans[i][1]]`.

    `unknown` are the words that the model's vocabulary lacks; they are read as its token for the unknown
    word.
    """

    words: tuple[str, ...]
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    unknown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.words)


Read = Callable[[Sequence[str]], Sentence]


@dataclass
class Plan:
    """What is read and explained: `query` (S, B, L), T `targets`, and for each image its rows and their
    names.
    """

    query: Tensor
    targets: list[Target]
    rows: list[list[int]]
    names: list[list[str]]


@dataclass
class _Sequences:
    """The sequences of one image, the caption first; each distinct one is read once."""

    ids: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, ids: tuple[int, ...]) -> int:
        if ids not in self.ids:
            self.ids.append(ids)
        return self.ids.index(ids)


@dataclass(frozen=True)
class _Place:
    """Tokens start..stop of one sequence of one image."""

    sequence: int
    start: int
    stop: int


def check_sentence(sentence: Sentence, given: str, size: int) -> Sentence:
    """The sentence, or a `UserError` for one that is empty, too long, or of no word that the model knows."""
    shown = f"'{given[:60]}{'...' if len(given) > 60 else ''}'"
    if not sentence.words:
        raise UserError(
            f"the caption {shown} has no word; give a sentence, such as 'a dog runs on the grass'"
        )
    if len(sentence.words) > MAX_WORDS:
        raise UserError(
            f"the caption {shown} has {len(sentence.words)} words; at most {MAX_WORDS} are explained;"
            " give one sentence"
        )
    if len(set(sentence.unknown)) == len(set(sentence.words)):
        raise UserError(
            f"none of the words of {shown} is among the {size} that the model knows;"
            " give a caption in the language it was trained on (English)"
        )
    return sentence


def find(phrase: Sequence[str], words: Sequence[str]) -> int | None:
    """Where `phrase` first stands in `words`, whatever the case and the punctuation; None where it does
    not.
    """
    wanted, given = [_bare(word) for word in phrase], [_bare(word) for word in words]
    starts = range(len(given) - len(wanted) + 1)
    return next((i for i in starts if given[i : i + len(wanted)] == wanted), None)


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'") or word


def plan(
    captions: Sequence[Sentence],
    phrases: Sequence[Sentence],
    contrasts: Sequence[Sentence],
    read: Read,
    end: int,
    end_target: bool = False,
) -> Plan:
    """The targets of `explain` for a batch of captions, in order: the caption, its words, phrases, contrasts.

    A phrase that is in the caption is the sum over its words there; one that is not is read as a caption
    of its own. A contrast stands against the phrase (in the caption, with the same words before it) or,
    where no phrases are given, against the whole caption.
    """
    if contrasts and phrases and len(contrasts) not in (1, len(phrases)):
        raise UserError(
            f"{len(contrasts)} contrasts for {len(phrases)} phrases; give one for all, or one for each phrase"
        )
    sequences = [_Sequences([(*caption.ids, end)]) for caption in captions]
    longest = max(len(caption.words) for caption in captions)
    places: list[list[_Place | None]] = [  # [word][image]
        [_Place(0, *caption.spans[i]) if i < len(caption.words) else None for caption in captions]
        for i in range(longest)
    ]
    both = list(zip(captions, sequences, strict=True))
    places += [[_phrase_place(phrase, c, s, end) for c, s in both] for phrase in phrases]
    contrasts = list(contrasts) * (len(phrases) if len(contrasts) == 1 and phrases else 1)
    against = list(phrases) if phrases else [None] * len(contrasts)
    pairs = [
        [_contrast_places(contrast, phrase, c, s, read, end) for c, s in both]
        for contrast, phrase in zip(contrasts, against, strict=False)
    ]
    query = _stacked([s.ids for s in sequences])

    def likelihood(found: Sequence[_Place | None]) -> PhraseLogLikelihood:
        return PhraseLogLikelihood(_marks(found, query.shape))

    targets: list[Target] = [CaptionLogLikelihood(end=end), *map(likelihood, places)]
    targets += [Contrast(*map(likelihood, zip(*pair, strict=True))) for pair in pairs]
    targets += [EndLogLikelihood(end=end)] if end_target else []
    later = range(1 + longest, len(targets))
    return Plan(
        query,
        targets,
        [[*range(1 + len(caption.words)), *later] for caption in captions],
        [_names(caption, phrases, contrasts, end_target) for caption in captions],
    )


def _names(
    caption: Sentence, phrases: Sequence[Sentence], contrasts: Sequence[Sentence], end_target: bool
) -> list[str]:
    """The targets' names for one image, in the order of `plan`."""
    found = [_phrase_name(phrase, caption) for phrase in phrases]
    stands = found or [caption.text] * len(contrasts)
    pairs = [f"{this} rather than {other.text}" for this, other in zip(stands, contrasts, strict=False)]
    return [caption.text, *caption.words, *found, *pairs, *(["end of the caption"] if end_target else [])]


def unbatched(explanation: Explanation, made: Plan, provenance: Sequence[dict]) -> list[Explanation]:
    """One explanation for each image, with the rows that are its own."""
    parts = []
    for image, (rows, names) in enumerate(zip(made.rows, made.names, strict=True)):
        index = torch.tensor(rows, device=explanation.scores.device)
        one = explanation.image(image)
        maps = {method: values[index.to(values.device)] for method, values in one.maps.items()}
        about = {**explanation.provenance, **provenance[image]}
        parts.append(Explanation(tuple(names), one.scores[index], maps, about))
    return parts


def _phrase_place(phrase: Sentence, caption: Sentence, sequences: _Sequences, end: int) -> _Place:
    start = find(phrase.words, caption.words)
    if start is None:
        return _Place(sequences.add((*phrase.ids, end)), 0, len(phrase.ids))
    return _words_place(0, caption, start, len(phrase.words))


def _contrast_places(
    contrast: Sentence,
    phrase: Sentence | None,
    caption: Sentence,
    sequences: _Sequences,
    read: Read,
    end: int,
) -> tuple[_Place, _Place]:
    if phrase is None:
        other = sequences.add((*contrast.ids, end))
        return _Place(0, 0, len(caption.ids)), _Place(other, 0, len(contrast.ids))
    start = find(phrase.words, caption.words)
    before = caption.words[: start or 0]
    sentence = read([*before, *contrast.words])
    other = sequences.add((*sentence.ids, end))
    this = _phrase_place(phrase, caption, sequences, end)
    return this, _words_place(other, sentence, len(before), len(contrast.words))


def _words_place(sequence: int, sentence: Sentence, start: int, count: int) -> _Place:
    return _Place(sequence, sentence.spans[start][0], sentence.spans[start + count - 1][1])


def _phrase_name(phrase: Sentence, caption: Sentence) -> str:
    return (
        phrase.text
        if find(phrase.words, caption.words) is not None
        else f"{phrase.text} (not in the caption)"
    )


def _stacked(sequences: Sequence[Sequence[tuple[int, ...]]]) -> Tensor:
    """(S, B, L), padded with 0; an image with fewer sequences than another repeats its caption."""
    count = max(len(each) for each in sequences)
    length = max(len(ids) for each in sequences for ids in each)
    full = [[*each, *[each[0]] * (count - len(each))] for each in sequences]
    return torch.tensor([[[*each[s], *[0] * (length - len(each[s]))] for each in full] for s in range(count)])


def _marks(places: Sequence[_Place | None], shape: torch.Size) -> Tensor:
    """(S, B, L), true at the tokens of each image's place."""
    marks = torch.zeros(shape, dtype=torch.bool)
    for image, place in enumerate(places):
        if place is not None:
            marks[place.sequence, image, place.start : place.stop] = True
    return marks
