"""Figure 4's seeds as a segmentation network takes them, and labels as pictures.

C classes without the background, h,w grid, H,W photograph.
"""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from classification.classifier import Classifier
from classification.segmentation import localisation_cues
from common.metrics.segmentation import UNDECIDED
from scripts.experiments.maps import method_maps

METHODS = ("gradcam", "cam", "cmwp", "occlusion")
COLOURS = (
    ("red", (214, 39, 40)), ("blue", (31, 119, 180)), ("green", (44, 160, 44)), ("orange", (255, 127, 14)),
    ("purple", (148, 103, 189)),
)  # fmt: skip


def classifier_cues(
    classifier: Classifier, method: str, image: Image.Image, classes: Sequence[int], size: tuple[int, int]
) -> Tensor:
    """Seeds (h, w) of a photograph with these classes (0 the first; label 1): see `localisation_cues`.

    Saliency is the largest gradient magnitude of any of the classes.
    """
    batch = classifier.images(image)
    maps = method_maps(classifier, batch, list(classes), method)[:, 0]
    saliency = method_maps(classifier, batch, list(classes), "gradient")[:, 0].amax(0)
    return localisation_cues({c + 1: values for c, values in zip(classes, maps, strict=True)}, saliency, size)


def coloured(image: Image.Image, labels: Tensor, colours: Mapping[int, tuple[int, int, int]]) -> Image.Image:
    """The photograph, greyed, with the pixels (H, W) of each class 1..C in its colour."""
    palette = torch.zeros(UNDECIDED, 3, dtype=torch.uint8)
    for label, rgb in colours.items():
        palette[label] = torch.tensor(rgb, dtype=torch.uint8)
    known = labels.masked_fill(labels == UNDECIDED, 0)
    paint = Image.fromarray(palette[known].numpy())
    opacity = Image.fromarray(((known > 0).to(torch.uint8) * 150).numpy())
    return Image.composite(paint, image.convert("L").convert("RGB"), opacity)
