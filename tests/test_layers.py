"""Which layers have a feature map, and which is explained when none is named."""

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import GroupNorm1
from timm.models.metaformer import MetaFormer, Pooling
from timm.models.nest import Nest
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.errors import LayerError, UserError
from common.explainable import HookedModel, TokenGrid
from common.gradcam import gradcam
from common.layers import default_layer, layers
from tests.nets import Plain, seeded
from tests.test_gradcam import images_of

# The paper's networks and some newer ones: the last convolutional map after its activation, before pooling.
EXPECTED = {
    "alexnet": ("features.11", (13, 13)),
    "vgg11": ("features.19", (14, 14)),
    "resnet18": ("layer4", (7, 7)),
    "googlenet": ("inception5b", (7, 7)),
    "mobilenet_v3_small": ("features", (7, 7)),
    "convnext_tiny": ("features", (7, 7)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_default_is_the_last_convolutional_map_after_its_activation(name) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    network = seeded(lambda: torchvision.models.get_model(name, weights=None, **options))
    layer, size = EXPECTED[name]
    images = torch.zeros(1, 3, 224, 224)
    assert default_layer(network, images) == layer
    assert HookedModel(network, layer).features(images).shape[-2:] == size


def test_layers_lists_every_feature_map_with_its_shape() -> None:
    found = layers(seeded(Plain), images_of(2))
    assert [str(layer) for layer in found] == [
        "features.0 (Conv2d, 4x12x12)", "features.1 (BatchNorm2d, 4x12x12)", "features.2 (ReLU, 4x12x12)",
        "features.3 (MaxPool2d, 4x6x6)", "features.4 (Conv2d, 6x6x6)", "features.5 (ReLU, 6x6x6)",
        "features (Sequential, 6x6x6)",
    ]  # fmt: skip


def test_a_transformer_has_no_default_layer_and_the_error_says_what_to_name() -> None:
    network = torchvision.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=3).eval()
    with pytest.raises(LayerError, match="transformer.*'conv_proj'.*TokenGrid"):
        default_layer(network, torch.zeros(1, 3, 32, 32))


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(LayerError, match="no convolution with a feature map"):
        default_layer(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(1, 3, 4, 4))


class Tokens(nn.Module):
    """Patches as tokens behind a class token; the score reads all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return self.fc(self.norm(tokens).tanh().sum(1))


def test_tokens_are_put_back_on_their_grid() -> None:
    network, images = seeded(Tokens), torch.rand(2, 3, 8, 16)
    grid = TokenGrid(prefix=1, size=(2, 4))
    maps = gradcam(network, images, [1], layer="norm", grid=grid)
    kept = []
    network.norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    score = network(images)[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, kept[0])
    alpha = gradient[:, 1:].mean(1)
    expected = torch.einsum("bk,bnk->bn", alpha, kept[0][:, 1:]).relu().view(2, 2, 4)
    assert torch.allclose(maps[0], expected, atol=1e-6)
    assert (expected > 0).any()


def test_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    for grid, message in (
        (TokenGrid(prefix=0), "9 patch tokens do not fill a grid on 8x16 pixels"),
        (TokenGrid(prefix=1, size=(3, 3)), "8 patch tokens do not fill a 3x3"),
        (TokenGrid(layout="channels_last"), r"\(1, 9, 6\) tensor of 1 image\(s\) is not \(B, h, w, K\)"),
    ):
        with pytest.raises(LayerError, match=message):
            gradcam(seeded(Tokens), torch.rand(1, 3, 8, 16), [1], layer="norm", grid=grid)


@settings(max_examples=300, deadline=None)
@given(st.integers(4, 300), st.integers(4, 300), st.integers(1, 32), st.sampled_from([(1, 1), (2, 1), (1, 3)]))
def test_the_grid_of_equal_patches_follows_from_the_inputs_size(height, width, side, ratio) -> None:
    step = (side * ratio[0], side * ratio[1])
    h, w = height // step[0], width // step[1]  # what is left over is cut off
    if not h * w:
        return
    tokens = torch.arange(h * w, dtype=torch.float32).view(1, -1, 1)
    found = TokenGrid(patch=ratio).to_map(tokens, torch.empty(1, 3, height, width))
    assert torch.equal(found[0, 0], tokens.view(h, w))


class Cells(nn.Module):
    """A wide image's patches, as channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, stride=4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.GELU()
        self.block = nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 4))
        self.fc = nn.Linear(4, 3)

    def forward(self, images):
        x = self.act(self.norm(self.patches(images).permute(0, 2, 3, 1)))
        return self.fc((x + self.block(x)).mean((1, 2)))


