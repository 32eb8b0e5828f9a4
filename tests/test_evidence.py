"""Evidence on the last map: its summary, and the closed form of eq. 1's weights through it."""

import math

import pytest
import torch

from common.networks.evidence import Evidence

K, E, C = 5, 4, 2
WORDS = ("dog", "cat", "grass", "dog")


def evidence(counted=C):
    torch.manual_seed(0)
    made = Evidence(K, WORDS, counted).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.requires_grad_(False)


def test_a_summary_has_the_logits_of_concepts_and_the_numbers_of_things():
    layer, features = evidence(), torch.randn(3, K, 2, 3, dtype=torch.float64)
    logits, counts = layer.split(layer.summary(features))
    assert layer.size == E + C == layer.typical.numel() and logits.shape == (3, E) and counts.shape == (3, C)
    for b in range(3):
        for e in range(E):
            each = [
                float(layer.classifier.weight[e, :, 0, 0] @ features[b, :, y, x] + layer.classifier.bias[e])
                for y in range(2)
                for x in range(3)
            ]
            assert float(logits[b, e].detach()) == pytest.approx(math.log(sum(map(math.exp, each)) / 6))
        for c in range(C):
            numbers = [
                math.log1p(
                    math.exp(float(layer.counter.weight[c, :, 0, 0] @ features[b, :, y, x] + layer.counter.bias[c]))
                )
                for y in range(2)
                for x in range(3)
            ]
            assert float(counts[b, c].detach()) == pytest.approx(sum(numbers))
    torch.testing.assert_close(layer.maps(features), layer.classifier(features))
    torch.testing.assert_close(layer.count_maps(features).sum((2, 3)), counts)


@pytest.mark.parametrize("counted", [C, 0])
def test_importance_is_what_autograd_finds(counted):
    layer = evidence(counted)
    features = torch.randn(3, K, 2, 3, dtype=torch.float64, requires_grad=True)
    summary = layer.summary(features)
    weights = torch.randn(4, 3, E + counted, dtype=torch.float64)  # four targets, not linear in the summary
    scores = (weights * summary.tanh()).sum(2)
    for target in range(4):
        (expected,) = torch.autograd.grad(scores[target].sum(), features, retain_graph=True)
        (of_summary,) = torch.autograd.grad(scores[target].sum(), summary, retain_graph=True)
        found = layer.importance(of_summary, features.detach())
        torch.testing.assert_close(found, expected.mean((2, 3)), rtol=1e-10, atol=1e-12)
    several = torch.autograd.grad(scores.sum(1), summary, torch.eye(4, dtype=torch.float64), is_grads_batched=True)[0]
    torch.testing.assert_close(layer.importance(several, features)[3], found)


def test_half_precision_is_summed_in_full():
    layer, features = evidence().float(), torch.randn(2, K, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        summary = layer.summary(features)
    assert summary.dtype == torch.float32
    torch.testing.assert_close(summary, layer.summary(features), rtol=0.05, atol=0.1)


def test_classes_come_before_the_words_of_captions():
    layer = evidence()
    assert layer.classes == ("dog", "cat") and layer.caption_words == ("grass", "dog")
    assert evidence(0).classes == () and evidence(0).counter is None
