"""Targeted attacks: against the closed form on a linear model, and their promises on a net."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from common.checks.adversarial import psnr, targeted
from common.errors import UserError
from tests.nets import Plain, seeded


def pixels(count=2, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def test_on_a_linear_model_every_step_goes_along_the_difference_of_weights():
    weights = torch.randn(2, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 50
    start = pixels(1)
    found, _ = targeted(lambda x: x.flatten(1) @ weights.T, start, torch.tensor([1]), 0.1, 0.02, 3, 1.0)
    sign = (weights[1] - weights[0]).sign().reshape(1, 3, 8, 8)
    expected = start
    for _ in range(3):
        expected = (expected + 0.02 * sign).clamp(0, 1)
    assert torch.allclose(found, expected, atol=1e-12)


def test_changes_stay_within_epsilon_and_within_the_pixels_range():
    net, start = seeded(Plain).double(), pixels()
    found, chance = targeted(net, start, torch.tensor([3, 0]), 4 / 255, 1 / 255, 30, random_start=True)
    assert float((found - start).abs().max()) <= 4 / 255 + 1e-12
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    now = net(found).softmax(1)[torch.arange(2), torch.tensor([3, 0])]
    assert torch.allclose(now, chance, atol=1e-12)
    assert bool((now >= net(start).softmax(1)[torch.arange(2), torch.tensor([3, 0])]).all())


def test_an_image_that_convinces_already_is_returned_unchanged():
    net, start = seeded(Plain).double(), pixels()
    found, chance = targeted(net, start, torch.tensor([3, 0]), probability=0.0)
    assert torch.equal(found, start) and chance.shape == (2,)


def test_the_models_gradients_are_left_alone():
    net = seeded(Plain).double()
    with torch.no_grad():
        targeted(net, pixels(), torch.tensor([1, 1]), iterations=2)
    assert all(p.grad is None for p in net.parameters())


def test_psnr_equals_scikit_images():
    a, b = pixels(1, 1), pixels(1, 2)
    expected = peak_signal_noise_ratio(a[0].numpy(), b[0].numpy(), data_range=1)
    assert psnr(a, b).item() == pytest.approx(expected, rel=1e-12)
    assert math.isinf(psnr(a, a).item())


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="outside"):
        targeted(seeded(Plain), torch.full((1, 3, 8, 8), 2.0), torch.tensor([0]))
    with pytest.raises(UserError, match="give \\(B, 3, H, W\\), \\(B,\\)"):
        targeted(seeded(Plain), pixels(2), torch.tensor([0]))
    with pytest.raises(UserError, match="above 0"):
        targeted(seeded(Plain).double(), pixels(1), torch.tensor([0]), epsilon=0)
