"""Word evidence: which words are true of an image, as targets to learn from, and the loss of learning them.

Letters: I images of a data set, B of a batch, E evidence words.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def word_shares(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Each word of some texts about one image -> the share of the texts that say it."""
    counts = Counter(word for words in texts for word in set(words))
    return {word: count / len(texts) for word, count in counts.items()}


def commonest_words(
    shown: Iterable[Collection[str]], count: int, minimum: int = 1, first: Collection[str] = ()
) -> list[str]:
    """`count` of the words true of `minimum` images or more: those among `first`, then those of the most images.

    `shown` has the words that are true of each image, each once.
    """
    images = Counter(word for words in shown for word in words)
    kept = (word for word, number in images.items() if number >= minimum)
    return sorted(kept, key=lambda word: (word not in first, -images[word], word))[:count]


def evidence_targets(shares: Sequence[Mapping[str, float]], words: Sequence[str]) -> Tensor:
    """(I,E) in [0, 1]: how far each of `words` is true of each image, 0 where an image's shares lack it."""
    index = {word: column for column, word in enumerate(words)}
    targets = torch.zeros(len(shares), len(index))
    for row, each in enumerate(shares):
        for word in each.keys() & index.keys():
            targets[row, index[word]] = each[word]
    return targets


def shares_as_logits(targets: Tensor) -> Tensor:
    """The bias (E,) that evidence starts at: the logit of each word's mean share in targets (I,E)."""
    return targets.mean(0).clamp(1e-4, 1 - 1e-4).logit()


def evidence_entropy(evidence: Tensor, targets: Tensor, absent: Tensor) -> Tensor:
    """Binary cross-entropy of evidence logits (B,E) against targets in [0,1], summed over words, averaged over images.

    Words that are not true of an image count by its `absent` (B,): less than 1 where not all is known of it.
    """
    each = F.binary_cross_entropy_with_logits(evidence, targets, reduction="none")
    return (each * torch.where(targets > 0, 1.0, absent[:, None])).sum() / len(evidence)
