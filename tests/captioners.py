"""A small captioner with random weights, for tests."""

import torch
from torch import nn

from captioning.model import CaptionModel
from data.words.vocabulary import Vocabulary

WORDS = ["a", "the", "dog", "cat", "runs", "sits", "red", "ball"]


class Trunk(nn.Module):
    """Two convolutions: (B,3,H,W) -> (B,6,H/4,W/4)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.last = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())

    def forward(self, images):
        return self.last(self.first(images).relu()).mean((2, 3))


def small(seed=0, hidden=10, scale=1.0, dtype=torch.float64):
    torch.manual_seed(seed)
    vocabulary = Vocabulary.build([WORDS], minimum=1)
    model = CaptionModel(Trunk(), vocabulary, 6, ["dog", "cat", "ball"], hidden, layer="last").to(dtype).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.normal_(0, scale)
    return model
