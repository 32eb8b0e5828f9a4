"""What experiments ask of any facade, whatever its task: its feature map, and why it says what it says.

`lab.facade(task)` gives the facades: a `Classifier`, a `Captioner`, an `Answerer`.
B images, K channels, h,w feature map.
"""

import warnings
from typing import Any

from torch import Tensor

from common.explanation import Explanation
from common.state import untouched

QUESTION = "what is in the picture?"
# What each task's model says of a photograph.
SAYS = {"classifier": "the class", "captioner": "the caption", "VQA model": f"the answer to '{QUESTION}'"}


def feature_map(model: Any, images: Any) -> Tensor:
    """The feature map A (B, K, h, w) that the model explains by default, on the CPU."""
    pixels = model.encode(images).pixels
    with untouched(model.network.module):
        return model.network.explainable(model.layer).features(pixels).float().cpu()


def explained(task: str, model: Any, image: Any, said: str | None = None) -> Explanation:
    """The importance (T, 1, K) of the units for what a model says of one image, its own or `said`; names[0] is that.

    A captioner's words follow its caption.
    """
    asked = (QUESTION,) if task == "VQA model" else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words that the model does not know
        return model.explain(image, *asked, said, methods="importance")
