"""Excitation backprop against a twin that writes every layer down as a matrix."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import MethodError
from common.gradcam import gradcam
from common.methods.excitation import excitation
from tests.nets import Plain, Smooth, seeded


class Deep(nn.Module):
    """ReLU6 where it saturates, a sum in place, average and max pooling, two linear layers; biases
    everywhere.
    """

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.hidden = nn.Linear(16, 6)
        self.out = nn.Linear(6, 3)
        self.inplace = inplace

    def forward(self, images):
        x = torch.relu(self.first(images))
        y = F.relu6(self.second(x) * 1.0, inplace=self.inplace)
        y = y + x if not self.inplace else y.add_(x)
        y = F.avg_pool2d(F.max_pool2d(y, 2), 2)
        return self.out(F.relu(self.hidden(y.flatten(1))))


def matrix(linear, shape) -> np.ndarray:
    """A linear operation on inputs of `shape`, as a matrix, by unit vectors."""
    size = int(np.prod(shape))
    columns = [linear(torch.eye(size, dtype=torch.float64)[i].reshape(1, *shape)).flatten() for i in range(size)]
    return torch.stack(columns, 1).numpy()


def down(weights: np.ndarray, children: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Equation 4 of the paper, term by term."""
    found = np.zeros(len(children))
    for i, chance in enumerate(parents):
        z = sum(max(w, 0) * a for w, a in zip(weights[i], children, strict=True))
        for j, a in enumerate(children):
            if z > 0:
                found[j] += a * max(weights[i][j], 0) / z * chance
    return found


def twin(net: Deep, images: torch.Tensor, unit: int, sign: int = 1) -> np.ndarray:
    """P at the first ReLU's output, summed over channels, for one image."""
    with torch.no_grad():
        x = torch.relu(net.first(images))
        second = net.second(x)
        y = F.relu6(second)
        pooled, where = F.max_pool2d(y + x, 2, return_indices=True)
        small = F.avg_pool2d(pooled, 2)
        hidden = F.relu(net.hidden(small.flatten(1)))
    start = np.zeros(3)
    start[unit] = 1
    p = down(sign * net.out.weight.detach().numpy(), hidden[0].numpy(), start)
    p = down(net.hidden.weight.detach().numpy(), small.flatten().numpy(), p)
    p = down(matrix(lambda v: F.avg_pool2d(v, 2), pooled.shape[1:]), pooled.flatten().numpy(), p)
    summed = np.zeros(x.shape[1:])
    for k, (place, chance) in enumerate(zip(where.flatten().tolist(), p, strict=True)):
        channel = k // (p.size // 4)
        summed[channel].flat[place] += chance
    total = (y + x)[0].numpy()
    to_x = np.divide(summed * x[0].numpy(), total, out=np.zeros_like(summed), where=total > 0)
    to_y = np.divide(summed * y[0].numpy(), total, out=np.zeros_like(summed), where=total > 0)
    weights = matrix(lambda v: F.conv2d(v, net.second.weight, padding=1).detach(), x.shape[1:])
    through = down(weights, x.flatten().numpy(), to_y.flatten()).reshape(x.shape[1:])
    return (to_x + through).sum(0)


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 4


@pytest.fixture
def net():
    found = seeded(Deep).double()
    with torch.no_grad():
        found.second.weight.mul_(15)  # so that ReLU6 saturates somewhere
    return found


class First(nn.Module):
    """Names the first ReLU's output, so that the network can be split there."""

    def __init__(self, net: Deep) -> None:
        super().__init__()
        self.net, self.relu = net, nn.ReLU()

    def forward(self, images):
        x = self.relu(self.net.first(images))
        y = F.relu6(self.net.second(x) * 1.0, inplace=self.net.inplace)
        y = y + x if not self.net.inplace else y.add_(x)
        y = F.avg_pool2d(F.max_pool2d(y, 2), 2)
        return self.net.out(F.relu(self.net.hidden(y.flatten(1))))


@pytest.mark.parametrize("inplace", [True, False])
def test_probabilities_equal_the_matrix_twins(net, images, inplace):
    net.inplace = inplace
    assert bool((F.relu6(net.second(torch.relu(net.first(images)))) == 6).any())
    found = excitation(First(net), images, [0, 1, 2], layer="relu")
    assert found.shape == (3, 2, 8, 8)
    for unit in range(3):
        for b in range(2):
            assert np.abs(found[unit, b].numpy() - twin(net, images[b : b + 1], unit)).max() < 1e-10


def test_contrastive_maps_equal_the_twins_difference(net, images):
    found = excitation(First(net), images, [0, 2], layer="relu", contrastive=True)
    for row, unit in enumerate((0, 2)):
        for b in range(2):
            expected = twin(net, images[b : b + 1], unit) - twin(net, images[b : b + 1], unit, -1)
            assert np.abs(found[row, b].numpy() - expected.clip(min=0)).max() < 1e-10


def test_all_probability_arrives_where_every_unit_has_an_excitatory_child(images):
    net = seeded(Plain).double()
    with torch.no_grad():
        net.fc.weight.abs_()
    found = excitation(net, images, [0, 3], layer="features.5")
    assert found.sum((-2, -1)).flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    assert float(found.min()) >= 0


def test_behind_pooling_and_one_layer_it_is_cam_with_positive_weights(images):
    net = seeded(Plain).double()
    A = net.features(images).detach()
    weights = net.fc.weight[1].detach().clamp(min=0)
    shares = torch.einsum("k,bkhw->bhw", weights, A)
    expected = shares / shares.sum((-2, -1), keepdim=True)
    assert torch.allclose(excitation(net, images, 1, layer="features.5")[0], expected, atol=1e-12)


def test_batch_norm_passes_probabilities_on(images):
    net = seeded(Plain).double()
    found = excitation(net, images, 1, layer="features.0")
    assert found.shape == (1, 2, 8, 8) and bool(torch.isfinite(found).all())


def test_the_model_is_left_as_it_was(images):
    net = seeded(Plain).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    maps = gradcam(net, images, 1)
    excitation(net, images, 1, contrastive=True)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(maps, gradcam(net, images, 1))


def test_a_smooth_gate_behind_the_layer_is_refused(images):
    with pytest.raises(MethodError, match="GELU"):
        excitation(seeded(Smooth), images.float(), 0, layer="conv")


def test_a_layer_with_no_weights_behind_it_is_refused(images):
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.conv(images).amax((-2, -1))

    with pytest.raises(MethodError, match="no linear layer"):
        excitation(seeded(Bare), images.float(), 0, layer="conv")


def test_behind_pooling_and_one_layer_contrastive_excitation_is_a_cam_that_sums_to_zero():
    """ReLU(P / sum P - N / sum N), P and N the maps of the class's positive and negative weights: the closed form
    that the report's note on c-MWP rests on.
    """
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    network = seeded(lambda: network, 4).double()
    images = torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = excitation(network, images, [2], layer="1", contrastive=True)[0, 0]
    A, weights = network[:2](images)[0].detach(), network[4].weight[2].detach()
    halves = [torch.einsum("k,khw->hw", (sign * weights).clamp(min=0), A) for sign in (1, -1)]
    signed = halves[0] / halves[0].sum() - halves[1] / halves[1].sum()
    assert abs(float(signed.sum())) < 1e-12
    torch.testing.assert_close(found, signed.clamp(min=0))
    assert found.max() > 0
