"""The losses of seed, expand and constrain, its seeds and its CRF, against slow float64 twins and literals."""

import math
import sys

import numpy as np
import pytest
import torch

from classification import segmentation as sec
from common.errors import UserError
from common.metrics.segmentation import UNDECIDED


def drawn(seed: int, B: int = 3, C: int = 4, h: int = 5, w: int = 6):
    """Probabilities with their logits as the leaf, cues, and which classes are present."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(B, C + 1, h, w, generator=generator)).requires_grad_()
    cues = torch.randint(0, C + 1, (B, h, w), generator=generator)
    cues[torch.rand(B, h, w, generator=generator) < 0.6] = UNDECIDED
    present = torch.rand(B, C, generator=generator) < 0.5
    return logits, sec.probabilities(logits), cues, present


def slow_seeding(f, cues):
    total = 0.0
    for image, labels in zip(f, cues, strict=True):
        logs = [
            math.log(image[labels[y, x], y, x])
            for y in range(labels.shape[0])
            for x in range(labels.shape[1])
            if labels[y, x] != UNDECIDED
        ]
        total -= sum(logs) / len(logs) if logs else 0.0
    return total / len(f)


def slow_rank_pool(values, decay):
    n = values.size
    decay = decay ** (41 * 41 / n)
    ranked = sorted(values.flatten().tolist(), reverse=True)
    weights = [decay**rank for rank in range(n)]
    return sum(w * v for w, v in zip(weights, ranked, strict=True)) / sum(weights)


def slow_expansion(f, present):
    total = 0.0
    for image, here in zip(f, present, strict=True):
        inside = [-math.log(slow_rank_pool(image[c + 1], 0.996)) for c in range(len(here)) if here[c]]
        outside = [-math.log(1 - slow_rank_pool(image[c + 1], 0.0)) for c in range(len(here)) if not here[c]]
        for terms in (inside, outside):
            total += sum(terms) / len(terms) if terms else 0.0
        total -= math.log(slow_rank_pool(image[0], 0.999))
    return total / len(f)


def slow_boundary(f, q):
    B, C, h, w = f.shape
    total = 0.0
    for b in range(B):
        for y in range(h):
            for x in range(w):
                total += sum(q[b, c, y, x] * math.log(q[b, c, y, x] / f[b, c, y, x]) for c in range(C))
    return total / (B * h * w)


def as_double(tensor):
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("seed", range(3))
def test_the_losses_equal_slow_twins(seed):
    _, f, cues, present = drawn(seed)
    assert sec.seeding_loss(f, cues).item() == pytest.approx(slow_seeding(as_double(f), cues.numpy()), rel=1e-5)
    expected = slow_expansion(as_double(f), present.numpy())
    assert sec.expansion_loss(f, present).item() == pytest.approx(expected, rel=1e-5)
    _, q, _, _ = drawn(seed + 10)
    expected = slow_boundary(as_double(f), as_double(q))
    assert sec.boundary_loss(f, q).item() == pytest.approx(expected, rel=1e-3)  # q is bounded once more


@pytest.mark.parametrize("loss", ["seeding", "expansion", "boundary"])
def test_gradients_in_double_precision_equal_finite_differences(loss):
    logits, _, cues, present = drawn(5, B=2, C=2, h=2, w=3)
    target = drawn(6, B=2, C=2, h=2, w=3)[1].double()
    losses = {
        "seeding": lambda z: sec.seeding_loss(sec.probabilities(z), cues),
        "expansion": lambda z: sec.expansion_loss(sec.probabilities(z), present),
        "boundary": lambda z: sec.boundary_loss(sec.probabilities(z), target),
    }
    assert torch.autograd.gradcheck(losses[loss], logits.detach().double().requires_grad_())


def test_probabilities_sum_to_one_and_keep_off_zero():
    f = sec.probabilities(torch.tensor([[[[50.0]], [[-50.0]], [[0.0]]]]))
    assert f.sum(1).item() == pytest.approx(1) and f.min() > 0.9e-4


def test_rank_pooling_lies_between_the_mean_and_the_maximum():
    values = torch.rand(41, 41, generator=torch.Generator().manual_seed(0))
    assert sec.rank_pool(values, 0.0).item() == values.max().item()
    assert sec.rank_pool(values, 1.0).item() == pytest.approx(values.mean().item(), rel=1e-5)
    assert values.mean() < sec.rank_pool(values, 0.996) < values.max()
    # Twice as fine a grid gives the same.
    fine = values.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert sec.rank_pool(fine, 0.996).item() == pytest.approx(sec.rank_pool(values, 0.996).item(), rel=2e-3)
    with pytest.raises(UserError, match="not 1.5"):
        sec.rank_pool(values, 1.5)


def test_an_image_without_seeds_or_with_every_class_has_a_finite_loss():
    _, f, _, _ = drawn(1, B=1)
    assert sec.seeding_loss(f, torch.full((1, 5, 6), UNDECIDED)).item() == 0
    for present in (torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)):
        assert torch.isfinite(sec.expansion_loss(f, present))


def test_the_boundary_loss_is_zero_where_the_crf_changes_nothing_and_moves_only_the_network():
    logits, f, _, _ = drawn(2)
    assert sec.boundary_loss(f, f).item() == pytest.approx(0, abs=1e-6)
    other = sec.probabilities(torch.randn(logits.shape, generator=torch.Generator().manual_seed(9)))
    other.requires_grad_()
    sec.boundary_loss(f, other).backward()
    assert other.grad is None and logits.grad is not None


def test_cues_of_a_literal_map():
    values = torch.tensor([[10.0, 3.0, 0.0, 0.0]] * 4)
    saliency = torch.arange(16.0).reshape(4, 4)
    found = sec.localisation_cues({7: values}, saliency, (4, 4), background=0.25)
    # The least salient quarter is the top rows' start, where class 7 is; what remains is to the right of it.
    assert found[:, :2].eq(7).all() and found[0, 2:].tolist() == [0, 0]
    assert found[1:, 2:].eq(UNDECIDED).all()


def test_the_class_with_fewer_seeds_is_in_front_and_saliency_is_reduced_to_the_grid():
    wide, narrow = torch.ones(4, 4), torch.zeros(4, 4)
    narrow[1, 1] = 1
    found = sec.localisation_cues({1: narrow, 2: wide}, torch.rand(16, 16), (4, 4))
    assert found[1, 1] == 1 and found.eq(2).sum() == 15
    saliency = torch.ones(16, 16)
    saliency[:8, :8] = 0
    found = sec.localisation_cues({1: narrow}, saliency, (4, 4), background=0.25)
    assert found[0, 0] == 0 and found[3, 3] == UNDECIDED


def halves(noise: float = 0.0):
    """An image black on the left and white on the right, and probabilities that know it but for noise."""
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, 8:] = 255
    right = torch.full((12, 16), 0.3)
    right[:, 8:] = 0.7
    if noise:
        right = (right + noise * torch.randn(12, 16, generator=torch.Generator().manual_seed(0))).clamp(0.02, 0.98)
    return image, torch.stack([1 - right, right])


def slow_crf(f, image, iterations, scale=1.0):
    """Mean field by every pair of pixels, in double precision; kernels normalised on both sides."""
    C, h, w = f.shape
    y, x = np.mgrid[:h, :w].reshape(2, -1).astype(float)
    colours = image.reshape(-1, 3).astype(float)
    distance = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    colour = ((colours[:, None] - colours[None]) ** 2).sum(-1)
    near, alike = (
        np.exp(-distance / (2 * (3 / scale) ** 2)),
        np.exp(-distance / (2 * (80 / scale) ** 2) - colour / (2 * 13**2)),
    )
    total = 0
    for kernel, weight in ((near, 3.0), (alike, 10.0)):
        scale = 1 / np.sqrt(kernel.sum(1))
        total = total + weight * scale[:, None] * kernel * scale[None]
    log = np.log(f.reshape(C, -1))
    q = np.exp(log) / np.exp(log).sum(0)
    for _ in range(iterations):
        logits = log + q @ total
        q = np.exp(logits - logits.max(0))
        q /= q.sum(0)
    return q.reshape(C, h, w)


@pytest.mark.parametrize(("scale", "near"), [(1.0, 0.002), (10.0, 0.006)])
def test_one_step_of_the_crf_equals_that_over_all_pairs(scale, near):
    pytest.importorskip("pydensecrf.densecrf")
    image, f = halves(noise=0.35)
    found = sec.dense_crf(f, image, scale, iterations=1).double().numpy()
    # The package filters on a lattice: near the sums over all pairs, less so for small distances.
    assert np.abs(found - slow_crf(f.double().numpy(), image, 1, scale)).mean() < near


def test_the_crf_takes_the_borders_of_the_photograph():
    pytest.importorskip("pydensecrf.densecrf")
    image, f = halves(noise=0.35)
    truth = torch.from_numpy(image[..., 0] > 0)
    assert (f.argmax(0).bool() == truth).float().mean() < 0.9
    image.flags.writeable = False  # as Pillow's arrays are
    refined = sec.dense_crf(f, image)
    assert torch.allclose(refined.sum(0), torch.ones(12, 16), atol=1e-5)
    assert (refined.argmax(0).bool() == truth).float().mean() > 0.98
    with pytest.raises(UserError, match=r"needs \(12, 16, 3\) uint8"):
        sec.dense_crf(f, image[:5])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UserError, match=r"pip install 'saywhy\[segmentation\]'"):
        sec.dense_crf(torch.ones(1, 2, 2), np.zeros((2, 2, 3), np.uint8))
