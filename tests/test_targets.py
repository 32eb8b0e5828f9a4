"""Targets: what a caller may write, what a target may give, and what is told where it does not fit."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classification.targets import TopLogit
from common.errors import UserError
from common.explainable import HookedModel
from common.gradcam import explain, gradcam
from common.methods.occlusion import OcclusionOptions
from common.targets import Contrast, Finer, Index, Negated, as_targets, decided, logits
from tests.nets import Plain, seeded
from tests.test_gradcam import images_of

SCORES = torch.tensor([[1.0, 5.0, 2.0, 4.0], [3.0, 0.0, 8.0, 1.0]])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (2, ["2"]), (np.int64(2), ["2"]), (torch.tensor(2), ["2"]), (np.array(2), ["2"]), ([2, 0], ["2", "0"]),
        ((2, Index(1)), ["2", "1"]), (range(2), ["0", "1"]), (iter([2, 0]), ["2", "0"]), ({3}, ["3"]),
        (np.array([2, 0]), ["one index for each image"]),
        ([torch.tensor([2, 0]), 1], ["one index for each image", "1"]),
        (Contrast(1, np.int64(2)), ["1 rather than 2"]), (Negated(3), ["not 3"]),
        (Contrast(torch.tensor([1, 2]), 0), ["one index for each image rather than 0"]),
    ],
)  # fmt: skip
def test_targets_as_a_caller_may_write_them(given, names) -> None:
    from common.targets import target_name

    targets = as_targets(given)
    assert [target_name(target) for target in targets] == names
    for target in targets:
        assert target(SCORES).shape == (2,)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_indices_of_every_whole_kind_are_indices(kind) -> None:
    (target,) = as_targets(torch.tensor([1, 2], dtype=kind))
    assert target(SCORES).tolist() == [5.0, 8.0]
    (target,) = as_targets(np.array([1, 2], dtype=str(kind).removeprefix("torch.")))
    assert target(SCORES).tolist() == [5.0, 8.0]


@pytest.mark.parametrize(
    "given",
    [torch.tensor(2.5), torch.tensor([2.0, 0.0]), [torch.tensor(2.5)], np.array([1.5, 2.0]), np.float32(2.0), 2.5,
     torch.tensor(True), torch.tensor([True, False]), np.array([True, False]), np.bool_(True), torch.zeros(2, 2).long(),
     "cat", ["cat"], None, [None], [[1, 2]], np.array(["cat"]), 2j, torch.tensor(2j), Ellipsis],
)  # fmt: skip
def test_what_is_no_index_and_no_callable_is_refused(given) -> None:
    with pytest.raises(UserError, match="neither an index nor a callable|indices are whole numbers"):
        as_targets(given)


def test_parts_of_a_contrast_are_checked_when_it_is_made() -> None:
    with pytest.raises(UserError, match="'cat' is neither an index"):
        Contrast(1, "cat")
    with pytest.raises(UserError, match="target 9 is out of range"):
        gradcam(seeded(Plain), images_of(), Contrast(1, 9))


def gives_none(output):
    return None


def gives_number(output):
    return 3


def gives_list(output):
    return output[:, 0].tolist()


def gives_complex(output):
    return torch.complex(output[:, 0], output[:, 1])


def gives_class(output):
    return output.argmax(1)


def gives_table(output):
    return output


@pytest.mark.parametrize("methods", ["gradcam", "gradient", "occlusion"])
@pytest.mark.parametrize("target", [gives_none, gives_number, gives_list, gives_complex, gives_class, gives_table])
def test_what_is_no_score_of_each_image_is_refused(target, methods) -> None:
    with pytest.raises(
        UserError, match=rf"target '{target.__name__}' gave .*; a target gives one real number for each"
    ):
        explain(seeded(Plain), images_of(), [0, target], methods=methods, occlusion_options=OcclusionOptions(4, 4))


def constant(output: Tensor) -> Tensor:
    return torch.ones(len(output))


@pytest.mark.parametrize("targets", [constant, [0, constant], [constant, 0, 1]])
@pytest.mark.parametrize("methods", ["gradcam", "guided", "hirescam", "occlusion,gradcam"])
def test_a_constant_target_is_refused_alone_and_among_others(targets, methods) -> None:
    with pytest.raises(UserError, match="target 'constant' does not depend on the explained layer"):
        explain(seeded(Plain), images_of(), targets, methods=methods, occlusion_options=OcclusionOptions(4, 4))


def test_occlusion_asks_for_no_gradient() -> None:
    found = explain(
        seeded(Plain), images_of(), [0, constant], methods="occlusion", occlusion_options=OcclusionOptions(4, 4)
    )
    assert found.occlusion[0].abs().max() > 0 and not found.occlusion[1].any()


@pytest.mark.parametrize("wrap", [lambda x: {"logits": x}, lambda x: {"loss": x.sum(), "logits": x}, lambda x: (x, 1)])
def test_logits_in_a_dict_or_a_tuple_are_found(wrap) -> None:
    class Wrapped(Plain):
        def forward(self, images):
            return wrap(super().forward(images))

    assert torch.equal(logits(wrap(SCORES)), SCORES)
    plain, wrapped = seeded(Plain), seeded(Wrapped)
    torch.testing.assert_close(
        gradcam(wrapped, images_of(), [1, 2], layer="features.5"),
        gradcam(plain, images_of(), [1, 2], layer="features.5"),
    )


def test_several_indices_are_read_off_as_one_by_one() -> None:
    several = Index.together([Index(1), Index(3)], SCORES)
    assert several.tolist() == [[5.0, 0.0], [4.0, 1.0]]
    with pytest.raises(UserError, match="target 4 is out of range"):
        Index.together([Index(1), Index(4)], SCORES)


def test_finer_compares_with_the_nearest_of_each_image_or_with_those_named() -> None:
    # Nearest to class 3: in the first image 1 (5) and 2 (2), in the second 1 (0) and 0 (3).
    e = np.exp
    nearest = [4 - (5 * e(5) + 2 * e(2)) / (e(5) + e(2)), 1 - (3 * e(3)) / (e(3) + 1)]
    np.testing.assert_allclose(Finer(3, count=2)(SCORES), nearest, rtol=1e-6)
    named = [4 - 0.6 * 2.0, 1 - 0.6 * 8.0]
    np.testing.assert_allclose(Finer(3, others=(2,), strength=0.6)(SCORES), named, rtol=1e-6)
    assert Finer(3, others=(2,)).name == "3 rather than 2" and Finer(3).name == "3 rather than the 3 nearest"
    assert torch.equal(Finer(3, count=9)(SCORES), Finer(3, count=3)(SCORES))
    with pytest.raises(UserError, match="target 7 is out of range"):
        Finer(7)(SCORES)


class Brightest(nn.Module):
    """A logit for each corner, the brightness there: whatever is covered is not the brightest any more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(self.conv(images), 2).flatten(1)


