"""Section 5.3: do maps rank positions as occlusion does?

    python -m scripts.experiments.faithfulness --voc VOCdevkit --model vgg16

On VOC's val split the network is first fine-tuned on the classes in the training photographs; explained is the
likeliest of the classes that are in a photograph. Without VOC: ImageNet samples, each its own class.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import MethodError, UserError
from common.gradcam import explain
from common.methods.cells import cell_occlusion
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import over_windows, rank_correlation
from common.targets import as_targets
from scripts.experiments.annotated import Annotated, voc_annotations
from scripts.experiments.asker import TRAIN, Asker, asker_of
from scripts.experiments.compared import compared
from scripts.experiments.lab import Lab, measured
from scripts.experiments.maps import LABELS, WINDOW, method_maps
from scripts.experiments.paper import RANKED
from scripts.experiments.report import Row, Section, Table
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, right_samples

METHODS = ("guided_gradcam", "gradcam", "no_relu", "cmwp", "cam", "guided", "gradient", "activation")
CELLS = "cells"  # occlusion of cells of the explained map: the ceiling of what a map of that layer can agree
NAMES = {
    **{name: LABELS[name] for name in METHODS},
    "activation": "activation energy, whatever the class",
    CELLS: "occlusion of cells of the map",
}
PUBLISHED = {"guided_gradcam": "0.261", "gradcam": "0.254", "cmwp": "0.220", "cam": "0.208", "guided": "0.168"}
WINDOW_METHODS = ("gradcam", "cmwp")
WINDOWS = (32, 64, 96)  # pixels; the first is that of the table with all methods
PAPERS = "VOC 2007 val"
ZERO = "A map that is zero everywhere ranks nothing and counts as 0; a reference without any drop is left out."
STRIDES = f"Strides of {WINDOW} pixels; the paper does not say how large its patches were."
FEWER = (60, 4)  # photographs, in all and in a quick run, where more say little more


@dataclass(frozen=True)
class Asked:
    """A classifier, what it is asked about, and which class of each: (classifier, item) -> photograph and class."""

    classifier: Any
    items: Sequence[Any]
    ask: Callable[[Any], tuple[Path, int]]
    data: str
    about: str = ""
    left_out: int = 0


def section(lab: Lab) -> Section:
    """5.3, faithfulness: rank correlation with occlusion maps."""
    lab = lab.on("voc" if "voc" in lab.data else "samples")
    on_voc = lab.source == "voc"
    count, fewer = lab.count(*(RANKED if on_voc else FEWER)), lab.count(*FEWER)
    settings: dict[str, int] = {"train": lab.trained_on(*TRAIN)} if on_voc else {}
    asked = partial(asked_on_voc, lab, **settings) if on_voc else partial(asked_of_samples, lab)
    cell = lab.cell("occlusion-ranks", lambda: correlations(asked(count), ranks), count=count, **settings)
    rows = compared(NAMES, cell, "gradcam", lab.model, PUBLISHED)
    note = (
        "Spearman's correlation of each map, averaged under occlusion's windows as they lie, with the drop of the"
        f" class's score under a grey window of {WINDOW} pixels. {ZERO} {cell['classifier']} Published: VGG-16 on"
        f" {PAPERS}, 2,510 photographs."
    )
    made = partial(Table, data=cell["data"], measure="rank correlation", substitute=cell["data"] != PAPERS)
    tables = [made("5.3, faithfulness", rows=rows, note=note, reference=NAMES["gradcam"])]
    side = min(lab.classifier.preprocessing.size)
    windows = [window for window in WINDOWS if side >= window + 2 * WINDOW]  # at least 3 x 3 places to rank
    if windows:
        measure = partial(window_ranks, windows)
        by_window = lab.cell(
            "occlusion-windows", lambda: correlations(asked(fewer), measure), count=fewer, windows=windows, **settings
        )
        rows = [row for window in windows for row in _of_window(lab, by_window, window)]
        title = "5.3, faithfulness, by the size of occlusion's window"
        tables.append(made(title, rows=rows, note=STRIDES, reference="Grad-CAM with the same window"))
    return Section("5.3: do maps agree with occlusion?", tables)


def _of_window(lab: Lab, cell: dict[str, Any], window: int) -> list[Row]:
    """The methods beside one size of window; another size is another reference, so that nothing is compared across."""
    names = {f"{method}-{window}": f"{LABELS[method]}, window {window}" for method in WINDOW_METHODS}
    return compared(names, cell, f"{WINDOW_METHODS[0]}-{window}", lab.model)


def asked_of_samples(lab: Lab, count: int) -> Asked:
    """Samples that the classifier gets right, each about its own class."""
    return Asked(lab.classifier, right_samples(lab, count), lambda sample: (sample.path, sample.label), NAME)


def asked_on_voc(lab: Lab, count: int, train: int) -> Asked:
    """Photographs of VOC's val split, each about the likeliest of the classes in it."""
    data = voc_annotations(lab, count, "val")
    asker = asker_of(lab, "voc", data, train)
    return Asked(asker.classifier, data.items, partial(_likeliest, asker), data.title, asker.about, data.left_out)


def _likeliest(asker: Asker, item: Annotated) -> tuple[Path, int]:
    names = [asker.names.index(name) for name in item.regions() if name in asker.names]
    if not names:
        raise UserError(f"{item.path.name}: the classifier knows no class that is in it")
    scores, indices = asker.ask(asker.classifier.logits(item.path)[0].cpu())
    return item.path, int(indices[max(names, key=lambda n: float(scores[n]))])


def correlations(asked: Asked, measure: Callable[[Any, Tensor, int], dict[str, Tensor]]) -> dict[str, Any]:
    """Summaries of what `measure(classifier, image, label)` gives of each item, and what they are of."""

    def one(number: int, item: Any) -> dict[str, Tensor]:
        path, label = asked.ask(item)
        return measure(asked.classifier, asked.classifier.images(path), label)

    found = measured(asked.items, one, broken=asked.left_out)
    return {**found, "data": asked.data, "classifier": asked.about}


def window_ranks(windows: Sequence[int], classifier: Any, image: Tensor, label: int) -> dict[str, Tensor]:
    """Correlations (1,) of an image's maps by method and window."""
    found = {}
    for window in windows:
        options = OcclusionOptions(window=window, stride=WINDOW)
        occluded = explain(classifier.explainable, image, label, methods="occlusion", occlusion_options=options)
        for m in WINDOW_METHODS:
            maps = method_maps(classifier, image, label, m)[:, 0]
            found[f"{m}-{window}"] = _agreement(maps, occluded.maps["occlusion"][:, 0], image, window, WINDOW)
    return found


def ranks(classifier: Any, image: Tensor, label: int) -> dict[str, Tensor]:
    """Correlations (1,) of an image's maps by method."""
    found, stride = {}, WINDOW // 2
    reference = method_maps(classifier, image, label, "occlusion", stride)[:, 0]
    for method in METHODS:
        with contextlib.suppress(MethodError):  # CAM, where the head is of another kind
            maps = method_maps(classifier, image, label, method)[:, 0]
            found[method] = _agreement(maps, reference, image, WINDOW, stride)
    cells = cell_occlusion(classifier.explainable, image, as_targets([label]))[:, 0]
    return {**found, CELLS: _agreement(cells, reference, image, WINDOW, stride)}


def _agreement(maps: Tensor, reference: Tensor, image: Tensor, window: int, stride: int) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    return rank_correlation(over_windows(maps, size, window, stride), reference)


if __name__ == "__main__":
    alone("faithfulness", __doc__)
