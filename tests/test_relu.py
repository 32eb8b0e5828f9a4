"""Guided Backprop and deconvolution: every way of writing a ReLU, against literals and a hand-written twin."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import MethodError
from common.explainable import HookedModel
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
    "Tensor.clamp_": lambda x: x.clamp_(min=0),
    "Tensor.clamp_min_": lambda x: x.clamp_min_(0),
    "torch.clip": lambda x: torch.clip(x, 0),
    "Tensor.clip_": lambda x: x.clip_(0),
    "clamp at a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "nn.Threshold": nn.Threshold(0, 0),
    "F.threshold_": lambda x: F.threshold_(x, 0, 0),
    "torch.maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "torch.max": lambda x: torch.max(torch.zeros_like(x), x),
    "torch.where": lambda x: torch.where(x > 0, x, 0.0),
    "torch.where, the other way round": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "Tensor.where": lambda x: x.where(x > 0, torch.zeros(())),
    "Tensor.masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "times a mask": lambda x: x * (x > 0),
    "times a mask in floats": lambda x: (x >= 0).float() * x,
    "torch.ops": torch.ops.aten.relu,
}
RELU6S = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "torch.clamp": lambda x: torch.clamp(x, 0, 6),
    "Tensor.clamp_": lambda x: x.clamp_(0, 6),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
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


WRITTEN_OUT = {
    "F.leaky_relu_": lambda x: F.leaky_relu_(x), "F.elu_": lambda x: F.elu_(x), "torch.selu": torch.selu,
    "torch.selu_": torch.selu_, "torch.celu": torch.celu, "F.celu": F.celu, "F.rrelu_": lambda x: F.rrelu_(x),
    "torch.where with a slope": lambda x: torch.where(x > 0, x, 0.1 * x),
    "torch.where with a curve": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "x[x < 0] = 0": lambda x: x.__setitem__(x < 0, 0),
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x), "in place": lambda x: x.mul_(x.sigmoid()),
    "x / (1 + exp(-x))": lambda x: x / (1 + (-x).exp()),
    "GELU": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "Hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "threshold elsewhere": lambda x: F.threshold(x, 1.0, 0.0),
    "ceilings": lambda x: x.clamp(torch.tensor(0.0), torch.ones(5)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_other_gates_are_refused_however_they_are_written(name) -> None:
    with pytest.raises(MethodError, match="use the methods 'gradcam'"):
        backward(WRITTEN_OUT[name], "guided")


def test_gates_by_another_map_and_masks_of_other_maps_are_left_alone() -> None:
    y = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    for gate, gradient in (
        (lambda x: x * torch.sigmoid(y), (torch.sigmoid(y) * torch.tensor(GRADIENTS)).tolist()),
        (lambda x: torch.where(y > 0, x, 0.0), [1.0, 0.0, 1.0, 0.0, 1.0]),
        (lambda x: x.masked_fill(y < 0, 0), [1.0, 0.0, 1.0, 0.0, 1.0]),
        (lambda x: torch.maximum(x, 3 * x.detach()), None),
    ):
        found = backward(gate, "guided")[1]
        assert found == (gradient or backward(gate, None)[1])
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    with guided_relus("guided"):
        z = x * torch.sigmoid(x.mean()) + torch.max(x.view(1, 2), 1).values
    assert z.requires_grad


class Passing(torch.autograd.Function):
    """A user's own ReLU."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * (x > 0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class OwnFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Passing.apply(x)


def _scripted_function():
    return torch.jit.script(_slope)


def _slope(x: Tensor) -> Tensor:
    return torch.relu(x * 2)


class Calls(nn.Module):
    """A function that isn't a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.call = [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.call[0](x)


HIDDEN = {
    "autograd Function of its own, 'Passing'": OwnFunction,
    "scripted or traced part, '1'": lambda: torch.jit.script(nn.ReLU()),
    "scripted function": lambda: Calls(_scripted_function()),
    "traced part": lambda: torch.jit.trace(nn.ReLU(), torch.zeros(1, 4, 3, 3)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:Warning")
@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("method", ["guided", "deconv"])
def test_gates_out_of_reach_are_refused(what, method) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), HIDDEN[what](), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for _ in range(3):  # scripted functions are compiled after a run or two
        with pytest.raises(MethodError, match=what):
            explain(HookedModel(network.eval(), "0"), images_of(), [0], methods=(method,))


def test_backward_hooks_of_the_users_are_no_gates() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    expected = explain(network.eval(), images_of(), [0], methods=("guided",)).guided
    network[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    assert torch.equal(explain(network, images_of(), [0], methods=("guided",)).guided, expected)


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
