"""Agreement with captum, pytorch-grad-cam and torch-cam where these are right, and proof where they are not."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.explainable import HookedModel
from common.gradcam import explain, gradcam
from common.methods.variants import VARIANTS
from common.targets import Finer
from tests.nets import Functional, Plain, seeded
from tests.test_gradcam import images_of

captum = pytest.importorskip("captum.attr", reason="captum is not installed")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")


def apart(network: nn.Module) -> nn.Module:
    """A copy without in-place ReLUs, which some peers cannot take behind or at their layer."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return copied


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each map to 0..1, as peers return theirs."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + 1e-12)


@pytest.mark.parametrize(("build", "layer"), [(Plain, "features.5"), (Functional, "conv3")])
def test_grad_cam_agrees_with_captum(build, layer) -> None:
    network = seeded(build)
    peer_network = apart(network)
    peer = captum.LayerGradCam(peer_network, peer_network.get_submodule(layer))
    for index in (0, 3):
        theirs = peer.attribute(images_of(), target=index, relu_attributions=True)[:, 0]
        assert torch.allclose(gradcam(network, images_of(), index, layer=layer)[0], theirs, atol=1e-6)


def test_grad_cam_agrees_with_pytorch_grad_cam() -> None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = seeded(Plain)
    peer_network = apart(network)
    with pytorch_grad_cam.GradCAM(peer_network, [peer_network.features[5]]) as peer:
        theirs = torch.from_numpy(peer(images_of(), [ClassifierOutputTarget(2)] * 2))
    ours = F.interpolate(
        gradcam(network, images_of(), 2, layer="features.5")[0][:, None], size=(12, 12), mode="bilinear"
    )
    # Theirs is resized by OpenCV after scaling: compare where the maps peak and how they vary.
    correlation = torch.corrcoef(torch.stack([theirs.flatten(), scaled(ours[:, 0]).flatten()]))[0, 1]
    assert correlation > 0.99


def test_grad_cam_agrees_with_torchcam() -> None:
    network = seeded(Plain)
    with torchcam.GradCAM(apart(network), "features.5") as peer:
        scores = peer.model(images_of())
        theirs = peer([1, 1], scores)[0]
    assert torch.allclose(scaled(gradcam(network, images_of(), 1)[0]), theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "peer"),
    [("hirescam", "HiResCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM"),
     ("gradcam_plus_plus", "GradCAMPlusPlus")],
)  # fmt: skip
@pytest.mark.parametrize(("build", "layer"), [(Plain, "features.5"), (Functional, "conv3")])
def test_variants_agree_with_pytorch_grad_cam(build, layer, name, peer) -> None:
    network = seeded(build)
    split = HookedModel(network, layer)
    A, output = split.split(images_of(side=16))
    g = torch.autograd.grad(output[:, 1].sum(), A)[0]
    # Its own scaling and resizing aside: the map, rectified as its `compute_cam_per_layer` does. Where A has no
    # ReLU behind it, sums of A may be small, and the small number it adds to them tells: not compared there.
    if name in ("xgradcam", "gradcam_plus_plus"):
        A = A.relu()
    with getattr(pytorch_grad_cam, peer)(network, [network.get_submodule(layer)]) as cam:
        theirs = cam.get_cam_image(None, None, None, A.detach().numpy(), g.numpy() * 1e3, False).clip(min=0)
    ours = VARIANTS[name](A.detach(), g[None] * 1e3)[0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-4)
    assert ours.max() > 0


