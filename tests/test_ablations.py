"""Variants of Grad-CAM against their definitions, written out."""

import pytest
import torch

from common.errors import MethodError
from common.gradcam import gradcam
from common.methods.ablations import VARIANTS, by_layer, sweep_layers, variants
from common.relu import guided_relus
from tests.nets import Functional, Plain, seeded


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def definition(net, images, index, rule=None):
    """A and dy/dA by hand, at conv3 of `Functional`, one target."""
    x = net.act(net.conv1(images))
    A = net.conv3(net.act(x + net.conv2(x))).detach().requires_grad_()
    with guided_relus(rule):
        y = torch.nn.functional.relu6(A * 3)
        y = torch.nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)
        y = net.out(torch.relu_(net.hidden(y)))
    (gradient,) = torch.autograd.grad(y[:, index].sum(), A)
    return A.detach(), gradient


def test_every_variant_equals_its_definition(images):
    net = seeded(Functional).double()
    found = variants(net, images, [0, 2], layer="conv3")
    assert tuple(found) == VARIANTS
    for row, index in enumerate((0, 2)):
        A, g = definition(net, images, index)
        for b in range(2):
            for y in range(A.shape[2]):
                for x in range(A.shape[3]):
                    mean = sum(g[b, k].mean() * A[b, k, y, x] for k in range(7))
                    assert found["no_relu"][row, b, y, x] == pytest.approx(float(mean), abs=1e-12)
                    assert found["gradcam"][row, b, y, x] == pytest.approx(max(0, float(mean)), abs=1e-12)
                    absolute = sum(g[b, k].abs().mean() * A[b, k, y, x] for k in range(7))
                    assert found["absolute"][row, b, y, x] == pytest.approx(
                        max(0, float(absolute)), abs=1e-12
                    )
                    peak = sum(g[b, k].max() * A[b, k, y, x] for k in range(7))
                    assert found["max_pooled"][row, b, y, x] == pytest.approx(max(0, float(peak)), abs=1e-12)
                    own = sum(g[b, k, y, x] * A[b, k, y, x] for k in range(7))
                    assert found["elementwise"][row, b, y, x] == pytest.approx(max(0, float(own)), abs=1e-12)
        for name, rule in (("guided_relu", "guided"), ("deconv_relu", "deconv")):
            A, g = definition(net, images, index, rule)
            expected = (g.mean((-2, -1), keepdim=True) * A).sum(1).relu()
            assert torch.allclose(found[name][row], expected, atol=1e-12)
    assert not torch.allclose(found["guided_relu"], found["gradcam"])


def test_the_sum_is_the_mean_times_the_number_of_positions(images):
    found = variants(seeded(Plain).double(), images, 1, ("gradcam", "sum"))
    assert torch.allclose(found["sum"], 64 * found["gradcam"], rtol=1e-12)


def test_grad_cam_is_grad_cam_and_relus_that_are_not_there_change_nothing(images):
    net = seeded(Plain).double()
    found = variants(net, images, [0, 1], ("guided_relu", "gradcam"))
    assert list(found) == ["guided_relu", "gradcam"]
    assert torch.allclose(found["gradcam"], gradcam(net, images, [0, 1]), atol=1e-14)
    assert torch.allclose(found["guided_relu"], found["gradcam"], atol=1e-14)


def test_layers_of_a_sweep_and_their_maps(images):
    net = seeded(Plain).double()
    names = [layer.name for layer in sweep_layers(net, images, 3)]
    assert names == ["features.0", "features.2", "features.5"]
    found = by_layer(net, images, 1, names)
    assert [tuple(maps.shape[-2:]) for maps in found.values()] == [(16, 16), (16, 16), (8, 8)]
    assert torch.allclose(found["features.5"], gradcam(net, images, 1), atol=1e-14)


def test_an_unknown_variant_is_refused(images):
    with pytest.raises(MethodError, match="no variant 'min'.*max_pooled"):
        variants(seeded(Plain).double(), images, 0, ["min"])
