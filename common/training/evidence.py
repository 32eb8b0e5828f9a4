"""Which words are true of an image, by what is said of it.

Letters: I images of a data set, E words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def word_shares(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Each word of some texts about one image -> the share of the texts that say it."""
    counts = Counter(word for words in texts for word in set(words))
    return {word: count / len(texts) for word, count in counts.items()}


def evidence_targets(shares: Sequence[Mapping[str, float]], words: Sequence[str]) -> Tensor:
    """(I,E) in [0, 1]: how far each of `words` is true of each image, 0 where an image's shares lack it."""
    index = {word: column for column, word in enumerate(words)}
    targets = torch.zeros(len(shares), len(index))
    for row, each in enumerate(shares):
        for word in each.keys() & index.keys():
            targets[row, index[word]] = each[word]
    return targets
