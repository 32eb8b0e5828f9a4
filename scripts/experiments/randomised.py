"""Sanity checks by randomised labels and words: maps must not survive a change of what was learnt or said.

Labels: the linear head of figure 8 is trained again on shuffled labels (Adebayo et al. 2018, section 3.2).
Words: a word of a caption is replaced by one of another photograph's caption, and both maps at its place are
compared.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.metrics.faithfulness import rank_correlation
from scripts.experiments.bias import _features, _labels, by_kind, train_head
from scripts.experiments.lab import Lab, summarised
from scripts.experiments.scenes import scenes


def shuffled_labels(lab: Lab, count: int, seed: int = 0) -> dict[str, Any]:
    """Correlation of the maps (before the ReLU) of a head with those of one trained on shuffled labels.

    `again` is the correlation with a head trained on the other half of the true labels: what is left to
    expect when the labels mean the same.
    """
    kinds = by_kind(scenes(lab, "train")[0])
    chosen = [scene for these in kinds.values() for scene in these[:count]]
    random.Random(seed).shuffle(chosen)
    if len(chosen) < 8:
        raise UserError(f"{len(chosen)} photographs of dogs and children; at least 8 are needed")
    features = torch.cat([_features(lab, scene) for scene in chosen])
    labels, pooled = _labels(chosen), features.mean((-2, -1))
    half = len(chosen) // 2
    order = torch.randperm(half, generator=torch.Generator().manual_seed(seed))
    true = _maps(features[half:], pooled[:half], labels[:half])
    shuffled = _maps(features[half:], pooled[:half], labels[:half][order])
    again = _maps(features[half:], pooled[half:], labels[half:])
    return {
        "shuffled": summarised(rank_correlation(shuffled, true)),
        "again": summarised(rank_correlation(again, true)),
    }


def _maps(features: Tensor, pooled: Tensor, labels: Tensor) -> Tensor:
    weight, _ = train_head(pooled, labels)
    return torch.einsum("nkhw,k->nhw", features, weight)


def replaced_words(lab: Lab, count: int, seed: int = 0) -> dict[str, Any]:
    """Correlation of a word's map with that of a word of another photograph put in its place."""
    from scripts.experiments.figures import SAMPLES

    captioner = lab.speaker("captioner")
    photographs = sorted(SAMPLES.glob("*.jpg"))[:count]
    seen = [captioner.see(file) for file in photographs]
    said = [captioner.caption(one).words for one in seen]
    rng = random.Random(seed)
    found: list[float] = []
    groups: list[int] = []
    for number, (one, words) in enumerate(zip(seen, said, strict=True)):
        others = sorted({word for k, more in enumerate(said) if k != number for word in more} - set(words))
        if not others:
            continue
        before = captioner.explain(one, " ".join(words)).heatmaps[1:, 0]
        for place in range(len(words)):
            changed = [*words[:place], rng.choice(others), *words[place + 1 :]]
            after = captioner.explain(one, " ".join(changed)).heatmaps[1:, 0]
            if len(after) == len(before):
                found += rank_correlation(after[place : place + 1], before[place : place + 1]).tolist()
                groups.append(number)
    return {"replaced": summarised(found, groups)}
