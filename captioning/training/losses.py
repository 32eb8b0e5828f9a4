"""Scores and losses of a batch of captions.

Letters: B images, S samples of each, N captions, L tokens, P places that hold one, V vocabulary, E concepts, C of
them counted.
"""

import torch
from torch import Tensor

from captioning.model import CaptionModel
from data.words.vocabulary import PAD


def logits(model: CaptionModel, summary: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (P,V) of the places of captions (N,L) that hold a token, caption by caption, and these tokens (P,).

    `summary` (N,E+C) is what the decoder sees of each caption's image.
    """
    mask = tokens != PAD
    rows = mask.nonzero()[:, 0]
    with half(tokens.device):
        hidden = model.hidden(summary, tokens).transpose(0, 1)[mask]
        return model.decoder.logits(hidden, model.decoder.evidence(summary)[rows]), tokens[mask]


def reinforce(model: CaptionModel, summary: Tensor, tokens: Tensor, rewards: Tensor) -> Tensor:
    """REINFORCE's loss of sampled captions (B*S,L) and their `rewards` (B,S), of which each image has S.

    The baseline of a sample is the mean reward of the image's other samples (Kool et al. 2019).
    """
    count = rewards.shape[1]
    advantage = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (count - 1)).view(-1, 1)
    found, words = logits(model, summary, tokens)
    chosen = found.log_softmax(-1).gather(-1, words[:, None])[:, 0]
    weights = advantage.to(tokens.device).expand_as(tokens)[tokens != PAD]
    return -(weights * chosen).mean()


def half(device: torch.device, enabled: bool = True) -> torch.autocast:
    """bfloat16 matrix products, where they are several times as fast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
