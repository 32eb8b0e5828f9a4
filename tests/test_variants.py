"""CAM variants against their definitions, written out in float64, and methods of one's own."""

import pytest
import torch
from torch import Tensor, nn

from common.errors import MethodError
from common.explainable import HookedModel, TokenGrid
from common.gradcam import METHODS, explain, gradcam
from common.methods.head import ablation_cam, integrated_gradients
from common.methods.names import METHOD_NAMES
from common.methods.occlusion import OcclusionOptions
from common.methods.variants import VARIANTS
from common.relu import guided_relus
from common.targets import Index, Negated
from scripts.experiments.appendix_b import sweep_layers
from tests.nets import FrozenTrunk, Functional, Plain, Recurrent, seeded
from tests.test_gradcam import Seamed, images_of

OF_APPENDIX_B = ("no_relu", "absolute", "summed", "max_pooled", "hirescam", "guided_relu", "deconv_relu")


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def head(net, A):
    """What stands behind conv3 of `Functional`."""
    y = torch.nn.functional.relu6(A * 3)
    y = torch.nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)
    return net.out(torch.relu_(net.hidden(y)))


def definition(net, images, index, rule=None):
    """A and dy/dA by hand, at conv3 of `Functional`, one target."""
    x = net.act(net.conv1(images))
    A = net.conv3(net.act(x + net.conv2(x))).detach().requires_grad_()
    with guided_relus(rule):
        y = head(net, A)
    (gradient,) = torch.autograd.grad(y[:, index].sum(), A)
    return A.detach(), gradient


def weights(name: str, A: Tensor, g: Tensor) -> float:
    """The weight of one channel, A and g (h, w), position by position as the papers write it."""
    places = [(float(a), float(b)) for a, b in zip(A.flatten(), g.flatten(), strict=True)]
    n, total = len(places), sum(a for a, _ in places)
    if name == "xgradcam":
        return sum(a / total * s for a, s in places)
    if name == "gradcam_plus_plus":
        return sum(s**2 / (2 * s**2 + total * s**3) * max(s, 0) for _, s in places if s != 0)
    return {
        "gradcam": sum(s for _, s in places) / n,
        "no_relu": sum(s for _, s in places) / n,
        "absolute": sum(abs(s) for _, s in places) / n,
        "summed": sum(s for _, s in places),
        "max_pooled": max(s for _, s in places),
    }[name]


