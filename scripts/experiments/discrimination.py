"""Section 5.1: can classes be told apart by their maps?

    python -m scripts.experiments.discrimination --voc VOCdevkit --model vgg16

The paper asked people which of two categories a map is of, on photographs of VOC 2007 val with exactly two. With
`--voc` a rule stands for them: the map is of the category in whose boxes it is stronger. Without VOC: the grid
pointing game.
"""

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.errors import MethodError, UserError
from common.metrics.localisation import told_apart
from scripts.experiments.annotated import Annotated, voc_annotations
from scripts.experiments.asker import TRAIN, Asker, asker_of
from scripts.experiments.grid import grid_tables
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.maps import LABELS, deconv_sees, method_maps
from scripts.experiments.report import Row, Section, Table, against, row_of
from scripts.experiments.run import alone

METHODS = ("guided_gradcam", "deconv_gradcam", "guided", "deconv", "gradcam")
FIRST = METHODS[0]  # what the others are compared with
PEOPLE = (
    "Published, the share of people's answers that named the explained one of two categories, VGG-16 and AlexNet on VOC"
    " 2007 val (a guess is right half of the time): Guided Grad-CAM 61.23 %, Deconv Grad-CAM 60.37 %, Deconvolution"
    " 53.33 %, Guided Backprop 44.44 %."
)
GRID_NOTE = "On a mosaic of four a quarter of a map is where it belongs by chance."
BLIND = (
    "Deconvolution (published 53.33 %) has no row: this network has no max-pooling, and without its switches"
    " Deconvolution, whose ReLUs ask for the gradient's sign alone, gives a class the same picture for any two"
    " photographs, bit for bit. Deconv Grad-CAM is then Grad-CAM times that picture."
)


def section(lab: Lab) -> Section:
    """5.1, class discrimination: a rule in the place of people."""
    lab = lab.on("voc" if "voc" in lab.data else "samples")
    sees = deconv_sees(lab.classifier)
    methods = tuple(method for method in METHODS if sees or method != "deconv")
    on_voc = lab.source == "voc"
    table = voc_table(lab, methods) if on_voc else grid_tables(lab, "5.1, class discrimination", methods, 2)[0]
    notes = [*([] if on_voc else [GRID_NOTE]), *([] if sees else [BLIND])]
    title = "5.1: can classes be told apart by their maps?"
    return Section(title, [replace(table, elsewhere=PEOPLE)], notes=notes)


def voc_table(lab: Lab, methods: tuple[str, ...]) -> Table:
    """Photographs with exactly two categories, as the paper's; its 90 pairs were of 45."""
    count, train = lab.count(200, 6), lab.trained_on(*TRAIN)
    measure = partial(pairs_told_apart, lab, methods, count, train)
    cell = lab.cell("voc-told-apart", measure, count=count, train=train, methods=methods)
    found, rows = cell["hits"], [Row("a guess", 0.5, None, 0)]
    for method in (*methods, "random"):
        row = row_of(LABELS.get(method, "a random map"), found.get(method), "", lab.model)
        known = method != FIRST and method in found
        rows.append(against(row, paired(found[method], found[FIRST])) if known else row)
    note = (
        f"Each category of a photograph with exactly two is explained; right is a map that is stronger, by the mean of"
        f" its magnitude, in the boxes of its own category than in the other's, where they do not overlap. n counts"
        f" maps, the errors are over photographs. {cell['classifier']}"
    )
    data = f"{cell['data']}, a rule in the place of people"
    return Table("5.1, class discrimination", data, "share told apart", rows, True, 3, note, LABELS[FIRST])


def pairs_told_apart(lab: Lab, methods: tuple[str, ...], count: int, train: int) -> dict[str, Any]:
    """By method, whether the maps of a photograph's two categories are told apart."""
    data = voc_annotations(lab, None, "val")
    asker = asker_of(lab, "voc", data, train)
    chosen = [item for item in data.items if _known_pair(asker, item)][:count]
    if not chosen:
        raise UserError(f"no photograph of {data.title} has exactly two categories that the classifier knows")
    found = measured(chosen, partial(_hits, asker, methods), (*methods, "random"), data.left_out)
    return {"hits": found, "data": data.title, "classifier": asker.about}


def _known_pair(asker: Asker, item: Annotated) -> bool:
    regions = item.regions()
    return len(regions) == 2 and set(regions) <= set(asker.names)


def _hits(asker: Asker, methods: tuple[str, ...], number: int, item: Annotated) -> dict[str, Tensor]:
    regions, image = item.regions(), asker.classifier.images(item.path)
    masks = torch.stack([mask for _, mask in regions.values()])
    _, indices = asker.ask(asker.classifier.logits(image)[0].cpu())
    targets = [int(indices[asker.names.index(name)]) for name in regions]
    noise = torch.rand(2, 14, 14, generator=torch.Generator().manual_seed(number))
    found = {"random": told_apart(noise, masks)}
    for method in methods:
        with contextlib.suppress(MethodError):  # what the network's gates do not allow
            found[method] = told_apart(method_maps(asker.classifier, image, targets, method)[:, 0], masks)
    return found


if __name__ == "__main__":
    alone("discrimination", __doc__)
