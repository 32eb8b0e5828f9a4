"""Which words come from the picture? What the image adds to the log-probability of each word, in nats:

    visual = log p(word | the words before it, image) - log p(word | the words before it, no image in particular)

'Dog' owes its place in a caption to the photograph, 'of' to the words before it: a map of 'of' says next to nothing,
however strong its colours on a scale of its own. What the model reads where there is no image in particular is the
network's to say (`CaptionNetwork.without_image`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioning.network import Caption, CaptionNetwork
from common.state import untouched
from common.targets import Target, score_table
from common.text import Text, padded


def query_of(texts: Sequence[Text], network: CaptionNetwork, device: torch.device | None = None) -> Tensor:
    """(1, B, L): one text for each image, ended and padded with 0."""
    return padded([(*text.tokens, network.end) for text in texts], device)[None]


def visual_captions(network: CaptionNetwork, captions: Sequence[Caption]) -> list[Caption]:
    """The captions with their words' `visual`; as they are where the network can't say."""
    device = next(network.module.parameters()).device
    with untouched(network.module), torch.no_grad():
        unseen = network.without_image(query_of([caption.read for caption in captions], network, device))
    if unseen is None:
        return list(captions)
    return [caption.beside(row) for caption, row in zip(captions, unseen.log_probs[0], strict=True)]


def gains(
    network: CaptionNetwork, features: Any, query: Tensor, targets: Sequence[Target], seen: Tensor | None = None
) -> Tensor | None:
    """What the image adds to the log-probabilities of targets of a query (S, B, L): (T, B), in nats.

    `features` are of the images, as the network encodes them; `seen` (T, B) the log-probabilities with them, where
    they are known already. None where the network can't say.
    """
    with untouched(network.module), torch.no_grad():
        unseen = network.without_image(query)
        if unseen is None:
            return None
        given = score_table(targets, network.head(features, query), query.shape[1]) if seen is None else seen
        return given - score_table(targets, unseen, query.shape[1])
