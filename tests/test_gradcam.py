"""The heart: formulas against slow float64 twins and literals, and models left as they were."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import LayerError, MethodError, UserError
from common.explainable import HookedModel, SplitModel
from common.gradcam import METHODS, explain, gradcam
from common.targets import Contrast, Index, Negated
from tests.nets import FrozenTrunk, Functional, Plain, Recurrent, Smooth, seeded


def twin(network: nn.Module, layer: str, images: Tensor, index: int) -> Tensor:
    """Grad-CAM the slow way: float64, one image and one target at a time, loops over channels."""
    network = copy.deepcopy(network).double().eval()
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    maps = []
    for image in images.double():
        kept: list[Tensor] = []
        handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        score = network(image[None])[0, index]
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[-1])
        K, h, w = kept[-1].shape[1:]
        total = torch.zeros(h, w, dtype=torch.float64)
        for k in range(K):
            alpha = sum(gradient[0, k, i, j] for i in range(h) for j in range(w)) / (h * w)
            total += alpha * kept[-1][0, k].detach()
        maps.append(total.clamp(min=0))
    return torch.stack(maps)


def images_of(batch: int = 2, seed: int = 1, side: int = 12) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("build", "layer"), [(Plain, "features.5"), (Plain, "features.2"), (Functional, "conv3"), (Recurrent, "conv")]
)
def test_maps_agree_with_a_float64_twin(build, layer) -> None:
    network = seeded(build)
    maps = gradcam(network, images_of(), [2, 0], layer=layer)
    expected = torch.stack([twin(network, layer, images_of(), index) for index in (2, 0)])
    assert maps.shape == expected.shape
    assert torch.allclose(maps.double(), expected, atol=1e-6)


def test_map_of_a_tiny_network_is_the_one_worked_out_by_hand() -> None:
    # A has two 2x2 channels, 2x and 6-x; the head is y = 3 * mean(A_0) - 1 * mean(A_1), so alpha = (3/4, -1/4)
    # and the map is ReLU(3/4 * 2x - 1/4 * (6 - x)) = ReLU(7x/4 - 3/2).
    network = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[2.0, 0, 0], [-1.0, 0, 0]])[:, :, None, None])
        network[0].bias.copy_(torch.tensor([0.0, 6.0]))
        network[4].weight.copy_(torch.tensor([[3.0, -1.0]]))
    x = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    images = torch.stack([x, torch.zeros(2, 2), torch.zeros(2, 2)])[None]
    assert gradcam(network, images, 0).tolist() == [[[[0.0, 0.25], [2.0, 5.5]]]]
    counter = explain(network, images, [0], methods=("counterfactual",)).counterfactual
    assert counter.tolist() == [[[[1.5, 0.0], [0.0, 0.0]]]]


def test_an_in_place_relu_behind_the_layer_does_not_change_the_map() -> None:
    network = seeded(Plain)
    apart = copy.deepcopy(network)
    apart.features[5].inplace = False
    expected = torch.stack([twin(apart, "features.4", images_of(), index) for index in (1, 3)])
    assert torch.allclose(gradcam(network, images_of(), [1, 3], layer="features.4").double(), expected, atol=1e-6)


def test_a_layer_that_runs_twice_is_explained_at_its_last_run() -> None:
    network = seeded(Functional)
    expected = torch.stack([twin(network, "act", images_of(), 3)])
    assert torch.allclose(gradcam(network, images_of(), [3], layer="act").double(), expected, atol=1e-6)


def test_cam_is_grad_cam_times_the_number_of_positions_where_the_head_is_pooling_and_linear() -> None:
    found = explain(seeded(Plain), images_of(), [0, 4], methods=("cam", "gradcam"))
    positions = found.cam.shape[-1] * found.cam.shape[-2]
    assert torch.allclose(found.cam.relu(), found.heatmaps * positions, atol=1e-5)
    assert (found.cam < 0).any()


def test_cam_uses_the_weights_of_the_linear_layer() -> None:
    network = seeded(Plain)
    found = explain(network, images_of(), [3], methods=("cam",)).cam
    A = HookedModel(network, "features.5").features(images_of())
    assert torch.allclose(found[0], (network.fc.weight[3][:, None, None] * A).sum(1), atol=1e-5)


def test_cam_refuses_a_head_with_a_hidden_layer() -> None:
    with pytest.raises(MethodError, match="average pooling and one linear layer"):
        explain(seeded(Functional), images_of(), [0], methods=("cam",))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(3), nn.AvgPool2d(5)])
def test_cam_refuses_a_linear_layer_over_several_positions(pool) -> None:
    def build() -> nn.Module:
        size = pool(torch.zeros(1, 8, 12, 12)).numel()
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(size, 5))

    with pytest.raises(MethodError, match="tells positions apart; use the method 'gradcam'"):
        explain(HookedModel(seeded(build), "1"), images_of(), [0], methods="cam")


def test_contrast_and_negation_are_the_gradients_of_what_they_say() -> None:
    network, images = seeded(Functional), images_of()
    explanation = explain(network, images, [Contrast(Index(1, "a"), Index(2, "b")), Negated(Index(1, "a"))])
    assert explanation.names == ("a rather than b", "not a")
    logits = network(images)
    assert torch.allclose(explanation.scores, torch.stack([logits[:, 1] - logits[:, 2], -logits[:, 1]]), atol=1e-6)
    counter = explain(network, images, [1], methods=("counterfactual",)).counterfactual
    assert torch.allclose(explanation.heatmaps[1], counter[0], atol=1e-7)
    weights = copy.deepcopy(network)
    with torch.no_grad():  # a network whose class 0 is the difference
        weights.out.weight[0] = network.out.weight[1] - network.out.weight[2]
    assert torch.allclose(gradcam(weights, images, 0)[0], explanation.heatmaps[0], atol=1e-6)


def test_gradient_agrees_with_finite_differences() -> None:
    network, images = seeded(Functional).double(), images_of(1).double()
    gradient = explain(network, images, [2], methods=("gradient",)).gradient[0, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        rise = (network(images + step * direction) - network(images - step * direction))[0, 2] / (2 * step)
        assert rise.item() == pytest.approx((gradient * direction[0]).sum().item(), rel=1e-5, abs=1e-8)


def test_guided_gradcam_is_the_upsampled_map_times_guided_backprop() -> None:
    found = explain(seeded(Plain), images_of(), [1], methods=("guided_gradcam", "guided", "gradcam"))
    up = F.interpolate(found.heatmaps[0][:, None], size=(12, 12), mode="bilinear", align_corners=False)
    assert torch.allclose(found.guided_gradcam[0], up * found.guided[0])
    assert list(found.maps) == ["guided_gradcam", "guided", "gradcam"]


def test_one_index_for_each_image() -> None:
    network, images = seeded(Plain), images_of(3)
    each = gradcam(network, images, [torch.tensor([2, 0, 4])])
    alone = [gradcam(network, images[i : i + 1], index)[0, 0] for i, index in enumerate((2, 0, 4))]
    assert torch.allclose(each[0], torch.stack(alone), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 4), order=st.permutations(range(4)), seed=st.integers(0, 1000))
def test_a_batch_equals_its_images_and_the_order_of_targets_does_not_matter(batch, order, seed) -> None:
    network, images = seeded(Functional, seed), images_of(batch, seed)
    together = gradcam(network, images, list(range(4)))
    assert torch.allclose(gradcam(network, images, list(order)), together[list(order)], atol=1e-6)
    singles = torch.cat([gradcam(network, image[None], list(range(4))) for image in images], dim=1)
    assert torch.allclose(singles, together, atol=1e-6)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(around) -> None:
    network = seeded(Functional)
    expected = explain(network, images_of(), [1], methods=("gradcam", "guided"))
    with around():
        found = explain(network, images_of(), [1], methods=("gradcam", "guided"))
        assert torch.is_grad_enabled() == (around is torch.enable_grad)
    assert torch.allclose(found.heatmaps.clone(), expected.heatmaps)
    assert torch.allclose(found.guided.clone(), expected.guided)


def test_frozen_parameters_and_train_mode_give_the_same_map() -> None:
    network = seeded(Functional)
    expected = gradcam(network, images_of(), 1)
    network.requires_grad_(False).train()
    assert torch.equal(gradcam(network, images_of(), 1), expected)
    assert network.training and network.drop.training


def test_a_trunk_that_turns_gradients_off_is_explained_all_the_same() -> None:
    network = seeded(FrozenTrunk)
    assert torch.allclose(gradcam(network, images_of(), 1, layer="conv").double()[0],
                          twin_without_no_grad(network), atol=1e-6)  # fmt: skip


def twin_without_no_grad(network: FrozenTrunk) -> Tensor:
    raw = F.conv2d(images_of().double(), network.conv.weight.double(), network.conv.bias.double(), padding=1)
    raw.requires_grad_()
    score = (network.fc.weight.double()[1] * raw.relu().mean((-2, -1))).sum()
    (gradient,) = torch.autograd.grad(score, raw)
    return (gradient.mean((-2, -1), keepdim=True) * raw).sum(1).relu().detach()


def test_many_targets_are_worked_off_within_the_memory_budget(monkeypatch) -> None:
    network, images = seeded(Functional), images_of()
    expected = gradcam(network, images, [0, 1, 2, 3])
    monkeypatch.setattr("common.formulas._GRADIENT_BUDGET", 1)
    assert torch.allclose(gradcam(network, images, [0, 1, 2, 3]), expected, atol=1e-7)


class Unbatchable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient.abs().max() >= 0) * 2  # reads a value: cannot be batched


def test_a_head_that_cannot_be_batched_falls_back_to_one_pass_for_each_target() -> None:
    class Odd(Plain):
        def forward(self, images):
            return self.fc(Unbatchable.apply(self.features(images).mean((-2, -1))))

    network = seeded(Odd)
    expected = torch.cat([gradcam(network, images_of(), [index]) for index in (0, 2)])
    assert torch.allclose(gradcam(network, images_of(), [0, 2]), expected, atol=1e-7)
    assert (expected > 0).any()


def snapshot(network: nn.Module) -> dict:
    return {
        "weights": {name: value.clone() for name, value in network.state_dict().items()},
        "modes": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()
        ],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "inplace": [getattr(module, "inplace", None) for module in network.modules()],
        "dropout": [module.dropout for module in network.modules() if isinstance(module, nn.LSTM)],
        "random": torch.get_rng_state().clone(),
    }


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("build", [Plain, Functional, Recurrent])
def test_the_model_is_bit_identical_afterwards(build) -> None:
    network = seeded(build)
    network(images_of()).sum().backward()  # so that there are gradients to leave alone
    network.train()
    next(network.children()).eval()
    next(network.parameters()).requires_grad_(False)
    before = snapshot(network)
    methods = tuple(method for method in METHODS if method != "cam")
    explain(network, images_of(side=48), [0, 1], methods=methods)
    assert same(snapshot(network), before)


def fails(output: Tensor) -> Tensor:
    raise RuntimeError("a target of the caller's that fails")


@pytest.mark.parametrize(
    ("targets", "layer", "methods"),
    [([fails], "features.5", ("gradcam",)), ([fails], "features.5", ("guided",)), ([0], "fc", ("gradcam",)),
     ([99], "features.5", ("gradcam",)), ([fails], "features.5", ("occlusion",))],
)  # fmt: skip
def test_the_model_is_bit_identical_after_a_failure(targets, layer, methods) -> None:
    network = seeded(Plain).train()
    before = snapshot(network)
    with pytest.raises((RuntimeError, UserError)):
        explain(HookedModel(network, layer), images_of(side=48), targets, methods=methods)
    assert same(snapshot(network), before)


def test_a_layer_without_a_feature_map_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(
        LayerError, match=r"'fc' gives a \(2, 5\) tensor.*features\.2 \(ReLU, 4x12x12\), features \(Sequential, 6x6x6\)"
    ):
        gradcam(seeded(Plain), images_of(), 0, layer="fc")
    with pytest.raises(LayerError, match="no layer 'featuers.5'; near it: features.5"):
        gradcam(seeded(Plain), images_of(), 0, layer="featuers.5")


@pytest.mark.parametrize(
    ("targets", "message"),
    [([5], "target 5 is out of range; the model has scores 0 to 4"), ([-1], "target -1 is out of range"),
     ([], "no targets"), (["cat"], "neither an index nor a callable"), ([True], "neither an index"),
     ([lambda output: output], r"gave scores of shape \(2, 5\)"),
     ([lambda output: output[:, 0] * float("nan")], "check the weights and the images for NaN"),
     ([lambda output: torch.zeros(2)], "does not depend on the explained layer"),
     ([torch.tensor([0, 9])], "one index from 0 to 4")],
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused(targets, message) -> None:
    with pytest.raises(UserError, match=message):
        gradcam(seeded(Plain), images_of(), targets)


def test_images_that_are_no_batch_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(3, 12, 12\) torch.float32; give a floating-point tensor \(B, 3, H, W\)"):
        gradcam(seeded(Plain), images_of()[0], 0)


def test_unknown_methods_are_refused_with_the_known_ones() -> None:
    with pytest.raises(MethodError, match="unknown method 'gradcamm'; known: gradcam, counterfactual"):
        explain(seeded(Plain), images_of(), [0], methods=("gradcamm",))


def test_guided_backprop_of_a_smooth_network_says_what_to_use_instead() -> None:
    with pytest.raises(MethodError, match="GELU.*'gradcam', 'gradient' or 'occlusion'"):
        explain(seeded(Smooth), images_of(), [0], methods=("guided",))
    assert gradcam(seeded(Smooth), images_of(), 0).shape == (1, 2, 10, 10)


class Seamed(SplitModel):
    """A model with a seam of its own and a query that scales its scores."""

    def __init__(self) -> None:
        self.network, self.layer, self.passes = seeded(Plain), "features", 0

    def features(self, images, query=None):
        self.passes += 1
        return self.network.features(images)

    def head(self, features, query=None):
        return self.network.fc(features.mean((-2, -1))) * query[:, None]


def test_a_seam_of_the_models_own_gives_the_same_maps_from_one_pass_of_the_trunk() -> None:
    model, images = Seamed(), images_of()
    query = torch.tensor([1.0, 3.0])
    maps = explain(model, images, [0, 1], query=query).heatmaps
    assert model.passes == 1
    assert torch.allclose(maps, gradcam(model.network, images, [0, 1]) * query[None, :, None, None], atol=1e-6)
    features = model.network.features(images).detach()
    again = explain(model, images, [0, 1], query=query, features=features)
    assert model.passes == 1 and torch.allclose(again.heatmaps, maps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("build", [Plain, Functional, Recurrent])
def test_cuda_gives_the_maps_of_the_cpu_and_leaves_them_there(build) -> None:
    network = seeded(build)
    expected = explain(network, images_of(), [1, 0], methods=("gradcam", "guided"))
    found = explain(network.cuda(), images_of().cuda(), [1, 0], methods=("gradcam", "guided"))
    assert found.heatmaps.is_cuda
    assert torch.allclose(found.heatmaps.cpu(), expected.heatmaps, atol=1e-5)
    assert torch.allclose(found.guided.cpu(), expected.guided, atol=1e-5)


def test_importance_is_the_mean_gradient_of_each_target() -> None:
    network, images = seeded(Plain), images_of(side=48)
    found = explain(HookedModel(network, "features.5"), images, [0, 1], methods=("importance", "gradcam"))
    A, output = HookedModel(network, "features.5").split(images)
    with torch.enable_grad():
        twin = torch.stack([torch.autograd.grad(output[:, c].sum(), A, retain_graph=True)[0] for c in (0, 1)])
    torch.testing.assert_close(found.importance, twin.mean((-2, -1)))
    torch.testing.assert_close(found.heatmaps, torch.einsum("tbk,bkhw->tbhw", found.importance, A.detach()).relu())


@pytest.mark.parametrize(
    "methods", ["gradcam,guided-gradcam", "gradcam, guided_gradcam,gradcam", ["gradcam", "guided-gradcam"]]
)
def test_methods_are_a_string_or_a_list_and_a_hyphen_is_an_underscore(methods) -> None:
    found = explain(seeded(Plain), images_of(), [1], methods=methods)
    assert tuple(found.maps) == ("gradcam", "guided_gradcam")
    assert found.provenance["methods"] == ["gradcam", "guided_gradcam"]


def test_grad_cam_shares_its_backward_pass_with_the_methods_beside_it(monkeypatch):
    from common import formulas

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images, passes, own = torch.rand(2, 3, 8, 8), [], formulas.gradients
    monkeypatch.setattr(formulas, "gradients", lambda *given: passes.append(given) or own(*given))
    found = explain(network, images, [0, 2], methods="gradcam,hirescam,layercam,counterfactual")
    assert len(passes) == 1
    torch.testing.assert_close(found.heatmaps, gradcam(network, images, [0, 2]))
