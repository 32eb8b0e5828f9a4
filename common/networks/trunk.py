"""A trunk: a network without its classifier, cut in a front that stays frozen and a tail that is trained."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.networks.loading import LoadedNetwork, load_network


def load_trunk(name: str, random_weights: bool = False) -> tuple[LoadedNetwork, str | None]:
    """The network `name` (see `common.networks.loading.load_network`) without its classifier, and its feature layer.

    The layer is None where the network's own `forward_features` ends at the map after the last activation.
    Raises `UserError` for a network without a feature map (tokens, for example).
    """
    network = load_network(name, random_weights=random_weights)
    module = network.module
    if hasattr(module, "forward_features") and hasattr(module, "reset_classifier"):
        module.reset_classifier(0)  # type: ignore[operator]
        layer = None
    else:
        layer = network.default_layer()
    if network.grid is not None:
        raise UserError(f"'{name}' has tokens, not a feature map; a trunk is a convolutional network")
    return network, layer


def channels_of(module: nn.Module, layer: str | None, blank: Tensor) -> tuple[int, int, int]:
    """(K, h, w) of the trunk's map for images of the size of `blank` (1,3,H,W)."""
    with torch.no_grad():
        maps = feature_map(module, layer, blank)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise UserError(
            "the trunk's last layer is no feature map (images, channels, height, width); choose another"
        )
    return tuple(maps.shape[1:])  # type: ignore[return-value]


def feature_map(module: nn.Module, layer: str | None, images: Tensor) -> Tensor:
    """The map after the last activation: (B,3,H,W) -> (B,K,h,w)."""
    if layer is None:
        return module.forward_features(images)  # type: ignore[operator]
    caught: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda m, inputs, output: caught.append(output)
    )
    try:
        module(images)
    finally:
        handle.remove()
    return caught[-1]


class Front(nn.Module):
    """The part of a trunk that isn't trained: its output is what the feature store holds."""

    def __init__(self, module: nn.Module, layer: str | None, blocks: int | None):
        super().__init__()
        self.module, self.layer, self.blocks = module, layer, blocks

    def forward(self, images: Tensor) -> Tensor:
        if self.blocks is None:
            return feature_map(self.module, self.layer, images)
        net = self.module
        x = net.bn1(net.conv_stem(images))  # type: ignore[operator]
        for block in net.blocks[: self.blocks]:  # type: ignore[index]
            x = block(x)
        return x


class Tail(nn.Module):
    """The rest of the trunk, from the front's output to the last map; nothing where the trunk is frozen."""

    def __init__(self, module: nn.Module, blocks: int | None):
        super().__init__()
        self.module, self.blocks = module, blocks

    def forward(self, x: Tensor) -> Tensor:
        if self.blocks is None:
            return x
        net = self.module
        for block in net.blocks[self.blocks :]:  # type: ignore[index]
            x = block(x)
        return net.bn2(net.conv_head(x))  # type: ignore[operator]

    def trained(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        if self.blocks is None:
            return []
        parts = [*self.module.blocks[self.blocks :], self.module.conv_head, self.module.bn2]  # type: ignore[index]
        return [p for part in parts for p in part.parameters()]


def split_trunk(module: nn.Module, layer: str | None, blocks: int | None) -> tuple[Front, Tail]:
    """Front and tail of a trunk: timm's EfficientNets are cut before block number `blocks`.

    Any other trunk, and `blocks=None`, gives the whole trunk as the front: it stays frozen.
    """
    cuttable = all(hasattr(module, part) for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"))
    if blocks is None or layer is not None or not cuttable:
        return Front(module, layer, None), Tail(module, None)
    if not 0 <= blocks <= len(module.blocks):  # type: ignore[arg-type]
        raise UserError(f"the trunk has blocks 0 to {len(module.blocks)}; cannot train it from {blocks}")  # type: ignore[arg-type]
    return Front(module, layer, blocks), Tail(module, blocks)


def fingerprint(module: nn.Module, *parts: object) -> str:
    """A hash of all weights of `module` and of `parts`: what stored features depend on."""
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
