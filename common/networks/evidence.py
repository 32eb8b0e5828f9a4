"""Evidence: what is seen in an image, read off the last feature map, and all that the heads are told of it.

A linear classifier looks for each concept at each position of the map (Fang et al. 2015, Wu et al. 2016); pooled over
the positions its logits say whether the concept is there. A second one says how many things of a class are there:
it gives each position an expected number, and these are summed (Chattopadhyay et al., CVPR 2017).

Letters: B images, K channels, h,w map, P = h*w positions, E concepts, C of which are counted.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.pooling import log_mean_exp

_RARE = -5.0  # what a counter starts at: next to nothing at a position


class Evidence(nn.Module):
    """The concepts' classifier and the classes' counter on a map A (B,K,h,w).

    `words` names the E concepts: the `counted` classes first, then the words of captions. A name may stand in both
    parts: as a class that boxes are known of, and as a word that captions say. `typical` (E+C) is the mean summary
    of the photographs that the trunk was trained on: what is told of no image in particular.
    """

    typical: Tensor

    def __init__(self, channels: int, words: Sequence[str], counted: int = 0):
        super().__init__()
        self.words, self.counted, self.channels = tuple(words), counted, channels
        self.classifier = nn.Conv2d(channels, len(self.words), 1)
        self.counter = nn.Conv2d(channels, counted, 1) if counted else None
        self.register_buffer("typical", torch.zeros(self.size))
        nn.init.normal_(self.classifier.weight, std=0.01)
        if self.counter is not None:
            nn.init.normal_(self.counter.weight, std=0.01)
            nn.init.constant_(cast(Tensor, self.counter.bias), _RARE)

    @property
    def classes(self) -> tuple[str, ...]:
        """The concepts that are counted."""
        return self.words[: self.counted]

    @property
    def caption_words(self) -> tuple[str, ...]:
        """The concepts that are not counted."""
        return self.words[self.counted :]

    @property
    def size(self) -> int:
        """E+C, the length of a summary."""
        return len(self.words) + self.counted

    def maps(self, features: Tensor) -> Tensor:
        """(B,E,h,w): logits of each concept at each position, a linear function of the map (B,K,h,w)."""
        return _at_each_position(self.classifier, features)

    def count_maps(self, features: Tensor) -> Tensor:
        """(B,C,h,w): the number of things of each class that each position adds to the image's, 0 or more."""
        return F.softplus(self._counter_maps(features))

    def summary(self, features: Tensor) -> Tensor:
        """(B,E+C): the logit of each concept's being there, then the expected number of things of each class.

        Logits are pooled by log-mean-exp: nearly the mean where a map is flat, nearly the maximum where it peaks.
        """
        logits = log_mean_exp(_full(self.maps(features)))
        return torch.cat([logits, F.softplus(_full(self._counter_maps(features))).sum((2, 3))], 1)

    def split(self, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., E) and expected numbers (..., C) of summaries (..., E+C)."""
        logits, counts = summary.split([len(self.words), self.counted], -1)
        return logits, counts

    def importance(self, gradients: Tensor, features: Tensor) -> Tensor:
        """Mean over positions of d y / d A (..., B,K) (Grad-CAM paper, eq. 1), in closed form.

        Given are d y / d `summary` (..., B,E+C) and the map (B,K,h,w). Log-mean-exp passes its gradient on in shares
        that sum to 1 over the positions, so on their mean 1/P of it arrives, times the classifier's weights. A sum of
        softplus passes on all of it times the logistic function of the counter's map, of which the mean arrives.
        """
        of_logits, of_counts = self.split(gradients)
        found = of_logits @ self.classifier.weight.flatten(1) / math.prod(features.shape[2:])
        if self.counter is None:
            return found
        passed = self._counter_maps(features).sigmoid().mean((2, 3))
        return found + (of_counts * passed) @ self.counter.weight.flatten(1)

    def _counter_maps(self, features: Tensor) -> Tensor:
        if self.counter is None:
            return features[:, :0]
        return _at_each_position(self.counter, features)


def _at_each_position(layer: nn.Conv2d, features: Tensor) -> Tensor:
    """A 1x1 convolution (K to E) as a matrix product: (B,K,h,w) -> (B,E,h,w).

    Its backward pass for many targets at once is one product too, where a convolution's would be run target by target.
    """
    maps = F.linear(features.flatten(2).transpose(1, 2), layer.weight.flatten(1), layer.bias)
    return maps.transpose(1, 2).unflatten(2, features.shape[2:])


def _full(x: Tensor) -> Tensor:
    """Half precision, which autocast makes, as float32: sums of exponentials need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
