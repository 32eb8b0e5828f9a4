"""Appendix B: Grad-CAM with one thing changed, and Grad-CAM at every depth of the network.

    python -m scripts.experiments.appendix_b --imagenet PATH --limit 50000 --model vgg16 --device cuda   # Table 3

On ILSVRC's validation set the localisation error of Table 1, as published; without it the same on the boxes of VOC and
COCO, the class given, and the grid pointing game.
"""

from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.explainable import Explainable, HookedModel
from common.gradcam import explain, gradcam
from common.images import open_image
from common.layers import Layer, layers
from common.methods.names import label
from common.metrics.localisation import cell_share, mosaic
from data.records import LocalisedImage
from scripts.experiments.annotated import Annotated
from scripts.experiments.asker import ANNOTATIONS, TRAIN, asker_of, kinds_of
from scripts.experiments.boxes import known_boxes, targets_of, wrong_boxes
from scripts.experiments.compared import compared
from scripts.experiments.drawing import TWO_CLASS_NAMES, TWO_CLASSES
from scripts.experiments.grid import mosaics
from scripts.experiments.lab import Lab, measured
from scripts.experiments.report import Picture, Section, Table
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, Sample, pixels
from scripts.experiments.table1 import box_errors, guessed_classes, guessed_photographs

# The paper's changes of one thing, then methods published since.
VARIANTS = (
    "gradcam", "no_relu", "absolute", "max_pooled", "summed", "guided_relu", "deconv_relu",
    "hirescam", "layercam", "xgradcam", "gradcam_plus_plus", "ablation_cam", "integrated_gradients",
)  # fmt: skip
# Table 3 of the paper, top-1 localisation error of VGG-16 on ILSVRC-15 val in per cent; what could be confirmed.
PAPERS = ("gradcam", "no_relu", "absolute", "max_pooled", "guided_relu", "deconv_relu")
PUBLISHED = {"gradcam": "59.65", "no_relu": "74.98", "guided_relu": "59.14", "deconv_relu": "83.95"}
TITLE = "Appendix B: ablations"
LAYERS = 8
BY_LAYER = "Appendix B, Grad-CAM by layer, first to last"
LAYER_NAMES = "Layers are named as the network's own modules in PyTorch are; a block counts as one."
PLAIN = ("gradcam",)
SIGNED = frozenset({"no_relu", "integrated_gradients"})
FROM_MINIMUM = "Without the ReLU the map is counted from its minimum on, as pictures are scaled."