def twin(name: str, A: Tensor, g: Tensor) -> Tensor:
    """The map (h, w) of one image and target, A and g (K, h, w), by the definition."""
    K, h, w = A.shape
    found = torch.zeros(h, w, dtype=torch.float64)
    alphas = [] if name in ("hirescam", "layercam") else [weights(name, A[k], g[k]) for k in range(K)]
    for y in range(h):
        for x in range(w):
            for k in range(K):
                slope = float(g[k, y, x])
                alpha = alphas[k] if alphas else max(slope, 0.0) if name == "layercam" else slope
                found[y, x] += alpha * float(A[k, y, x])
    return found if name == "no_relu" else found.clamp(min=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_equals_its_definition(name, images):
    net = seeded(Functional).double()
    found = explain(HookedModel(net, "conv3"), images, [0, 2], methods=name).maps[name]
    for row, index in enumerate((0, 2)):
        A, g = definition(net, images, index)
        expected = torch.stack([twin(name, A[b], g[b]) for b in range(2)])
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 1e-6


@pytest.mark.parametrize(("name", "rule"), [("guided_relu", "guided"), ("deconv_relu", "deconv")])
def test_rules_of_the_relus_behind_the_layer(name, rule, images):
    net = seeded(Functional).double()
    found = explain(HookedModel(net, "conv3"), images, [0, 2], methods=[name, "gradcam"])
    for row, index in enumerate((0, 2)):
        A, g = definition(net, images, index, rule)
        expected = (g.mean((-2, -1), keepdim=True) * A).sum(1).relu()
        torch.testing.assert_close(found.maps[name][row], expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(found.maps[name], found.gradcam)
    plain = explain(seeded(Plain).double(), images, [0, 1], methods=[name, "gradcam"])  # no ReLU there
    torch.testing.assert_close(plain.maps[name], plain.gradcam)


def test_the_variant_named_gradcam_is_what_the_cheap_way_gives(images):
    net = HookedModel(seeded(Functional).double(), "conv3")
    own = explain(net, images, [0, 2], methods=VARIANTS["gradcam"]).maps["gradcam"]
    torch.testing.assert_close(own, gradcam(net, images, [0, 2]))


def test_variants_are_the_same_within_a_budget_of_memory(images, monkeypatch):
    net = HookedModel(seeded(Functional).double(), "conv3")
    expected = explain(net, images, [0, 1, 2], methods="hirescam,layercam").maps
    monkeypatch.setattr("common.formulas._GRADIENT_BUDGET", 1)
    found = explain(net, images, [0, 1, 2], methods="hirescam,layercam").maps
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_a_channel_of_zeros_has_no_say():
    A, g = torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    A[:, 1] = 1.0
    for name, variant in VARIANTS.items():
        assert torch.isfinite(variant(A, g)).all() and variant(A, g).max() > 0, name


def test_ablation_cam_is_the_drop_without_each_channel(images):
    net = seeded(Functional).double()
    found = explain(HookedModel(net, "conv3"), images, [0, Negated(2)], methods="ablation-cam").ablation_cam
    A, _ = definition(net, images, 0)
    for row, (index, sign) in enumerate(((0, 1), (2, -1))):
        for b in range(2):
            expected = torch.zeros(8, 8, dtype=torch.float64)
            for k in range(7):
                without = A[b : b + 1].clone()
                without[:, k] = 0
                drop = (head(net, A[b : b + 1]) - head(net, without))[0, index].item()
                expected += sign * drop * A[b, k]
            torch.testing.assert_close(found[row, b], expected.clamp(min=0), rtol=1e-9, atol=1e-12)
    assert found.max() > 1e-6


def test_integrated_gradients_are_means_along_the_way_and_complete(images):
    net = seeded(Functional).double()
    name = "integrated_gradients"
    found = explain(HookedModel(net, "conv3"), images, [0, 2], methods=name).maps[name]
    A, _ = definition(net, images, 0)
    for row, index in enumerate((0, 2)):
        mean = torch.zeros_like(A)
        for step in range(32):
            leaf = (A * (step + 0.5) / 32).requires_grad_()
            mean += torch.autograd.grad(head(net, leaf)[:, index].sum(), leaf)[0] / 32
        torch.testing.assert_close(found[row], (mean * A).sum(1), rtol=1e-9, atol=1e-12)
        drop = (head(net, A) - head(net, A * 0))[:, index].detach()
        many = integrated_gradients(A, lambda a, index=index: head(net, a)[:, index][None], 2000)[0]
        torch.testing.assert_close(many.sum((-2, -1)), drop, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["ablation_cam", "integrated_gradients"])
@pytest.mark.parametrize(("build", "layer"), [(Recurrent, "conv"), (FrozenTrunk, "conv"), (Plain, "features.5")])
def test_the_head_runs_again_whatever_it_is_made_of(method, build, layer):
    network = seeded(build)
    # In one batch or each image alone, at its layer or as a function of the map: the same.
    found = explain(HookedModel(network, layer), images_of(), [1, 2], methods=method).maps[method]
    alone = [explain(HookedModel(network, layer), i[None], [1, 2], methods=method).maps[method] for i in images_of()]
    torch.testing.assert_close(found, torch.cat(alone, 1), rtol=1e-4, atol=1e-6)
    assert found.abs().max() > 0


def test_behind_pooling_and_one_layer_all_of_them_are_grad_cam(images):
    # y = sum_k w_k mean(A_k) + b: every gradient of a channel is w_k / hw, and taking it away costs w_k mean(A_k).
    net = seeded(Plain).double()
    found = explain(net, images, [0, 3], methods="gradcam,hirescam,no-relu,integrated-gradients,ablation-cam")
    torch.testing.assert_close(found.hirescam, found.gradcam)
    torch.testing.assert_close(found.integrated_gradients, found.no_relu)
    A, w = net.features(images).detach(), net.fc.weight.detach()[[0, 3]]
    drops = torch.einsum("tk,bk->tbk", w, A.mean((-2, -1)))
    torch.testing.assert_close(found.ablation_cam, torch.einsum("tbk,bkhw->tbhw", drops, A).relu())


def test_a_seam_of_the_models_own_and_its_query_are_rescored():
    model, images, query = Seamed(), images_of(), torch.tensor([1.0, 3.0])
    for method in ("ablation_cam", "integrated_gradients"):
        plain = explain(model.network, images, [0, 1], methods=method).maps[method]
        found = explain(model, images, [0, 1], query=query, methods=method).maps[method]
        torch.testing.assert_close(found, plain * query[:, None, None])


class Tokens(nn.Module):
    """A class token and 2 x 3 patches, mixed and read off the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.out = nn.Linear(3, 8), nn.Linear(7, 7), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images, (2, 3)).flatten(2).transpose(1, 2)
        tokens = self.patches(torch.cat([pooled.mean(1, keepdim=True), pooled], 1))
        return self.out(self.mix(self.norm(tokens).transpose(1, 2)).transpose(1, 2)[:, 0])


def test_tokens_are_taken_away_on_their_grid():
    network = seeded(Tokens).double()
    split = HookedModel(network, "norm", TokenGrid(1, (2, 3)))
    images = torch.rand(1, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = explain(split, images, [1], methods="ablation_cam,integrated_gradients")
    A, output = split.features(images), network(images)
    drops = []
    for channel in range(8):
        keep = (torch.arange(8) != channel).double()

        def without(module, inputs, tokens, keep=keep):
            return torch.cat([tokens[:, :1], tokens[:, 1:] * keep], 1)

        handle = network.norm.register_forward_hook(without)
        drops.append((output - network(images))[0, 1].item())
        handle.remove()
    expected = (torch.tensor(drops, dtype=torch.float64)[:, None, None] * A[0]).sum(0).relu()
    torch.testing.assert_close(found.ablation_cam[0, 0], expected)
    empty = split.forward_from(torch.zeros_like(A), images)  # the head is linear in the patches: complete
    torch.testing.assert_close(found.integrated_gradients.sum(), (output - empty)[0, 1].detach())


def test_a_layer_that_runs_twice_cannot_be_run_again():
    with pytest.raises(MethodError, match="'act' runs 2 times in one pass.*use the method 'gradcam'"):
        explain(HookedModel(seeded(Functional), "act"), images_of(), [0], methods="ablation_cam")


def test_what_cannot_be_batched_is_ablated_in_a_loop():
    A = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def plain(a: Tensor) -> Tensor:
        return (a * torch.tensor([1.0, 2.0, -1.0])[:, None, None]).mean((1, 2, 3))[None]

    def looks(a: Tensor) -> Tensor:  # reads a value, which a batched tensor does not have
        return plain(a) if a.sum().item() >= 0 else -plain(a)

    torch.testing.assert_close(ablation_cam(A, looks), ablation_cam(A, plain))

    def wrong(a: Tensor) -> Tensor:
        raise RuntimeError("a fault of the caller's")

    with pytest.raises(RuntimeError, match="fault of the caller's"):
        ablation_cam(A, wrong)


def test_ablation_cam_needs_no_gradient_of_the_target():
    def rounded(output: Tensor) -> Tensor:
        return (output[:, 0] * 8).detach().round()

    found = explain(
        seeded(Plain), images_of(), rounded, methods="ablation_cam,occlusion", occlusion_options=OcclusionOptions(4, 4)
    )
    assert found.ablation_cam.shape == (1, 2, 6, 6)


def squared(A: Tensor, gradient: Tensor) -> Tensor:
    return (gradient * A).sum(2).square()


def test_a_function_of_ones_own_is_a_method(images, monkeypatch):
    net = seeded(Plain).double()
    expected = explain(net, images, [0, 3], methods=lambda A, g: (g * A).sum(2)).maps["<lambda>"].square()
    by_hand = explain(net, images, [0, 3], methods=["gradcam", squared])
    assert list(by_hand.maps) == by_hand.provenance["methods"] == ["gradcam", "squared"]
    torch.testing.assert_close(by_hand.squared, expected)
    monkeypatch.setitem(VARIANTS, "squared", squared)
    torch.testing.assert_close(explain(net, images, [0, 3], methods="gradcam,squared").squared, expected)


def test_what_ones_own_function_gives_is_checked(images):
    net = seeded(Plain).double()
    with pytest.raises(MethodError, match=r"'bad' gave a map of shape \(1, 2, 6, 8, 8\); .* gives \(T, B, h, w\)"):

        def bad(A, gradient):
            return gradient * A

        explain(net, images, 0, methods=bad)
    with pytest.raises(MethodError, match="two methods are called 'squared'"):
        explain(net, images, 0, methods=[squared, squared])


def test_every_method_has_a_name_for_pictures_and_help():
    assert set(METHOD_NAMES) == set(METHODS)


def test_half_precision_is_pooled_in_float32():
    class Faint(nn.Module):  # gradients of 1e-6 times maps of 1e-2: less than float16 can tell from nothing
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return (torch.relu(self.conv(images)) * 1e-4).flatten(2).sum(2) * 1e-2

    network = seeded(Faint)
    for parameter in network.parameters():
        parameter.data = parameter.abs().data * 0.02
    expected = explain(HookedModel(network, "conv"), images_of(), [0, 1], methods="gradcam,xgradcam,gradcam++")
    for dtype in (torch.float16, torch.bfloat16):
        found = explain(
            HookedModel(network.to(dtype), "conv"), images_of().to(dtype), [0, 1], methods="gradcam,xgradcam,gradcam++"
        )
        for name, maps in found.maps.items():
            assert maps.dtype == torch.float32 and maps.max() > 0
            torch.testing.assert_close(maps, expected.maps[name], rtol=0.1, atol=0)


def test_layers_of_a_sweep_and_their_maps(images):
    net = seeded(Plain).double()
    names = [layer.name for layer in sweep_layers(net, images, 3)]
    assert names == ["features.0", "features.2", "features.5"]
    sizes = [tuple(gradcam(net, images, 1, layer=name).shape[-2:]) for name in names]
    assert sizes == [(16, 16), (16, 16), (8, 8)]
    torch.testing.assert_close(gradcam(net, images, 1, layer="features.5"), gradcam(net, images, Index(1)))
