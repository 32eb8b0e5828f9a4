"""Where the evidence words start: at what pretraining knew of them."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from common.training.evidence import shares_as_logits
from data.words.imagenet import classes_of_noun

SCALE = 0.3  # of the classes' weights: logits of a thousand-way softmax are larger than those of yes or no


@torch.no_grad()
def start_evidence(evidence: nn.Conv2d, words: Sequence[str], shown: Tensor, classifier: nn.Linear | None) -> None:
    """Set `evidence` (E words) to the words' shares in `shown` (images, E), and to the weights of ImageNet's classes.

    A word that ends a class's name ('cat', 'tabby cat') starts at the mean of those classes' weights in
    `classifier` (1000 classes, or None), less the mean of all; any other word at nothing.
    """
    cast(Tensor, evidence.bias).copy_(shares_as_logits(shown))
    classes = classes_of_noun()
    if classifier is None or classifier.out_features != 1 + max(i for found in classes.values() for i in found):
        return
    evidence.weight.zero_()
    for number, word in enumerate(words):
        found = classes.get(word)
        if found:
            row = classifier.weight[list(found)].mean(0) - classifier.weight.mean(0)
            evidence.weight[number, :, 0, 0] = SCALE * row
