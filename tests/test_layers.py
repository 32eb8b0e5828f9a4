"""Which layers have a feature map, and which is explained when none is named."""

import pytest
import torch
import torchvision
from torch import nn

from common.errors import LayerError
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
    with pytest.raises(LayerError, match="9 patch tokens do not fill a 2x4 grid|8 patch tokens do not fill"):
        gradcam(seeded(Tokens), torch.rand(1, 3, 8, 16), [1], layer="norm", grid=TokenGrid(prefix=1))
