"""Who is asked about the classes of a data set: a classifier fine-tuned on them, or ImageNet's by groups of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from classification.classifier import Classifier
from classification.finetuning import Labelled, Tuning, fine_tuned
from common.errors import UserError
from data.words.imagenet_nouns import group_of
from scripts.experiments.annotated import Annotations, coco_annotations, voc_annotations
from scripts.experiments.lab import Lab
from scripts.experiments.maps import group_scores
from scripts.experiments.scenes import scene_annotations

# What COCO calls the nouns that cover ImageNet classes.
COCO_NOUNS = {
    "potted plant": "pottedplant", "dining table": "diningtable", "tv": "tvmonitor", "sports ball": "ball",
}  # fmt: skip
ON_CPU = Tuning(epochs=20, trunk_rate=0.0)
TRAIN = (6000, 30, 1500)  # photographs that a classifier is trained on: in all, in a quick run, on a CPU
ANNOTATIONS: dict[str, Callable[[Lab, int], Annotations]] = {
    "voc": voc_annotations, "coco": coco_annotations, "flickr8k": scene_annotations,
}  # fmt: skip


def kinds_of(lab: Lab) -> list[str]:
    """The kinds of boxes at hand: VOC and COCO where they were given, else Flickr8k."""
    return [kind for kind in ("voc", "coco") if kind in lab.data] or ["flickr8k"]


@dataclass(frozen=True)
class Asker:
    """A classifier, the data's classes that it can be asked about, and how: logits (C,) of its outputs ->
    a score and an output for each of `names`.
    """

    classifier: Any
    names: Sequence[str]
    ask: Callable[[Tensor], tuple[Tensor, Tensor]]
    about: str


def asker_of(lab: Lab, kind: str, data: Annotations, most: int) -> Asker:
    """The classifier fine-tuned on the training split's image labels, or where there is none ImageNet's.

    On a CPU its last layer alone is trained.
    """
    try:
        images = data.training(most)
    except UserError as missing:
        return _imagenets(lab, data, str(missing))
    tuned = tuned_to(lab, data.names, images, kind)
    how = "whose last layer was trained" if lab.device == "cpu" else "fine-tuned"
    about = f"A classifier {how} on the classes in {len(images)} training photographs."
    return Asker(tuned, data.names, lambda scores: (scores, torch.arange(len(scores))), about)


def tuned_to(lab: Lab, names: Sequence[str], images: Sequence[Labelled], run: str, pooled: bool = False) -> Classifier:
    """The classifier fine-tuned on image labels of other classes, kept in a folder; on a CPU its last layer alone."""
    tuning = ON_CPU if lab.device == "cpu" else None
    return fine_tuned(lab.plain_classifier, names, images, lab.out / "runs" / run, pooled, tuning)


def _imagenets(lab: Lab, data: Annotations, why: str) -> Asker:
    groups = {name: group_of(COCO_NOUNS.get(name, name)) for name in data.names}
    names = [name for name, group in groups.items() if group is not None]

    def ask(scores: Tensor) -> tuple[Tensor, Tensor]:
        known, best, indices = group_scores(scores)
        places = [known.index(str(groups[name])) for name in names]
        return best[places], indices[places]

    about = f"ImageNet's classifier, {len(names)} classes by groups of its own ({why})."
    return Asker(lab.classifier, names, ask, about)
