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
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import rank_correlation
from scripts.experiments.annotated import Annotated, voc_annotations
from scripts.experiments.lab import Lab, measured
from scripts.experiments.maps import LABELS, WINDOW, method_maps
from scripts.experiments.paper import RANKED
from scripts.experiments.pointing import Asker, asker_of
from scripts.experiments.report import Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, right_samples

METHODS = ("guided_gradcam", "gradcam", "cmwp", "cam", "guided", "gradient")
PUBLISHED = {"guided_gradcam": "0.261", "gradcam": "0.254", "cmwp": "0.220", "cam": "0.208", "guided": "0.168"}
WINDOW_METHODS = ("gradcam", "cmwp")
WINDOWS = (32, 64, 96)  # pixels; the first is that of the table with all methods
PAPERS = "VOC 2007 val"
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
    settings: dict[str, int] = {"train": lab.count(6000, 30)} if on_voc else {}
    asked = partial(asked_on_voc, lab, **settings) if on_voc else partial(asked_of_samples, lab)
    cell = lab.cell("occlusion-ranks", lambda: correlations(asked(count), ranks), count=count, **settings)
    rows = [row_of(LABELS[m], cell.get(m), PUBLISHED.get(m, ""), lab.model) for m in METHODS]
    note = (
        "Spearman's correlation of each map, averaged over occlusion's grid, with the drop of the class's score"
        f" under a grey window of {WINDOW} pixels. {cell['classifier']} Published: VGG-16 on {PAPERS}, 2,510"
        " photographs."
    )
    other = cell["data"] != PAPERS
    tables = [Table("5.3, faithfulness", cell["data"], "rank correlation", rows, other, 3, note)]
    side = min(lab.classifier.preprocessing.size)
    windows = [window for window in WINDOWS if side >= window + 2 * WINDOW]  # at least 3 x 3 places to rank
    if windows:
        measure = partial(window_ranks, windows)
        by_window = lab.cell(
            "occlusion-windows", lambda: correlations(asked(fewer), measure), count=fewer, windows=windows, **settings
        )
        names = {f"{m}-{window}": f"{LABELS[m]}, window {window}" for window in windows for m in WINDOW_METHODS}
        rows = [row_of(name, by_window[key], "", lab.model) for key, name in names.items()]
        title = "5.3, faithfulness, by the size of occlusion's window"
        why = _why_ranks(cell, by_window, windows)
        tables.append(Table(title, cell["data"], "rank correlation", rows, True, 3, why))
    return Section("5.3: do maps agree with occlusion?", tables)


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


def _why_ranks(cell: dict[str, Any], by_window: dict[str, Any], windows: list[int]) -> str:
    """Why the correlation is what it is, with the measurements that say so."""
    note = f"Strides of {WINDOW} pixels; the paper does not say how large its patches were."
    small, large = (by_window[f"gradcam-{window}"]["mean"] for window in (windows[0], windows[-1]))
    if small is None or large is None or large <= small:
        return note
    text = (
        f" The correlation follows the window: {small:.2f} with {windows[0]} pixels, {large:.2f} with {windows[-1]}."
        " What a small window hides the rest of a large thing makes up for, and the ranks of next to no drop are"
        " noise: the distance to the published value says more of the window than of the method."
    )
    guided, plain = cell.get("guided_gradcam"), cell.get("gradcam")
    if guided and plain and guided["mean"] < plain["mean"]:
        text += (
            f" Guided Grad-CAM is not above Grad-CAM as published ({guided['mean']:.3f}, {plain['mean']:.3f}); the"
            f" standard error of either is {plain['error']:.3f}."
        )
    return note + text


def window_ranks(windows: Sequence[int], classifier: Any, image: Tensor, label: int) -> dict[str, Tensor]:
    """Correlations (1,) of an image's maps by method and window."""
    found = {}
    for window in windows:
        options = OcclusionOptions(window=window, stride=WINDOW)
        occluded = explain(classifier.explainable, image, label, methods="occlusion", occlusion_options=options)
        for m in WINDOW_METHODS:
            maps = method_maps(classifier, image, label, m)
            found[f"{m}-{window}"] = rank_correlation(maps[:, 0], occluded.maps["occlusion"][:, 0])
    return found


def ranks(classifier: Any, image: Tensor, label: int) -> dict[str, Tensor]:
    """Correlations (1,) of an image's maps by method."""
    found = {}
    reference = method_maps(classifier, image, label, "occlusion")[:, 0]
    for method in METHODS:
        with contextlib.suppress(MethodError):  # CAM, where the head is of another kind
            maps = method_maps(classifier, image, label, method)[:, 0]
            found[method] = rank_correlation(maps, reference)
    return found


if __name__ == "__main__":
    alone("faithfulness", __doc__)
