"""Dilation in place of strides, against timm's own and on a literal network."""

import pytest
import timm
import torch
from torch import nn

from common.networks.dilate import dilated
from common.networks.trunk import feature_map
from tests.nets import seeded


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_maps_equal_those_of_timms_dilated_networks(name, stride):
    plain = seeded(lambda: timm.create_model(name), 1)
    theirs = timm.create_model(name, output_stride=stride).eval()
    theirs.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    ours = dilated(plain, None, torch.zeros(1, 3, 96, 96), stride)
    with torch.no_grad():
        before = feature_map(plain, None, images)
        found, expected = feature_map(ours, None, images), feature_map(theirs, None, images)
    assert before.shape[-1] == 3 and found.shape[-1] == 96 // stride
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_the_given_network_is_left_as_it_was():
    plain = seeded(lambda: timm.create_model("resnet18"))
    strides = [part.stride for part in plain.modules() if isinstance(part, nn.Conv2d)]
    dilated(plain, None, torch.zeros(1, 3, 64, 64), 8)
    assert strides == [part.stride for part in plain.modules() if isinstance(part, nn.Conv2d)]


def test_what_is_fine_enough_already_is_not_changed():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
    found = dilated(net, "2", torch.zeros(1, 3, 32, 32), 4)
    assert [part.stride for part in (found[0], found[2])] == [(2, 2), (2, 2)]
    found = dilated(net, "2", torch.zeros(1, 3, 32, 32), 2)
    assert [part.stride for part in (found[0], found[2])] == [(2, 2), (1, 1)] and found[2].dilation == (1, 1)


def test_poolings_keep_the_size_and_what_follows_is_spread():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2, 2), nn.Conv2d(4, 5, 3, 1, 1)))
    found = dilated(net, "2", torch.zeros(1, 3, 32, 32), 2)
    assert feature_map(found, "2", torch.zeros(1, 3, 32, 32)).shape == (1, 5, 16, 16)
    assert (found[2].dilation, found[2].padding) == ((2, 2), (2, 2))
