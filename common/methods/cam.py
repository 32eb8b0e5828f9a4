"""Class activation mapping, for models whose head is pooling and one linear layer.

Zhou et al., Learning Deep Features for Discriminative Localization (CVPR 2016), eq. 2.
T targets, B images, K channels, h,w feature map.
"""

import torch
from torch import Tensor

from common.errors import MethodError
from common.formulas import gradients, graph_nodes, weighted, wide

# What may stand between the feature map and the score: averaging, one linear layer, and reshaping.
_AVERAGES = ("MeanBackward", "AdaptiveAvgPool2DBackward", "AvgPool2DBackward")
_LINEAR = ("AddmmBackward", "MmBackward", "LinearBackward")
_SHAPES = (
    "ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward", "SqueezeBackward", "UnsqueezeBackward",
    "CloneBackward", "TBackward", "TransposeBackward", "PermuteBackward", "SelectBackward", "SliceBackward",
    "StackBackward", "UnbindBackward", "AliasBackward", "AccumulateGrad", "ExpandBackward", "GatherBackward",
    "IndexBackward", "SubBackward", "NegBackward", "AsStridedBackward", "CatBackward", "ToCopyBackward",
)  # fmt: skip


def class_activation(scores: Tensor, A: Tensor) -> Tensor:
    """CAM (T, B, h, w): sum_k w_k A_k, where w are the weights of the linear layer behind average pooling.

    `scores` (T, B) have a graph from A (B, K, h, w). Not rectified, as in the CAM paper; where positive it is
    h*w times Grad-CAM. Raises `MethodError` when the head is anything else.
    """
    operations = [type(node).__name__ for node in graph_nodes([scores])]
    others = [name for name in operations if not name.startswith(_AVERAGES + _LINEAR + _SHAPES)]
    linear = sum(name.startswith(_LINEAR) for name in operations)
    averages = sum(name.startswith(_AVERAGES) for name in operations)
    if others or linear != 1 or averages != 1:
        behind = ", ".join(dict.fromkeys(name.removesuffix("0").removesuffix("Backward") for name in operations))
        raise MethodError(
            "CAM needs a head of average pooling and one linear layer; behind this layer stand"
            f" {behind}; use the method 'gradcam', which needs none"
        )
    # The weight of a channel is d score / d mean(A_k), wherever in the map one looks.
    gradient = wide(gradients(scores, A))
    weights = gradient.sum((-2, -1))
    even = weights[..., None, None] / A[0, 0].numel()
    if not torch.allclose(gradient, even.expand_as(gradient), rtol=1e-3, atol=float(even.abs().max()) * 1e-3):
        raise MethodError(
            "CAM needs a head that averages over all positions; the linear layer behind this one tells positions"
            " apart; use the method 'gradcam', or 'hirescam', which keeps them apart as well"
        )
    return weighted(A, weights)