def section(lab: Lab) -> Section:
    """Appendix B, ablations and the layer sweep."""
    if "imagenet" in lab.data:
        return Section(TITLE, ilsvrc_tables(lab.on("imagenet")), [_picture(lab)])
    boxed = [boxes_table(lab.on(kind), kind) for kind in kinds_of(lab) if kind in lab.data]
    if "samples" not in lab.data and boxed:
        return Section(TITLE, boxed, [_picture(lab)])
    lab = lab.on("samples")
    count = lab.count(24, 3)
    depths = _depths(lab)
    made = partial(Table, data=f"grid game 2 x 2, {NAME}", measure="share in the cell", substitute=True)
    tables = boxed
    for layer in (lab.classifier.layer, list(depths)[len(depths) * 2 // 3]):
        name = f"variants-{layer}"
        cell = lab.cell(name, partial(ablated, lab, layer, VARIANTS, count), count=count, variants=VARIANTS)
        rows = compared({variant: label(variant) for variant in VARIANTS}, cell, "gradcam", lab.model)
        tables.append(made(f"Appendix B, variants at layer {layer}", rows=rows, reference=label("gradcam")))
    cells = {
        layer: lab.cell(f"sweep-{layer}", partial(ablated, lab, layer, PLAIN, count), count=count)["gradcam"]
        for layer in depths
    }
    last = list(depths)[-1]
    rows = compared(depths, cells, last, lab.model)
    tables.append(made(BY_LAYER, rows=rows, note=LAYER_NAMES, reference=depths[last]))
    notes = [
        "The paper's table gives the localisation error of VGG-16 on ILSVRC; here the share of the positive map in the"
        " right cell, and with the class given the error on other boxes, stand for it. HiResCAM is the paper's variant"
        " without pooling; the methods after it were published later.",
        FROM_MINIMUM,
        "Where average pooling and one linear layer stand behind the last layer, all gradients of a channel are equal"
        " and no ReLU is passed, so that neither pooling nor ReLU rules can change anything there.",
        "At earlier layers Grad-CAM's weights are means over the whole mosaic, in which a channel speaks for the class"
        " in one photograph and against it in another; gradients that are not pooled keep the places apart.",
    ]
    return Section(TITLE, tables, [_picture(lab)], notes)


def _depths(lab: Lab) -> dict[str, str]:
    """Layers from the first to the last, by name, and what they are: type, channels, size of the map."""
    network = lab.classifier.network
    found = sweep_layers(network.module, network.blank(), LAYERS)
    return {each.name: f"{each.name} ({each.kind}, {each.shape[0]} maps of {_size(each)})" for each in found}


def _size(layer: Layer) -> str:
    return f"{layer.shape[1]} x {layer.shape[2]}"


def _picture(lab: Lab) -> Picture:
    return lab.picture("layers", "Grad-CAM at layers from the first to the last", lambda: draw(lab, list(_depths(lab))))


def ilsvrc_tables(lab: Lab) -> list[Table]:
    """The paper's Table 3: top-1 localisation error of Grad-CAM with one thing changed; and by layer."""
    count, guessed = guessed_classes(lab)

    def cell(name: str, layer: str, variants: tuple[str, ...]) -> dict[str, Any]:
        measure = partial(variant_errors, lab, layer, variants, count, guessed["guesses"])
        return lab.cell(f"ilsvrc-{name}-{layer}", measure, count=count, ten_crop=lab.ten_crop, variants=variants)

    last = lab.classifier.layer
    changed = cell("variants", last, PAPERS)
    rows = compared({v: label(v) for v in PAPERS}, changed, "gradcam", lab.model, PUBLISHED)
    depths = _depths(lab)
    deepest = list(depths)[-1]
    by_layer = compared(depths, {n: cell("sweep", n, PLAIN)["gradcam"] for n in depths}, deepest, lab.model)
    note = f"The box of the largest segment above 15 % of the maximum, IoU 0.5. {FROM_MINIMUM} Published: VGG-16."
    made = partial(Table, data="ILSVRC val", measure="top-1 error (%)", digits=2, better="low")
    return [
        made(f"Appendix B, variants at layer {last}", rows=rows, note=note, reference=label("gradcam")),
        made(BY_LAYER, rows=by_layer, note=f"{note} {LAYER_NAMES}", reference=depths[deepest]),
    ]


def boxes_table(lab: Lab, kind: str) -> Table:
    """Table 3's measure on other boxes, the class given; paired by photograph."""
    count, train = lab.count(5000, 6, 200), lab.trained_on(*TRAIN)
    measure = partial(boxed_errors, lab, kind, count, train)
    cell = lab.cell(f"boxed-variants-{kind}", measure, count=count, train=train, variants=VARIANTS)
    rows = compared({variant: label(variant) for variant in VARIANTS}, cell, "gradcam", lab.model)
    note = (
        "The box of the largest segment above 15 % of the map's maximum is right at an IoU of 0.5 with a box of the"
        f" class; n counts classes, errors are over photographs. {FROM_MINIMUM} {cell['classifier']}"
    )
    elsewhere = (
        "Published, top-1 error of VGG-16 on ILSVRC-15 val: Grad-CAM 59.65, without the ReLU 74.98, guided ReLU 59.14,"
        " deconv ReLU 83.95."
    )
    return Table(
        f"Appendix B, variants at the last map, box localisation, class given, {kind.upper()}", cell["data"],
        "error (%)", rows, True, 1, note, label("gradcam"), "low", elsewhere,
    )  # fmt: skip


def boxed_errors(lab: Lab, kind: str, count: int, train: int) -> dict[str, Any]:
    """Errors of boxes, in per cent, by variant, of Grad-CAM at the last map."""
    data = ANNOTATIONS[kind](lab, count)
    asker = asker_of(lab, kind, data, train)

    def errors(number: int, item: Annotated) -> dict[str, list[float]]:
        truth, image = known_boxes(asker, item), asker.classifier.images(item.path)
        maps = explained(asker.classifier.explainable, image, targets_of(asker, image, list(truth)), VARIANTS)
        return {name: wrong_boxes(maps[name], list(truth.values())) for name in VARIANTS}

    items = [item for item in data.items if known_boxes(asker, item)]
    return {**measured(items, errors, broken=data.left_out), "data": data.title, "classifier": asker.about}


def variant_errors(lab: Lab, layer: str, names: tuple[str, ...], count: int, guesses: dict[str, Any]) -> dict[str, Any]:
    """Top-1 localisation errors, in per cent, by variant, of Grad-CAM at one layer."""
    split = HookedModel(lab.classifier.network.module, layer)

    def errors(number: int, item: LocalisedImage) -> dict[str, Tensor]:
        known, image = guesses[item.name], lab.classifier.images(item.path)
        maps = explained(split, image, known["best"][0], names)
        return {name: box_errors(item, known, maps[name][:, 0]) for name in names}

    return guessed_photographs(lab, count, guesses, errors, names)


def explained(split: Explainable, image: Tensor, targets: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Maps (T, B, h, w) by variant; those with a sign are counted from their minimum on, as pictures of them are.

    From zero on, the box of a map before its ReLU is that of the map behind it.
    """
    maps = dict(explain(split, image, targets, methods=names).maps)
    for name in SIGNED & set(names):
        maps[name] = maps[name] - maps[name].amin((-2, -1), keepdim=True)
    return maps


def sweep_layers(network: nn.Module, images: Tensor, count: int = LAYERS) -> list[Layer]:
    """At most `count` layers with a feature map, evenly spaced from the first to the last.

    A block counts as one layer, whatever it is made of; a `Sequential` is looked into.
    """
    known = [layer for layer in layers(network, images[:1]) if layer.shape[1] * layer.shape[2] > 1]
    solid = [layer for layer in known if layer.kind != "Sequential"]
    units = [layer for layer in solid if not any(layer.name.startswith(f"{other.name}.") for other in solid)]
    places = torch.linspace(0, len(units) - 1, min(count, len(units))).round().int().tolist()
    return [units[place] for place in dict.fromkeys(places)]


def ablated(lab: Lab, layer: str, names: tuple[str, ...], count: int) -> dict[str, Any]:
    """Shares in the cell, by variant, of Grad-CAM at one layer."""
    split = HookedModel(lab.classifier.network.module, layer)

    def shares(number: int, parts: list[Sample]) -> dict[str, Tensor]:
        image = mosaic(pixels(lab, parts))[None]
        maps = explained(split, image, [sample.label for sample in parts], names)
        return {name: cell_share(maps[name][:, 0], range(len(parts)), 2, (112, 112)) for name in names}

    return measured(mosaics(lab, 2, count), shares, names)


def draw(lab: Lab, depths: list[str]) -> Image.Image:
    """The bundled photograph with two classes, a tile for each layer."""
    classifier = lab.classifier
    image = fitted(open_image(TWO_CLASSES), 320)
    batch, target = classifier.images(image), classifier.labels.find(TWO_CLASS_NAMES[0])
    tiles = []
    for layer in depths:
        maps = gradcam(classifier.network.module, batch, target, layer)[0, 0]
        tiles.append(Tile(draw_map("gradcam", image, maps), layer, f"{maps.shape[0]} x {maps.shape[1]}"))
    return panel(f"'{TWO_CLASS_NAMES[0]}' at every depth", tiles, 4, legends_of(("gradcam",)), 220)


if __name__ == "__main__":
    alone("appendix_b", __doc__)
