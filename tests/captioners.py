"""A small captioner with random weights, for tests."""

import torch
from torch import nn

from captioning.model import CaptionModel
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk
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


def small(seed=0, hidden=10, scale=1.0, dtype=torch.float64, preprocessing=None):
    """A captioner on a trunk with evidence of two counted classes and of three words, one of them a class as well."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary.build([WORDS], minimum=1)
    evidence = Evidence(6, ["dog", "hot dog", "cat", "dog", "ball"], counted=2)
    trunk = SeeingTrunk(Trunk(), evidence, preprocessing or Preprocessing((32, 32)), "last")
    model = CaptionModel(trunk, vocabulary, hidden).to(dtype).eval()
    with torch.no_grad():
        for parameter in (*evidence.parameters(), *model.decoder.parameters()):
            parameter.normal_(0, scale)
    return model
