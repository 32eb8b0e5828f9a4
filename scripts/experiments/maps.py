"""Maps of a classifier by method, one value a position, as every experiment measures them.

T targets, B images, h,w map, H,W image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from common.ablations import variants
from common.excitation import excitation
from common.gradcam import explain
from common.metrics.localisation import pixel_strength
from common.occlusion import OcclusionOptions

LABELS = {
    "gradcam": "Grad-CAM",
    "cam": "CAM",
    "cmwp": "c-MWP",
    "mwp": "MWP (excitation backprop)",
    "gradient": "Backprop",
    "guided": "Guided Backprop",
    "deconv": "Deconvolution",
    "guided_gradcam": "Guided Grad-CAM",
    "deconv_gradcam": "Deconv Grad-CAM",
    "occlusion": "Occlusion",
}
PIXELS = ("gradient", "guided", "deconv", "guided_gradcam", "deconv_gradcam")
WINDOW = 32  # pixels, of occlusion


def method_maps(classifier: Any, images: Tensor, targets: Any, method: str, stride: int = 16) -> Tensor:
    """Maps (T, B, h, w) of one method; gradients of the image by the largest magnitude of the channels."""
    if method in _OTHERS:
        return _OTHERS[method](classifier, images, targets)
    options = OcclusionOptions(window=WINDOW, stride=stride)
    found = explain(classifier.explainable, images, None, targets, (method,), occlusion_options=options)
    maps = found.maps[method]
    return pixel_strength(maps) if method in PIXELS else maps


_OTHERS: dict[str, Callable[[Any, Tensor, Any], Tensor]] = {
    "mwp": lambda c, images, targets: excitation(c.explainable, images, targets),
    "cmwp": lambda c, images, targets: excitation(c.explainable, images, targets, contrastive=True),
    "no_relu": lambda c, images, targets: variants(c.explainable, images, targets, ("no_relu",))["no_relu"],
}