@pytest.mark.parametrize(
    "target", [TopLogit(), Negated(TopLogit()), Contrast(TopLogit(), 1), Finer(0, count=1), Finer(3, count=2)]
)
@pytest.mark.parametrize("methods", ["occlusion", "ablation_cam", "integrated_gradients", "guided,occlusion"])
def test_what_a_target_is_about_is_decided_by_the_image_as_it_is(target, methods) -> None:
    network, images, options = seeded(Brightest), images_of(2), OcclusionOptions(6, 6, fill=-9.0)
    split = HookedModel(network, "conv")
    fixed = decided(target, network(images))
    assert decided(Index(2), None).index == 2  # one that has nothing to decide stays as it is
    found = explain(split, images, target, methods=methods, occlusion_options=options)
    expected = explain(split, images, fixed, methods=methods, occlusion_options=options)
    for method, maps in found.maps.items():
        torch.testing.assert_close(maps, expected.maps[method])
    anew = explain(split, images, lambda output: target(output), methods=methods, occlusion_options=options)
    if "occlusion" in methods:
        assert not torch.allclose(anew.occlusion, found.occlusion)  # asked anew of every covered image


def test_with_one_other_and_full_strength_finer_is_a_contrast() -> None:
    network, images = seeded(Plain), images_of()
    torch.testing.assert_close(gradcam(network, images, Finer(2, (4,))), gradcam(network, images, Contrast(2, 4)))


def test_a_fault_in_the_callers_own_backward_pass_is_raised_and_not_worked_around() -> None:
    class Faulty(torch.autograd.Function):
        generate_vmap_rule = True
        calls = 0

        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            Faulty.calls += 1
            raise RuntimeError("a fault of the caller's")

    class Odd(Plain):
        def forward(self, images):
            return self.fc(Faulty.apply(self.features(images).mean((-2, -1))))

    with pytest.raises(RuntimeError, match="fault of the caller's"):
        gradcam(seeded(Odd), images_of(), [0, 1], layer="features.5")
    assert Faulty.calls == 1


class InPlace(nn.Module):
    """Normalises its input in place, as some users' networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, images: Tensor) -> Tensor:
        images.sub_(0.5).mul_(2.0)
        return self.net(images)


@pytest.mark.parametrize("methods", ["gradcam", "guided_gradcam,occlusion", "ablation_cam", "deconv_relu,gradient"])
@pytest.mark.parametrize("layer", [None, "net.features.5"])
def test_a_network_that_works_in_place_on_its_input_changes_nobodys_images(methods, layer) -> None:
    from common.gradcam import as_explainable

    network, plain, images = seeded(InPlace), seeded(Plain), images_of()
    before, options = images.clone(), OcclusionOptions(4, 4, fill=0.5)
    expected = explain(plain, (images - 0.5) * 2, [0, 1], methods=methods, occlusion_options=OcclusionOptions(4, 4))
    found = explain(as_explainable(network, images, layer), images, [0, 1], methods=methods, occlusion_options=options)
    assert torch.equal(images, before)
    for method, maps in expected.maps.items():
        scale = 2 if maps.dim() == 5 else 1  # gradients of the image, by the chain rule
        torch.testing.assert_close(found.maps[method], maps * scale, rtol=1e-4, atol=1e-6)
