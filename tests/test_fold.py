"""Folding: the same outputs and maps from a copy, every layer's name kept, the caller's network untouched."""

import pytest
import torch
from torch import Tensor, nn

from common.fast.fold import fold
from common.fast.fuse import FusedConv, fuse
from common.fast.trace import trace
from common.gradcam import explain, gradcam
from tests.nets import seeded
from tests.test_occlusion import Chain, SamePadding, images, lively


class NormFirst(nn.Module):
    """A norm that follows no convolution, one that shares its convolution's output, one convolution that runs
    twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.shared, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.of_shared, self.of_twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.act = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        x = self.shared(self.first(images))
        x = self.of_shared(x) + self.act(x)
        return self.of_twice(self.twice(self.twice(x)))


class WeightsOfItsOwn(nn.Conv2d):
    """A convolution that does something with its weights at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(("build", "pairs"), [(Chain, 3), (SamePadding, 6)])
def test_outputs_agree_and_names_stay(build, pairs) -> None:
    network = lively(seeded(build)).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy, folded = fold(network, images())
    assert len(folded) == pairs
    assert next(copy.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    torch.testing.assert_close(copy(images(2)), network(images(2)), rtol=1e-12, atol=1e-12)
    assert {name for name, _ in network.named_modules()} == {name for name, _ in copy.named_modules()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("build", "layer"), [(Chain, "blocks.4"), (SamePadding, "b.bn2"), (SamePadding, "b")])
def test_maps_agree_within_1e_5(build, layer) -> None:
    network = lively(seeded(build))
    copy, _ = fold(network, images(dtype=torch.float32))
    x = images(2, dtype=torch.float32)
    ours, theirs = gradcam(copy, x, [0, 3], layer=layer), gradcam(network, x, [0, 3], layer=layer)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    if build is Chain:
        return  # its in-place ReLUs one behind the other rule out a backward pass to the image
    guided = [explain(model, x, [1], methods=("guided",)).guided for model in (copy, network)]
    assert (guided[0] - guided[1]).abs().max() <= 1e-4 * guided[1].abs().max()


def test_only_a_norm_alone_behind_its_convolution_is_folded() -> None:
    network = lively(seeded(NormFirst)).double()
    copy, folded = fold(network, images())
    assert folded == ()
    assert torch.allclose(copy(images()), network(images()))


def test_convolutions_to_keep_and_those_with_hooks_or_their_own_weights_are_kept() -> None:
    network = lively(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))).double()
    assert fold(network, images())[1] == (("0", "1"),)
    assert fold(network, images(), keep=("0",))[1] == ()
    network[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert fold(network, images())[1] == ()
    own = lively(seeded(lambda: nn.Sequential(WeightsOfItsOwn(3, 4, 3), nn.BatchNorm2d(4)))).double()
    assert fold(own, images())[1] == ()


def test_training_mode_is_put_back_and_the_copy_is_in_evaluation_mode() -> None:
    network = lively(seeded(Chain)).train()
    copy, _ = fold(network, images(dtype=torch.float32))
    assert all(module.training for module in network.modules())
    assert not any(module.training for module in copy.modules())


@pytest.mark.parametrize("build", [Chain, SamePadding])
def test_fused_convolutions_agree_with_the_network(build) -> None:
    network = lively(seeded(build))
    x = images(2, dtype=torch.float32)
    copy, _ = fold(network, x)
    expected = network(x)
    with torch.no_grad():
        fuse(copy, trace(copy, lambda: copy(x)))
        if not any(isinstance(module, FusedConv) for module in copy.modules()):
            pytest.skip("this PyTorch has no fused convolutions for this processor")
        torch.testing.assert_close(copy(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy(x[..., :61]), network(x[..., :61]), rtol=1e-4, atol=1e-5)


def test_double_precision_is_not_fused() -> None:
    network = seeded(Chain).double()
    with torch.no_grad():
        fuse(network, trace(network, lambda: network(images())))
    assert not any(isinstance(module, FusedConv) for module in network.modules())
