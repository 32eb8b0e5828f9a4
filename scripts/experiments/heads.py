"""A linear layer of its own behind a classifier's trunk, which is not trained: figure 8 and the sanity checks.

N photographs, K channels, h,w feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.state import untouched


@dataclass(frozen=True)
class Head:
    """A linear layer behind average pooling: weights (K,) and bias; a score above 0 says label 1."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Scores (N,) of features (N, K, h, w)."""
        return features.mean((-2, -1)) @ self.weight + self.bias

    def said(self, features: Tensor) -> Tensor:
        """Labels (N,), 0 or 1."""
        return (self.scores(features) > 0).float()

    def signed(self, features: Tensor) -> Tensor:
        """sum_k alpha_k A_k (N, h, w) of label 1, before the ReLU."""
        # Behind average pooling alpha is the weight over the number of positions (paper, section 3.1).
        alpha = self.weight / (features.shape[-2] * features.shape[-1])
        return torch.einsum("nkhw,k->nhw", features, alpha)

    def maps(self, features: Tensor, labels: Tensor) -> Tensor:
        """Grad-CAM (N, h, w) of each photograph's label (N,), 0 or 1."""
        return (self.signed(features) * (2 * labels - 1)[:, None, None]).clamp(min=0)


def features_of(classifier: Any, files: Sequence[Path]) -> Tensor:
    """The feature maps (N, K, h, w) of photographs, on the CPU."""
    with untouched(classifier.network.module):
        maps = [classifier.explainable.features(classifier.images(file)).float().cpu() for file in files]
    return torch.cat(maps)


def train_head(pooled: Tensor, labels: Tensor, decay: float = 1e-3) -> Head:
    """Logistic regression of labels (N,) 0/1 on features (N, K), by L-BFGS."""
    mean, spread = pooled.mean(0), pooled.std(0).clamp(min=1e-6)
    weight = torch.zeros(pooled.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")
    standard = (pooled - mean) / spread

    def loss() -> Tensor:
        optimiser.zero_grad()
        cost = torch.nn.functional.binary_cross_entropy_with_logits(standard @ weight + bias, labels)
        cost = cost + decay * weight.square().sum()
        cost.backward()
        return cost

    optimiser.step(loss)
    plain = weight.detach() / spread
    return Head(plain, bias.detach() - plain @ mean)