@pytest.mark.parametrize("side", [32, 16])  # 8x16 and, with as many rows as channels, 4x8 cells
@pytest.mark.parametrize("layer", ["norm", "block.0", "block.1", "block"])
def test_channels_last_are_no_feature_map_but_can_be_read(layer: str, side: int) -> None:
    network, images = seeded(Cells), torch.rand(1, 3, side, 2 * side)
    assert [found.name for found in layers(network, images)] == ["patches"]
    with pytest.raises(LayerError, match=rf"'{layer}' gives .*\(B, h, w, K\), give its TokenGrid.*patches"):
        gradcam(network, images, 1, layer=layer)
    maps = gradcam(network, images, 1, layer=layer, grid=TokenGrid(layout="channels_last"))
    assert maps.shape == (1, 1, side // 4, side // 2)
    with pytest.raises(LayerError, match="tokens, as transformers do, behind its last convolution .'patches'"):
        default_layer(network, images)


class Windows(nn.Module):
    """Four windows of each image, as rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.inside = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 3)

    def forward(self, images):
        x = self.conv(images)
        parts = torch.cat([part for half in x.chunk(2, 2) for part in half.chunk(2, 3)])
        return self.fc(self.inside(parts).mean((2, 3)).view(4, len(images), -1).mean(0))


def test_windows_of_an_image_are_no_feature_map_of_it() -> None:
    network, images = seeded(Windows), torch.rand(2, 3, 8, 8)
    assert [found.name for found in layers(network, images)] == ["conv"]
    with pytest.raises(LayerError, match=r"'inside' gives a \(8, 6, 4, 4\) tensor"):
        gradcam(network, images, 1, layer="inside")


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "maxvit_t"])
def test_layers_of_torchvision_with_tokens_inside_are_all_maps(name: str) -> None:
    """Every layer on the list has its channels first: of a wide image, the map is as wide in proportion."""
    size = (224, 224) if name == "maxvit_t" else (64, 128)
    network = seeded(lambda: torchvision.models.get_model(name, weights=None))
    found = layers(network, torch.zeros(1, 3, *size))
    assert len(found) > 1
    for layer in found:
        K, h, w = layer.shape
        assert h * size[1] == w * size[0], str(layer)


def test_the_default_layer_follows_the_images_size_and_the_network() -> None:
    network = seeded(lambda: torchvision.models.resnet18(weights=None))
    assert default_layer(network, torch.zeros(1, 3, 32, 32)) == "layer3"
    assert default_layer(network, torch.zeros(1, 3, 224, 224)) == "layer4"
    network.layer4 = nn.Conv2d(256, 512, 1, stride=2)
    network.layer3 = nn.Sequential(network.layer3, nn.Conv2d(256, 256, 1))
    assert default_layer(network, torch.zeros(1, 3, 32, 32)) == "layer3"
    network.layer4, network.fc = nn.Identity(), nn.Linear(256, 3)
    assert default_layer(network, torch.zeros(1, 3, 224, 224)) == "layer4"


def pooling_named(name: str) -> nn.Module:
    if name == "nest":
        return Nest(64, num_levels=3, embed_dims=(8, 16, 24), num_heads=(1, 2, 4), depths=(1, 1, 1))
    if name == "poolformer":
        mixers = {"token_mixers": Pooling, "norm_layers": GroupNorm1}
        return MetaFormer(depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), mlp_act=nn.GELU, **mixers)
    return timm.create_model(name, layers=(1, 1, 1, 1), channels=(8, 8, 16, 24))


@pytest.mark.parametrize(
    ("name", "layer", "side"), [("nest", "levels", 4), ("poolformer", "stages", 2), ("seresnet18", "layer4", 2)]
)
def test_a_class_named_after_pooling_does_not_end_the_search(name: str, layer: str, side: int) -> None:
    network, images = seeded(lambda: pooling_named(name)), torch.rand(1, 3, 64, 64)
    assert default_layer(network, images) == layer
    assert HookedModel(network, layer).features(images).shape == (1, 24, side, side)


def test_a_layer_is_named_by_a_string() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for layer in (0, 3, ""):
        with pytest.raises(LayerError, match=r"no layer (0|3) \(int; layers are named by strings|no layer ''"):
            gradcam(network, images_of(), 0, layer=layer)


class Repeated(Plain):
    """Runs its last convolution once more where an image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, images):
        x = self.features(images)
        for _ in range(2 + int(images.mean() > 1)):
            x = self.again(x)
        return {"other": None, "logits": self.fc(x.mean((-2, -1)))}


