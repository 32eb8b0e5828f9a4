"""Do maps depend on what the network has learnt? Its layers are randomised one after the other, the last first.

Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018). T targets, B images, S stages.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.metrics.faithfulness import rank_correlation


def trainable_layers(network: nn.Module) -> list[str]:
    """Names of the modules with weights of their own, those next to the output first (as they were defined)."""
    modules = dict(network.named_modules())
    return [name for name in reversed(modules) if name and any(True for _ in modules[name].parameters(False))]


@contextlib.contextmanager
def randomised(network: nn.Module, layers: Sequence[str], rule: str = "redraw", seed: int = 0) -> Iterator[None]:
    """The named layers with random weights inside the block; the learnt ones are back after it, come what may.

    `rule` 'redraw' draws weights as the layer's own `reset_parameters` does (and forgets what a norm has
    counted); 'shuffle' permutes each tensor's values, which keeps their scale. The caller's random state is
    left alone. Raises `UserError` for a layer that does not exist and a rule that is not known.
    """
    modules = dict(network.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise UserError(f"no layer '{unknown[0]}' to randomise; layers with weights: {_some(network)}")
    if rule not in RULES:
        raise UserError(f"no rule '{rule}' to randomise by; known: {', '.join(RULES)}")
    kept = {key: value.detach().clone() for key, value in network.state_dict(keep_vars=True).items()}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for name in layers:
                RULES[rule](modules[name])
        yield
    finally:
        with torch.no_grad():
            for key, value in network.state_dict(keep_vars=True).items():
                value.copy_(kept[key])


def _redraw(module: nn.Module) -> None:
    getattr(module, "reset_parameters", partial(_shuffle, module))()


def _shuffle(module: nn.Module) -> None:
    for tensor in module.parameters(recurse=False):
        order = torch.randperm(tensor.numel()).to(tensor.device)
        tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))


RULES: dict[str, Callable[[nn.Module], None]] = {"redraw": _redraw, "shuffle": _shuffle}


def stages(layers: Sequence[str], count: int) -> list[list[str]]:
    """`count` growing sets of layers, evenly spaced: the first holds one layer, the last all of them."""
    if not layers:
        raise UserError("the network has no layer with weights; there is nothing to randomise")
    count = max(1, min(count, len(layers)))
    sizes = torch.linspace(1, len(layers), count).round().int().tolist()
    return [list(layers[:size]) for size in sizes]


def cascade(
    network: nn.Module, maps: Callable[[], Tensor], sets: Sequence[Sequence[str]], rule: str = "redraw", seed: int = 0
) -> Tensor:
    """Rank correlation (S, T) of the maps before and after each set of layers was randomised.

    `maps()` gives (T, h, w) of `network` as it is at that moment. NaN where a map is the same everywhere, as
    happens when random weights silence a network.
    """
    before = maps()
    found = []
    for layers in sets:
        with randomised(network, layers, rule, seed):
            after = maps()
        silenced = after.flatten(1).amax(1) == after.flatten(1).amin(1)
        found.append(rank_correlation(after, before).masked_fill(silenced, math.nan))
    return torch.stack(found) if found else torch.zeros(0, len(before), dtype=torch.float64)


def _some(network: nn.Module) -> str:
    names = trainable_layers(network)
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
