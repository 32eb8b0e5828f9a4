"""Appendix B: Grad-CAM with one thing changed, and Grad-CAM at every depth of the network.

    python -m scripts.experiments.appendix_b --imagenet PATH --limit 50000 --model vgg16 --device cuda   # Table 3

On ILSVRC's validation set the localisation error of Table 1, as published; without it the grid pointing game.
"""

from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.explainable import HookedModel
from common.gradcam import explain, gradcam
from common.images import open_image
from common.layers import Layer, layers
from common.methods.names import label
from common.metrics.localisation import cell_share, mosaic
from data.records import LocalisedImage
from scripts.experiments.drawing import TWO_CLASS_NAMES, TWO_CLASSES
from scripts.experiments.grid import mosaics
from scripts.experiments.lab import Lab, measured
from scripts.experiments.report import Picture, Section, Table, row_of
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
PLAIN = ("gradcam",)


def section(lab: Lab) -> Section:
    """Appendix B, ablations and the layer sweep."""
    if "imagenet" in lab.data:
        return Section(TITLE, ilsvrc_tables(lab.on("imagenet")), [_picture(lab)])
    lab = lab.on("samples")
    count = lab.count(24, 3)
    depths = _depths(lab)
    found = {}
    for layer in (lab.classifier.layer, depths[len(depths) * 2 // 3]):
        name = f"variants-{layer}"
        cell = lab.cell(name, partial(ablated, lab, layer, VARIANTS, count), count=count, variants=VARIANTS)
        rows = [row_of(label(variant), cell[variant], "", lab.model) for variant in VARIANTS]
        found[f"variants at layer {layer}"] = rows
    rows = []
    for layer in depths:
        cell = lab.cell(f"sweep-{layer}", partial(ablated, lab, layer, PLAIN, count), count=count)
        rows.append(row_of(layer, cell["gradcam"], "", lab.model))
    found["Grad-CAM by layer, first to last"] = rows
    data = f"grid pointing game 2 x 2, {NAME}"
    tables = [Table(f"Appendix B, {what}", data, "share in the cell", rows, True) for what, rows in found.items()]
    notes = [
        "The paper's table gives the localisation error of VGG-16 on ILSVRC; here the share of the positive map in the"
        " right cell stands for it. Without the ReLU the map is counted from its minimum on. HiResCAM is the paper's"
        " variant without pooling; the methods after it were published later.",
        "Behind the last layer of this network stand pooling and one linear layer: there, all gradients of a channel"
        " are equal and no ReLU is passed, so neither pooling nor ReLU rules change anything.",
        "At earlier layers Grad-CAM is near chance: its weights are means over the whole mosaic, in which a channel"
        " speaks for the class in one photograph and against it in another, and gradients that are not pooled keep the"
        " places apart. The paper finds earlier layers worse as well.",
    ]
    return Section(TITLE, tables, [_picture(lab)], notes)


def _depths(lab: Lab) -> list[str]:
    network = lab.classifier.network
    return [layer.name for layer in sweep_layers(network.module, network.blank(), LAYERS)]


def _picture(lab: Lab) -> Picture:
    return lab.picture("layers", "Grad-CAM at layers from the first to the last", lambda: draw(lab, _depths(lab)))


def ilsvrc_tables(lab: Lab) -> list[Table]:
    """The paper's Table 3: top-1 localisation error of Grad-CAM with one thing changed; and by layer."""
    count, guessed = guessed_classes(lab)

    def cell(name: str, layer: str, variants: tuple[str, ...]) -> dict[str, Any]:
        measure = partial(variant_errors, lab, layer, variants, count, guessed["guesses"])
        return lab.cell(f"ilsvrc-{name}-{layer}", measure, count=count, ten_crop=lab.ten_crop, variants=variants)

    last = lab.classifier.layer
    changed = cell("variants", last, PAPERS)
    rows = [row_of(label(variant), changed[variant], PUBLISHED.get(variant, ""), lab.model) for variant in PAPERS]
    by_layer = [row_of(layer, cell("sweep", layer, PLAIN)["gradcam"], "", lab.model) for layer in _depths(lab)]
    note = "The box of the largest segment above 15 % of the maximum, IoU 0.5. Published: VGG-16."
    return [
        Table(f"Appendix B, {what}", "ILSVRC val", "top-1 error (%)", these, False, 2, note)
        for what, these in ((f"variants at layer {last}", rows), ("Grad-CAM by layer, first to last", by_layer))
    ]


def variant_errors(lab: Lab, layer: str, names: tuple[str, ...], count: int, guesses: dict[str, Any]) -> dict[str, Any]:
    """Top-1 localisation errors, in per cent, by variant, of Grad-CAM at one layer."""
    split = HookedModel(lab.classifier.network.module, layer)

    def errors(number: int, item: LocalisedImage) -> dict[str, Tensor]:
        known, image = guesses[item.name], lab.classifier.images(item.path)
        maps = explain(split, image, known["best"][0], methods=names).maps
        return {name: box_errors(item, known, maps[name][:, 0]) for name in names}

    return guessed_photographs(lab, count, guesses, errors, names)


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
        maps = dict(explain(split, image, [sample.label for sample in parts], methods=names).maps)
        for name in {"no_relu", "integrated_gradients"} & set(names):
            maps[name] = maps[name] - maps[name].amin((-2, -1), keepdim=True)
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
