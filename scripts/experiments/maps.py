"""Maps of a classifier by method, one value a position, as every experiment measures them.

T targets, B images, h,w map, H,W image.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.errors import MethodError
from common.gradcam import explain
from common.methods.excitation import excitation
from common.methods.names import METHOD_NAMES
from common.methods.occlusion import OcclusionOptions
from common.metrics.localisation import pixel_strength
from common.targets import Contrast, Index, Target, logits
from data.words.imagenet_nouns import GROUPS

LABELS = {
    **{name: text for name, (text, _) in METHOD_NAMES.items()},
    "cmwp": "c-MWP",
    "gradient": "Backprop",
    "gradcam_centred": "Grad-CAM less its mean",
    "gradcam_contrast": "Grad-CAM against the 5 likeliest others",
}
WINDOW = 32  # pixels, of occlusion


def method_maps(classifier: Any, images: Tensor, targets: Any, method: str, stride: int = 16) -> Tensor:
    """Maps (T, B, h, w) of one method; gradients of the image by the largest magnitude of the channels."""
    if method in _OTHERS:
        return _OTHERS[method](classifier, images, targets)
    options = OcclusionOptions(window=WINDOW, stride=stride)
    found = explain(classifier.explainable, images, targets, methods=method, occlusion_options=options)
    maps = found.maps[method]
    return pixel_strength(maps) if maps.dim() == 5 else maps


def deconv_sees(classifier: Any) -> bool:
    """Whether Deconvolution depends on the photograph.

    Its ReLUs ask for the gradient's sign alone, so that it sees the photograph through the switches of max-pooling
    and through nothing else: without max-pooling the picture of a class is the same for any two photographs.
    """
    noise = torch.randn(2, *classifier.network.blank().shape[1:], generator=torch.Generator().manual_seed(0))
    try:
        one, other = (explain(classifier.explainable, image, 0, methods="deconv").deconv for image in noise.split(1))
    except MethodError:
        return True
    return not torch.allclose(one, other, rtol=1e-4, atol=1e-6 * float(one.abs().max()))


def centred(classifier: Any, images: Tensor, targets: Any) -> Tensor:
    """ReLU(sum_k alpha_k A_k less its mean over positions) (T, B, h, w): Grad-CAM whose sum before the ReLU is 0.

    At the last map of a network that ends in average pooling and one linear layer, c-MWP is nearly this: its two
    halves are CAMs of the positive and of the negative weights, each scaled to a sum of 1.
    """
    signed = explain(classifier.explainable, images, targets, methods="no_relu").no_relu
    return (signed - signed.mean((-2, -1), keepdim=True)).relu()


def contrasted(classifier: Any, images: Tensor, targets: Any, others: int = 5) -> Tensor:
    """Grad-CAM (T, B, h, w) of each class's logit less the mean logit of the likeliest other classes."""
    several = [targets] if isinstance(targets, int) else list(targets)
    against = [Contrast(Index(label), likeliest_others(label, others)) for label in several]
    return explain(classifier.explainable, images, against).heatmaps


def likeliest_others(label: int, count: int) -> Target:
    """The mean logit (B,) of the `count` likeliest classes without `label`."""

    def score(output: Any) -> Tensor:
        scores = logits(output)
        rest = torch.cat([scores[:, :label], scores[:, label + 1 :]], 1)
        return rest.topk(min(count, rest.shape[1])).values.mean(1)

    return score


_OTHERS: dict[str, Callable[[Any, Tensor, Any], Tensor]] = {
    "cmwp": lambda c, images, targets: excitation(c.explainable, images, targets, contrastive=True),
    "gradcam_centred": centred,
    "gradcam_contrast": contrasted,
}


def group_scores(scores: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """Of one image's logits (1000,): the groups, the best logit of each (G,), and its class (G,)."""
    names = list(GROUPS)
    best = [scores[list(GROUPS[name])].max(0) for name in names]
    indices = [GROUPS[name][int(found.indices)] for name, found in zip(names, best, strict=True)]
    return names, torch.stack([found.values for found in best]), torch.tensor(indices)
