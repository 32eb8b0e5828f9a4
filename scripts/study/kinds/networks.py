"""Networks that a study explains: fine-tuned on the photographs' categories, as the paper's were.

T targets, H,W a photograph's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor

from common.draw import fitted
from common.errors import UserError
from common.gradcam import explain
from common.images import open_image
from common.networks.trunk import fingerprint
from scripts.experiments.annotated import Annotated, Annotations, voc_annotations
from scripts.experiments.asker import Asker, asker_of
from scripts.experiments.lab import Lab
from scripts.experiments.maps import deconv_sees
from scripts.study.material import SIDE, Asked

BLIND = (
    "{model} has no max-pooling: its Deconvolution is the same picture for any photograph, so that people can but guess"
    " what it shows"
)
# What people call VOC's categories, where that is not their name.
_SPOKEN = {"aeroplane": "airplane", "diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "TV"}


@dataclass(frozen=True)
class Network:
    """A network that is asked about VOC's categories."""

    model: str
    asker: Asker
    data: Annotations

    @classmethod
    def of(cls, asked: Asked, model: str) -> Network:
        """The network, fine-tuned and kept in `asked.work`; with `train` 0 ImageNet's own classes, in groups."""
        work = asked.work / "".join(c if c.isalnum() else "-" for c in model)
        lab = Lab(work, {"voc": asked.photos}, model=model, device=asked.device)
        data = voc_annotations(lab, None, asked.split)
        if not asked.train:
            data = replace(data, training=_untrained)
        return cls(model, asker_of(lab, "voc", data, asked.train), data)

    @property
    def about(self) -> dict[str, str]:
        """What the plan says of it."""
        weights = fingerprint(self.asker.classifier.network.module)
        layer = self.asker.classifier.layer
        return {"name": self.model, "weights": weights, "layer": layer, "about": self.asker.about}

    def notes(self, methods: Sequence[str]) -> list[str]:
        """What a reader has to know of its maps."""
        blind = "deconv" in methods and not deconv_sees(self.asker.classifier)
        return [BLIND.format(model=self.model)] if blind else []

    def knows_pair(self, item: Annotated) -> bool:
        """Whether a photograph shows exactly two categories, and the network can be asked about both."""
        return len(item.boxes) == 2 and set(item.boxes) <= set(self.asker.names)

    def said(self, item: Annotated) -> str:
        """The likeliest category."""
        scores, _ = self.asker.ask(self.asker.classifier.logits(item.path)[0].cpu())
        return str(self.asker.names[int(scores.argmax())])

    def maps(self, item: Annotated, names: Sequence[str], methods: Sequence[str]) -> dict[str, Tensor]:
        """By method the raw maps of categories, (T, h, w) or (T, 3, H, W)."""
        classifier = self.asker.classifier
        pixels = classifier.images(item.path)
        _, outputs = self.asker.ask(classifier.logits(pixels)[0].cpu())
        targets = [int(outputs[list(self.asker.names).index(name)]) for name in names]
        found = explain(classifier.explainable, pixels, targets, methods=",".join(methods))
        return {method: found.maps[method][:, 0] for method in methods}


def spoken(name: str) -> str:
    """A category as people call it."""
    return _SPOKEN.get(name, name)


def photograph(item: Any) -> Image.Image:
    """The photograph at the size at which it is shown."""
    return fitted(open_image(item.path), SIDE)


def _untrained(most: int) -> Any:
    raise UserError(f"--train is {most}")
