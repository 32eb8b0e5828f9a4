"""Captions from a model: beam search (of width 1: the best word each step) and sampling, for batches of images.

Letters: B images, W beam width, V vocabulary, L tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioning.model import CaptionModel, State
from common.errors import UserError
from data.words.vocabulary import END, FUNCTION_WORDS, PAD, SPECIAL, START, UNKNOWN, Vocabulary

MAX_LENGTH = 20
_NEVER = [PAD, START, UNKNOWN]


@dataclass(frozen=True)
class Hypothesis:
    """A decoded caption: its words' numbers without the end token, the log-probability of each, the sum with
    the end token's, and the score it was ranked by."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    total: float
    score: float


@torch.no_grad()
def beam(
    model: CaptionModel,
    state: State,
    width: int,
    max_length: int = MAX_LENGTH,
    length_penalty: float = 0.0,
    once: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """The (up to) `width` best captions of each image, best first; `state` is the decoder's after the images.

    Ranked by log-probability / length ** length_penalty, the end token counted: 0 ranks by probability,
    1 by its mean. A caption is never empty and never holds the unknown word; at `max_length` words it has to end.
    `once` (V,) marks words that a caption says no more than once (see `content_words`).
    """
    if width < 1 or max_length < 1:
        raise UserError(f"beam width and caption length are at least 1; received {width} and {max_length}")
    images, device = state.h.shape[0], state.h.device
    pools = [_Pool(width, length_penalty) for _ in range(images)]
    state = state.select(torch.arange(images, device=device).repeat_interleave(width))
    first = torch.arange(images, device=device)[:, None] * width  # row of each image's first beam
    total = torch.full((images, width), -torch.inf, device=device)
    total[:, 0] = 0.0  # the beams are equal at first: only one may branch
    words = torch.full((images, width), START, device=device)
    tokens, steps = words.new_zeros(images, width, 0), total.new_zeros(images, width, 0)
    for length in range(max_length + 1):
        log_probs, state = model.step(state, words.view(-1))
        log_probs = _allowed(log_probs, empty=length == 0, full=length == max_length).view(images, width, -1)
        if once is not None:
            log_probs = _unsaid(log_probs, tokens, once)
        # Each beam can end once, so twice the width always holds enough that go on.
        best, flat = (total[..., None] + log_probs).flatten(1).topk(min(2 * width, log_probs[0].numel()), 1)
        parent, words = flat // log_probs.shape[2], flat % log_probs.shape[2]
        for i, pool in enumerate(pools):
            pool.add(best[i, :width], parent[i], words[i], tokens[i], steps[i])
        if length == max_length or all(pool.settled(total[i], max_length) for i, pool in enumerate(pools)):
            break
        total, kept = best.masked_fill(words == END, -torch.inf).topk(width, 1)
        parent, words, flat = parent.gather(1, kept), words.gather(1, kept), flat.gather(1, kept)
        chosen = log_probs.flatten(1).gather(1, flat)
        along = parent[..., None].expand(-1, -1, length)
        tokens = torch.cat([tokens.gather(1, along), words[..., None]], 2)
        steps = torch.cat([steps.gather(1, along), chosen[..., None]], 2)
        state = state.select((first + parent).view(-1))
    return [pool.found for pool in pools]


def content_words(vocabulary: Vocabulary) -> Tensor:
    """(V,): which words say what is in an image. Said twice, they are mostly a slip: 'a bed with a bed'."""
    return torch.tensor([word not in FUNCTION_WORDS and word not in SPECIAL for word in vocabulary.words])


class _Pool:
    """The finished captions of one image: the best `width`, by falling score."""

    def __init__(self, width: int, length_penalty: float):
        self.width, self.length_penalty = width, length_penalty
        self.found: list[Hypothesis] = []

    def score(self, total: float, length: int) -> float:
        return total / max(length, 1) ** self.length_penalty

    def add(self, best: Tensor, parent: Tensor, words: Tensor, tokens: Tensor, steps: Tensor) -> None:
        """Take the captions that end among the `width` best continuations of the open beams."""
        for rank, total in enumerate(best.tolist()):
            if int(words[rank]) != END or total == -float("inf"):
                continue
            row = int(parent[rank])
            score = self.score(total, tokens.shape[1] + 1)
            if len(self.found) < self.width or score > self.found[-1].score:
                each = tuple(steps[row].tolist())
                self.found.append(Hypothesis(tuple(tokens[row].tolist()), each, total, score))
                self.found.sort(key=lambda hypothesis: -hypothesis.score)
                del self.found[self.width :]

    def settled(self, total: Tensor, max_length: int) -> bool:
        """No continuation of the open beams can enter: a sum of log-probabilities only falls."""
        bound = self.score(float(total.max()), max_length + 1)
        return len(self.found) == self.width and bound <= self.found[-1].score


def _allowed(log_probs: Tensor, empty: bool, full: bool = False) -> Tensor:
    """Log-probabilities (.., V) without the words that are never said, nor an end where nothing is said yet.

    Where a caption is `full`, of the end alone.
    """
    barred = torch.full_like(log_probs[0], full, dtype=torch.bool)
    barred[_NEVER] = True
    barred[END] = empty
    return log_probs.masked_fill(barred, -torch.inf)


def _unsaid(log_probs: Tensor, tokens: Tensor, once: Tensor) -> Tensor:
    """Log-probabilities (.., V) without those words of `once` (V,) that are among the tokens (.., L) before them."""
    said = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(-1, tokens, True)
    return log_probs.masked_fill(said & once.to(said.device), -torch.inf)


@torch.no_grad()
def sample(
    model: CaptionModel,
    state: State,
    count: int,
    max_length: int = MAX_LENGTH,
    generator: torch.Generator | None = None,
    once: Tensor | None = None,
) -> Tensor:
    """Captions drawn word by word, (B * count, L): an image's samples stand together, 0 after the end.

    `state` is the decoder's after the images; `once` as in `beam`. A caption that doesn't end has no end token.
    """
    rows = torch.arange(state.h.shape[0], device=state.h.device).repeat_interleave(count)
    state = state.select(rows)
    words = torch.full((len(rows),), START, device=rows.device)
    open_ = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    drawn: list[Tensor] = []
    for length in range(max_length):
        log_probs, state = model.step(state, words)
        log_probs = _allowed(log_probs, empty=length == 0)
        if once is not None and drawn:
            log_probs = _unsaid(log_probs, torch.stack(drawn, 1), once)
        probabilities = log_probs.softmax(-1)
        # One uniform number a row and a running sum: `multinomial` draws one for each word of the vocabulary.
        sums = probabilities.cumsum(-1)
        drawn_at = torch.rand(len(rows), 1, generator=generator, device=rows.device) * sums[:, -1:]
        words = torch.searchsorted(sums, drawn_at.to(sums.dtype), right=True)[:, 0]
        words = words.clamp(max=sums.shape[1] - 1).masked_fill(~open_, PAD)
        drawn.append(words)
        open_ = open_ & (words != END)
        if not open_.any():
            break
    return torch.stack(drawn, 1)
