"""Section 5.3: do maps rank positions as occlusion does?"""

import contextlib
from functools import partial
from typing import Any

from torch import Tensor

from common.errors import MethodError
from common.gradcam import explain
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import rank_correlation
from scripts.experiments.lab import Lab, measured
from scripts.experiments.maps import LABELS, WINDOW, method_maps
from scripts.experiments.report import Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, Sample, pixels, right_samples

METHODS = ("guided_gradcam", "gradcam", "cmwp", "cam", "guided", "gradient")
PUBLISHED = {"guided_gradcam": "0.261", "gradcam": "0.254", "cmwp": "0.220", "cam": "0.208", "guided": "0.168"}
WINDOW_METHODS = ("gradcam", "cmwp")
WINDOWS = (32, 64, 96)  # pixels; the first is that of the table with all methods


def section(lab: Lab) -> Section:
    """5.3, faithfulness: rank correlation with occlusion maps."""
    lab = lab.on("samples")
    count = lab.count(60, 4)
    chosen = partial(right_samples, lab, count)
    cell = lab.cell("occlusion-ranks", lambda: measured(chosen(), partial(ranks, lab)), count=count)
    rows = [row_of(LABELS[m], cell.get(m), PUBLISHED.get(m, ""), lab.model) for m in METHODS]
    note = (
        "Spearman's correlation of each map, averaged over occlusion's grid, with the drop of the class's score"
        f" under a grey window of {WINDOW} pixels. Published: VGG-16 on PASCAL VOC 2007 val."
    )
    tables = [Table("5.3, faithfulness", NAME, "rank correlation", rows, True, 3, note)]
    side = min(lab.classifier.preprocessing.size)
    windows = [window for window in WINDOWS if side >= window + 2 * WINDOW]  # at least 3 x 3 places to rank
    if windows:
        ranked = partial(window_ranks, lab, windows)
        by_window = lab.cell("occlusion-windows", lambda: measured(chosen(), ranked), count=count, windows=windows)
        names = {f"{m}-{window}": f"{LABELS[m]}, window {window}" for window in windows for m in WINDOW_METHODS}
        rows = [row_of(name, by_window[key], "", lab.model) for key, name in names.items()]
        title = "5.3, faithfulness, by the size of occlusion's window"
        why = _why_ranks(cell, by_window, windows)
        tables.append(Table(title, NAME, "rank correlation", rows, True, 3, why))
    return Section("5.3: do maps agree with occlusion?", tables)


def _why_ranks(cell: dict[str, Any], by_window: dict[str, Any], windows: list[int]) -> str:
    """Why the correlation is what it is, with the measurements that say so."""
    note = f"Strides of {WINDOW} pixels; the paper does not say how large its patches were."
    small, large = (by_window[f"gradcam-{window}"]["mean"] for window in (windows[0], windows[-1]))
    if small is None or large is None or large <= small:
        return note
    text = (
        f" The correlation follows the window: {small:.2f} with {windows[0]} pixels, {large:.2f} with {windows[-1]}."
        " These photographs show one thing, large; what a small window hides the rest makes up for, and the ranks of"
        " next to no drop are noise: the distance to the published value says more of the window than of the method."
    )
    guided, plain = cell.get("guided_gradcam"), cell.get("gradcam")
    if guided and plain and guided["mean"] < plain["mean"]:
        text += (
            f" Guided Grad-CAM is not above Grad-CAM as published ({guided['mean']:.3f}, {plain['mean']:.3f}); the"
            f" standard error of either is {plain['error']:.3f}."
        )
    return note + text


def window_ranks(lab: Lab, windows: list[int], number: int, sample: Sample) -> dict[str, Tensor]:
    """Correlations (1,) of a sample's maps by method and window."""
    image, model, found = pixels(lab, [sample]), lab.classifier.explainable, {}
    for window in windows:
        options = OcclusionOptions(window=window, stride=WINDOW)
        occluded = explain(model, image, sample.label, methods="occlusion", occlusion_options=options)
        for m in WINDOW_METHODS:
            maps = method_maps(lab.classifier, image, sample.label, m)
            found[f"{m}-{window}"] = rank_correlation(maps[:, 0], occluded.maps["occlusion"][:, 0])
    return found


def ranks(lab: Lab, number: int, sample: Sample) -> dict[str, Tensor]:
    """Correlations (1,) of a sample's maps by method."""
    image, found = pixels(lab, [sample]), {}
    reference = method_maps(lab.classifier, image, sample.label, "occlusion")[:, 0]
    for method in METHODS:
        with contextlib.suppress(MethodError):  # CAM, where the head is of another kind
            maps = method_maps(lab.classifier, image, sample.label, method)[:, 0]
            found[method] = rank_correlation(maps, reference)
    return found


if __name__ == "__main__":
    alone("faithfulness", __doc__)