def test_features_of_a_layer_that_runs_a_varying_number_of_times_are_of_its_last_run() -> None:
    network, images = seeded(Repeated), images_of()
    model = HookedModel(network, "again")
    for one in (images, images + 5, images):
        x = network.features(one)
        for _ in range(2 + int(one.mean() > 1)):
            x = network.again(x)
        assert torch.equal(model.features(one), x) and torch.equal(model.split(one)[0], x)


def test_outputs_that_are_dicts_are_read() -> None:
    network = seeded(Repeated)
    expected = gradcam(network, images_of(), [lambda output: output["logits"][:, 2]], layer="again")
    assert torch.equal(gradcam(network, images_of(), [2], layer="again"), expected)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.fc = InDict(), nn.Linear(6, 3)

        def forward(self, images):
            return self.fc(self.trunk(images)["map"].mean((-2, -1)))

    class InDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, images):
            return {"size": 3, "map": self.conv(images)}

    outer = seeded(Outer)
    assert torch.equal(
        gradcam(outer, images_of(), 1, layer="trunk"), gradcam(outer, images_of(), 1, layer="trunk.conv")
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_networks_whose_layers_cannot_be_watched_are_refused() -> None:
    network, images = seeded(Plain), images_of()
    inside = nn.Sequential(torch.jit.trace(network.features, images), nn.Flatten(), nn.LazyLinear(3)).eval()
    inside(images)
    compiled = torch.compile(network, backend="eager")
    compiled(images)
    inplace = seeded(Plain)
    inplace.compile(backend="eager")
    inplace(images)
    with torch.inference_mode():
        frozen = seeded(Plain)
    for closed, layer, message in (
        (torch.jit.trace(network, images), "features", "a scripted or traced module, whose layers"),
        (torch.jit.script(network), "features", "a scripted or traced module, whose layers"),
        (inside, "0.5", "part of a scripted or traced module; explain the module that it was made from"),
        (compiled, "_orig_mod.features", "OptimizedModule is a compiled module"),
        (inplace, "features", "Plain is a compiled module"),
        (frozen, "features", "made in inference_mode, so that it has no gradients; make or load it outside"),
    ):
        for named in (layer, None):
            if named is None and closed is inside:
                continue
            with pytest.raises(UserError, match=message):
                gradcam(closed, images, 1, layer=named)


class Checkpointed(Plain):
    """Its features are computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.reentrant = nn.Conv2d(3, 3, 1), reentrant

    def forward(self, images):
        x = checkpoint(self.features, self.stem(images), use_reentrant=self.reentrant)
        return self.fc(x.mean((-2, -1)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("layer", ["stem", "features.4"])
def test_checkpointed_networks_are_explained_or_refused(layer: str) -> None:
    network = seeded(lambda: Checkpointed(False))
    maps = gradcam(network, images_of(), [0, 1], layer=layer)
    network.reentrant = True
    for targets in (0, [0, 1]):
        with pytest.raises(UserError, match="use_reentrant=True. gives layers no gradients; set it to False"):
            gradcam(network, images_of(), targets, layer=layer)
    network.__class__ = type(
        "Unchecked", (Checkpointed,), {"forward": lambda self, x: Plain.forward(self, self.stem(x))}
    )
    assert torch.equal(gradcam(network, images_of(), [0, 1], layer=layer), maps) and (maps > 0).any()
