"""Randomised weights come back bit for bit; curves tell a map that depends on them from one that does not."""

import math

import pytest
import torch
from torch import nn

from common.checks.randomisation import cascade, randomised, stages, trainable_layers
from common.errors import UserError
from common.gradcam import gradcam
from common.metrics.faithfulness import rank_correlation
from tests.nets import Plain, seeded


@pytest.fixture
def net():
    found = seeded(Plain)
    with torch.no_grad():  # a norm that has counted
        found.features[1].running_mean.normal_(generator=torch.Generator().manual_seed(0))
        found.features[1].num_batches_tracked.add_(7)
    return found


@pytest.fixture
def images():
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rule", ["redraw", "shuffle"])
@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_back_after_success_and_failure(net, rule, fails):
    before, random = state(net), torch.random.get_rng_state()
    parameters = dict(net.named_parameters())
    try:
        with randomised(net, ["fc", "features.1", "features.0"], rule):
            assert not torch.equal(before["fc.weight"], net.fc.weight)
            assert not same(before, state(net))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert same(before, state(net))
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(parameters[name] is value and value.grad is None for name, value in net.named_parameters())


def test_only_the_named_layers_change(net):
    before = state(net)
    with randomised(net, ["fc"]):
        changed = [name for name, value in net.state_dict().items() if not torch.equal(before[name], value)]
    assert changed == ["fc.weight", "fc.bias"]


def test_shuffling_keeps_the_values_and_redrawing_forgets_a_norms_counts(net):
    values = net.fc.weight.flatten().sort().values
    with randomised(net, ["fc"], "shuffle"):
        assert torch.equal(net.fc.weight.flatten().sort().values, values)
    with randomised(net, ["features.1"], "redraw"):
        assert net.features[1].num_batches_tracked == 0 and net.features[1].running_mean.abs().max() == 0


def test_one_seed_gives_one_draw(net):
    with randomised(net, ["fc"], seed=3):
        first = net.fc.weight.clone()
    with randomised(net, ["fc"], seed=3):
        assert torch.equal(first, net.fc.weight)
    with randomised(net, ["fc"], seed=4):
        assert not torch.equal(first, net.fc.weight)


def test_tied_weights_come_back(images):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    before = state(net)
    with randomised(net, ["1"]):
        assert torch.equal(net[0].weight, net[1].weight)
    assert same(before, state(net))


def test_layers_go_from_the_output_to_the_input(net):
    assert trainable_layers(net) == ["fc", "features.4", "features.1", "features.0"]
    assert stages(trainable_layers(net), 2) == [["fc"], ["fc", "features.4", "features.1", "features.0"]]
    assert [len(layers) for layers in stages(list("abcdefg"), 4)] == [1, 3, 5, 7]
    assert stages(["a"], 5) == [["a"]]


def test_a_curve_is_the_correlation_of_each_stage_with_the_start(net, images):
    sets = stages(trainable_layers(net), 4)
    found = cascade(net, lambda: gradcam(net, images, [0, 1])[:, 0], sets, "shuffle", seed=5)
    assert found.shape == (4, 2)
    start = gradcam(net, images, [0, 1])[:, 0]
    for row, layers in zip(found, sets, strict=True):
        with randomised(net, layers, "shuffle", 5):
            now = gradcam(net, images, [0, 1])[:, 0]
        assert torch.equal(torch.nan_to_num(row, 9), torch.nan_to_num(rank_correlation(now, start), 9))


def test_a_map_of_the_image_alone_stays_and_a_silenced_one_is_undefined(net, images):
    sets = stages(trainable_layers(net), 3)
    assert cascade(net, lambda: images.mean(1), sets).flatten().tolist() == pytest.approx([1.0] * 3)
    calls = iter([images.mean(1), *[torch.zeros(1, 12, 12)] * 3])
    assert all(math.isnan(v) for v in cascade(net, lambda: next(calls), sets).flatten().tolist())


def test_what_is_not_there_is_refused(net):
    with pytest.raises(UserError, match="no layer 'head'.*fc"), randomised(net, ["head"]):
        pass
    with pytest.raises(UserError, match="no rule 'zero'.*redraw, shuffle"), randomised(net, ["fc"], "zero"):
        pass
    with pytest.raises(UserError, match="no layer with weights"):
        stages([], 3)
