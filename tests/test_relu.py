"""Guided Backprop and deconvolution: every way of writing a ReLU, against literals and a hand-written twin."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import MethodError
from common.gradcam import explain
from common.relu import guided_relus
from tests.nets import Functional, seeded
from tests.test_gradcam import images_of

RELUS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "Tensor.clamp": lambda x: x.clamp(min=0),
    "Tensor.clamp_min": lambda x: x.clamp_min(0),
}
RELU6S = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "torch.clamp": lambda x: torch.clamp(x, 0, 6),
}
INPUTS = [2.0, 2.0, -1.0, -1.0, 7.0]
GRADIENTS = [1.0, -1.0, 1.0, -1.0, 1.0]


def backward(relu, rule: str | None) -> tuple[list[float], list[float]]:
    x = torch.tensor(INPUTS, requires_grad=True)
    with guided_relus(rule):
        y = relu(x * 1)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor(GRADIENTS))
    return y.tolist(), gradient.tolist()


@pytest.mark.parametrize("name", RELUS)
def test_every_relu_is_guided_whichever_way_it_is_called(name) -> None:
    assert backward(RELUS[name], "guided") == ([2.0, 2.0, 0.0, 0.0, 7.0], [1.0, 0.0, 0.0, 0.0, 1.0])
    assert backward(RELUS[name], "deconv") == ([2.0, 2.0, 0.0, 0.0, 7.0], [1.0, 0.0, 1.0, 0.0, 1.0])
    assert backward(RELUS[name], None) == ([2.0, 2.0, 0.0, 0.0, 7.0], [1.0, -1.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize("name", RELU6S)
def test_relu6_passes_nothing_where_it_is_capped(name) -> None:
    assert backward(RELU6S[name], "guided") == ([2.0, 2.0, 0.0, 0.0, 6.0], [1.0, 0.0, 0.0, 0.0, 0.0])
    assert backward(RELU6S[name], "deconv")[1] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert backward(RELU6S[name], None)[1] == [1.0, -1.0, 0.0, 0.0, 0.0]


def test_what_is_no_relu_is_left_alone() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    with guided_relus("guided"):
        y = F.hardtanh(x) + x.clamp(min=-1) + x.clamp(max=1)
    assert torch.autograd.grad(y, x, torch.tensor([-1.0, -1.0, -1.0]))[0].tolist() == [-1.0, -3.0, -1.0]


def test_the_rule_ends_with_its_block_even_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), guided_relus("guided"):
        1 / 0  # noqa: B018
    assert backward(F.relu, None)[1] == [1.0, -1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.GELU(), "GELU"), (nn.SiLU(), "SiLU"), (nn.ELU(), "ELU"), (nn.Hardswish(), "Hardswish"),
     (nn.LeakyReLU(), "LeakyReLU"), (nn.PReLU(), "PReLU"), (nn.Mish(), "Mish"), (nn.Softplus(), "Softplus")],
)  # fmt: skip
def test_other_gates_are_refused_by_name(activation, name) -> None:
    with pytest.raises(MethodError, match=name), guided_relus("guided"):
        activation(torch.ones(2))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(MethodError, match="'guide'; known: guided, deconv"), guided_relus("guide"):
        pass


def guided_twin(network: Functional, image: Tensor, index: int) -> Tensor:
    """Guided Backprop of `Functional` with its backward pass written out by hand, in float64."""
    net = network.double()
    z1 = net.conv1(image)
    a1 = z1.clamp(min=0)
    z2 = a1 + net.conv2(a1)
    a2 = z2.clamp(min=0)
    z3 = net.conv3(a2) * 3
    a3 = z3.clamp(0, 6)
    pooled = F.adaptive_avg_pool2d(a3, 4)
    z4 = net.hidden(pooled.flatten(1))
    g4 = net.out.weight[index][None]
    g4 = g4 * (g4 > 0) * (z4 > 0)
    g3 = (g4 @ net.hidden.weight).view_as(pooled)
    window = a3.shape[-1] // pooled.shape[-1]  # adaptive pooling to a divisor is averaging over windows
    g3 = g3.repeat_interleave(window, -1).repeat_interleave(window, -2) / window**2
    g3 = g3 * (g3 > 0) * (z3 > 0) * (z3 < 6) * 3
    g2 = torch.nn.grad.conv2d_input(a2.shape, net.conv3.weight, g3, stride=2, padding=1)
    g2 = g2 * (g2 > 0) * (z2 > 0)
    g1 = g2 + torch.nn.grad.conv2d_input(a1.shape, net.conv2.weight, g2, padding=1)
    g1 = g1 * (g1 > 0) * (z1 > 0)
    return torch.nn.grad.conv2d_input(image.shape, net.conv1.weight, g1, padding=1)


def test_guided_backprop_of_a_whole_network_is_the_one_written_out_by_hand() -> None:
    images = images_of(1, side=16)
    found = explain(seeded(Functional), images, [2], methods=("guided",)).guided[0]
    expected = guided_twin(seeded(Functional), images.double(), 2)
    assert (expected != 0).any()
    assert torch.allclose(found.double(), expected, atol=1e-7)


def test_without_relus_all_rules_are_the_plain_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = explain(network, images_of(), [0, 1], methods=("guided", "deconv", "gradient"))
    assert torch.equal(found.guided, found.gradient)
    assert torch.equal(found.deconv, found.gradient)
