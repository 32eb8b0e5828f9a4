"""What is left as it was found: modes, statistics, random states; also where several threads explain one model."""

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from common import state
from common.explainable import HookedModel
from common.gradcam import gradcam
from common.state import untouched
from tests.nets import Plain, seeded
from tests.test_gradcam import images_of

THREADS, CALLS = 4, 12


def in_threads(call) -> list:
    """What `call(i)` gave for i in range(CALLS), several threads at work at once."""
    together = threading.Barrier(THREADS)

    def work(first: int) -> list:
        together.wait()
        return [(i, call(i)) for i in range(first, CALLS, THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(pair for pairs in pool.map(work, range(THREADS)) for pair in pairs)
    return [found[i] for i in range(CALLS)]


@pytest.mark.parametrize("training", [True, False])
def test_threads_explain_one_model_as_one_thread_does(training: bool) -> None:
    network = seeded(Plain)
    images = [images_of(2, seed, side=48) for seed in range(CALLS)]
    expected = [gradcam(network, one, [0, 3], layer="features.5") for one in images]
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = in_threads(lambda i: gradcam(network, images[i], [0, 3], layer="features.5"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(module.training == training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_split_in_one_thread_leaves_the_plain_calls_of_others_alone() -> None:
    network = seeded(Plain)
    images = [images_of(2, seed, side=48) for seed in range(CALLS)]
    with torch.no_grad():
        scores = [network(one) for one in images]
    split = HookedModel(network, "features.5")

    def call(i: int) -> torch.Tensor:
        if i % THREADS == 0:  # one thread explains
            with untouched(network):
                return split.split(images[i])[1].detach()
        with torch.no_grad():
            output = network(images[i])
        assert not output.requires_grad
        return output

    for one, other in zip(in_threads(call), scores, strict=True):
        torch.testing.assert_close(one, other)


def test_the_lock_of_a_model_may_be_taken_again_and_goes_with_the_model() -> None:
    network = seeded(Plain)
    with untouched(network), untouched(network):
        assert not network.training
    known = len(state._GUARDS)
    del network
    gc.collect()
    assert len(state._GUARDS) < known


class Rolls(nn.Module):
    """Draws random numbers of all kinds in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, images):
        return self.net(images) * (1 + 0 * (random.random() + np.random.rand() + float(torch.rand(()))))


def test_random_states_are_as_before() -> None:
    network = seeded(Rolls)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    gradcam(network, images_of(), 0)
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_block_inside_another_lifts_no_grad_and_leaves_the_rest_to_the_outer_one() -> None:
    network = seeded(Plain).train()
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    with untouched(network), torch.no_grad():
        with untouched(network):
            assert torch.is_grad_enabled() and not network.training
            torch.rand(3)
        assert not torch.is_grad_enabled() and not network.training
    assert network.training and torch.equal(torch.rand(1), first)
    with pytest.raises(KeyError), untouched(network), untouched(network):
        raise KeyError
    with untouched(network):
        assert not network.training
    assert network.training
