"""Convolution and ReLU in one kernel call with weights laid out once: for inference on CPUs only.

oneDNN, which PyTorch's convolutions run on, can apply the ReLU while the result is in cache, and reorders a
convolution's weights at each call unless they were reordered beforehand. Both need operators that PyTorch has
for its compiler; where they are missing, the module stays as it is.

Buys: two fifths of the time of occlusion. Checked: an activation is joined only where a watched pass
shows that it alone takes the convolution's output; occlusion compares scores with the plain network's.
"""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.fast.fold import is_plain_convolution, replace
from common.fast.trace import Call, same

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


class FusedConv(nn.Module):
    """A `Conv2d` (or timm's `Conv2dSame`) and the activation after it; float32, CPU, no graph."""

    def __init__(self, conv: nn.Conv2d, activation: str, limits: list[float]) -> None:
        super().__init__()
        self.same = type(conv).__name__ == "Conv2dSame"
        self.padding = [0, 0] if self.same else list(conv.padding)
        self.kernel, self.stride, self.dilation = map(list, (conv.kernel_size, conv.stride, conv.dilation))
        self.groups, self.activation, self.limits = conv.groups, activation, limits
        self.weight, self.bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = F.pad(x, self._same(x.shape[-1], 1) + self._same(x.shape[-2], 0))
        layout: Any = (self.padding, self.stride, self.dilation, self.groups)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *layout, list(x.shape))
        tail = (self.activation, self.limits, "")
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *layout, *tail)

    def _same(self, size: int, axis: int) -> list[int]:
        """TensorFlow's padding of one axis: what the last window needs, the odd pixel behind."""
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        return [total // 2, total - total // 2]


def fuse(network: nn.Module, calls: list[Call]) -> nn.Module:
    """`network`, a private copy that runs without a graph, with its convolutions replaced in place.

    `calls` are a pass over it that was watched: an activation is joined to the convolution whose output it,
    and nothing else, takes. Returns the network.
    """
    if not _available(network):
        return network
    every = [call for root in calls for call in root.walk()]
    runs = Counter(call.module for call in every)
    names = {module: name for name, module in network.named_modules()}
    for conv in every:
        module: Any = conv.module
        if not is_plain_convolution(module) or runs[module] > 1:
            continue
        if module.padding_mode == "zeros" and not isinstance(module.padding, str):
            activation = _activation(conv, every, runs)
            kind, limits = _ACTIVATIONS[type(activation)] if activation is not None else ("none", [])
            replace(network, names[module], FusedConv(module, kind, limits))
            if activation is not None:
                replace(network, names[activation], nn.Identity())
    return network


def _activation(conv: Call, calls: list[Call], runs: Counter[nn.Module]) -> nn.Module | None:
    """The one leaf that takes the convolution's output, if it is an activation that can be joined."""
    leaves = {c.module for c in calls if same(c.source, conv.output) and not c.calls}
    leaves = {leaf for leaf in leaves if not isinstance(leaf, nn.Identity)}
    leaf = leaves.pop() if len(leaves) == 1 else None
    return leaf if leaf is not None and type(leaf) in _ACTIVATIONS and runs[leaf] == 1 else None


def _available(network: nn.Module) -> bool:
    operators = ("_reorder_convolution_weight", "_convolution_pointwise")
    known = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    return known and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in network.parameters())