@pytest.mark.parametrize(
    ("name", "peer"), [("gradcam_plus_plus", "GradCAMpp"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")]
)
def test_variants_agree_with_torchcam(name, peer) -> None:
    network = seeded(Plain)
    with getattr(torchcam, peer)(apart(network), "features.5") as cam:
        scores = cam.model(images_of())
        theirs = cam([1, 1], scores)[0]
    ours = scaled(explain(network, images_of(), 1, methods=name).maps[name][0])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)  # small numbers that they add to quotients


def test_ablation_cam_agrees_with_pytorch_grad_cam() -> None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = apart(seeded(Plain))
    A, target = network.features(images_of(1)).detach(), ClassifierOutputTarget(2)
    with pytorch_grad_cam.AblationCAM(network, [network.features[5]]) as cam:
        cam.activations_and_grads(images_of(1))
        weights = cam.get_cam_weights(images_of(1), network.features[5], [target], A.numpy(), None)
    theirs = (torch.as_tensor(weights)[..., None, None] * A).sum(1) * network(images_of(1))[0, 2].abs().detach()
    ours = explain(network, images_of(1), 2, methods="ablation_cam").ablation_cam[0]
    sign = network(images_of(1))[0, 2].sign().detach()  # they divide by the score, and with it by its sign
    torch.testing.assert_close(ours, (theirs * sign).relu().to(ours), rtol=1e-4, atol=1e-6)


def test_integrated_gradients_agree_with_captum() -> None:
    network = apart(seeded(Functional))
    peer = captum.LayerIntegratedGradients(network, network.conv3)
    images = images_of()
    # Theirs go from the map of one input to that of another: to come from an empty map, conv3 has no bias here.
    network.conv3.bias.data.zero_()
    network.conv1.bias.data.zero_()
    network.conv2.bias.data.zero_()
    theirs = peer.attribute(images, images * 0, target=2, n_steps=32, method="riemann_middle").sum(1)
    ours = explain(HookedModel(network, "conv3"), images, 2, methods="integrated_gradients").integrated_gradients
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-6)


def test_finer_cams_target_is_that_of_pytorch_grad_cam() -> None:
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    output = torch.randn(3, 9, generator=torch.Generator().manual_seed(4), requires_grad=True)
    for target, others in ((Finer(2, (5, 7), strength=0.6), [[5, 7]] * 3), (Finer(2, strength=0.6), None)):
        if others is None:  # those whose logits are nearest
            others = [(row - row[2]).abs().argsort()[1:4].tolist() for row in output]
        theirs = torch.stack([FinerWeightedTarget(2, o, 0.6)(row) for o, row in zip(others, output, strict=True)])
        torch.testing.assert_close(target(output), theirs, rtol=1e-5, atol=1e-6)
        ours, peer = (torch.autograd.grad(s.sum(), output, retain_graph=True)[0] for s in (target(output), theirs))
        torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-6)


def test_guided_backprop_and_deconvolution_agree_with_captum_on_relus() -> None:
    network = apart(seeded(Plain))
    found = explain(network, images_of(), [2], methods=("guided", "deconv"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided = captum.GuidedBackprop(network).attribute(images_of(), target=2)
        deconv = captum.Deconvolution(network).attribute(images_of(), target=2)
    assert torch.allclose(found.guided[0], guided, atol=1e-7)
    assert torch.allclose(found.deconv[0], deconv, atol=1e-7)


def test_occlusion_agrees_with_captum() -> None:
    from common.methods.occlusion import OcclusionOptions

    network = apart(seeded(Plain))
    options = OcclusionOptions(window=4, stride=4)
    ours = explain(network, images_of(), [1], methods=("occlusion",), occlusion_options=options).occlusion[0]
    theirs = captum.Occlusion(network).attribute(
        images_of(), target=1, sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4), baselines=0
    )
    assert torch.allclose(ours, theirs[:, 0, ::4, ::4], atol=1e-6)


def test_captum_guides_no_relu6_and_we_do() -> None:
    # captum looks for `nn.ReLU` modules: a network of ReLU6 gets its plain gradient under the name of another.
    layers = (nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), *layers))
    network[-1].weight.data = torch.tensor([[1.0, -1.0, 1.0, -1.0]] * 2)
    found = explain(network, images_of(), [0], methods=("guided", "gradient"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.GuidedBackprop(network).attribute(images_of(), target=0)
    assert torch.allclose(theirs, found.gradient[0], atol=1e-7)
    assert not torch.allclose(theirs, found.guided[0], atol=1e-5)


def test_captum_misses_functional_relus_and_we_do_not() -> None:
    network = apart(seeded(Functional))
    found = explain(network, images_of(side=16), [2], methods=("guided",)).guided[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = captum.GuidedBackprop(network).attribute(images_of(side=16), target=2)
        except RuntimeError:
            return  # a ReLU module used twice is an error there: no wrong values at least
    assert not torch.allclose(theirs, found, atol=1e-6)
