"""Section 4.3: the pointing game, with the option to reject what is not there.

    python -m scripts.experiments.pointing --coco PATH --model googlenet --device cuda   # as published
    python -m scripts.experiments.pointing --voc VOCdevkit --coco PATH                   # with the default network

On VOC's boxes and on COCO's masks by the protocol of Zhang et al. (ECCV 2016): the map's peak, at the
photograph's own resolution, within 15 pixels of an object of the class; all classes of all photographs, and
the difficult ones; the mean over classes. The network is fine-tuned on the classes in the training photographs first.
The paper's is GoogLeNet, fine-tuned on COCO; its ImageNet weights are torchvision's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from classification.finetuning import fine_tuned
from common.errors import UserError
from common.metrics.grounding import centre_map
from common.metrics.localisation import (
    TOLERANCE,
    best_threshold,
    class_summary,
    hard_to_point,
    hits_with_reject,
    pointing_hits,
)
from data.readers.files import read_each
from data.words.imagenet_nouns import GROUPS, group_of
from scripts.experiments.annotated import Annotated, Annotations, coco_annotations, voc_annotations
from scripts.experiments.lab import Lab, measured, summarised
from scripts.experiments.maps import LABELS, group_scores, method_maps
from scripts.experiments.report import Row, Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.scenes import NAME, grouped, scene_regions, scenes

METHODS = ("gradcam", "cmwp", "gradient")
PUBLISHED = {"gradcam": "70.58 %", "cmwp": "60.30 %"}
RULE = (
    "The five likeliest classes of each photograph; a map whose maximum is below a threshold rejects its class, which"
    " is right for a class that is not there (of nouns: that no caption names). The threshold is chosen on the other"
    " half of the photographs. Published: GoogLeNet, fine-tuned on COCO."
)
# What COCO calls the nouns that cover ImageNet classes.
COCO_NOUNS = {
    "potted plant": "pottedplant", "dining table": "diningtable", "tv": "tvmonitor", "sports ball": "ball",
}  # fmt: skip


def section(lab: Lab) -> Section:
    """4.3, the pointing game with a reject option."""
    given = [kind for kind in ("voc", "coco") if kind in lab.data]
    if given:
        tables = [table for kind in given for table in published_tables(lab.on(kind), kind)]
        return Section("4.3: the pointing game", tables)
    lab = lab.on("flickr8k")
    count = lab.count(300, 20)
    plain, reject = [], []
    for method in METHODS:
        cell = lab.cell(f"pointing-{method}", partial(against_scenes, lab, method, count), count=count)
        plain.append(row_of(LABELS[method], cell["plain"], "", lab.model))
        reject.append(row_of(LABELS[method], cell["reject"], PUBLISHED.get(method, ""), lab.model))
    note = (
        "Nouns of captions that cover ImageNet classes (dog: 118 breeds), each explained by its likeliest class. The"
        f" peak has to lie within {TOLERANCE:.0f} pixels of a box, in photographs squashed to 224 x 224."
    )
    tables = [
        Table("4.3, pointing game", NAME, "accuracy", plain, True, 3, note),
        Table("4.3, pointing game with reject option", NAME, "accuracy", reject, True, 3, RULE),
    ]
    return Section("4.3: the pointing game", tables)


def published_tables(lab: Lab, kind: str) -> list[Table]:
    """All, difficult and with the reject option, on VOC or COCO."""
    count, train = lab.count(5000, 15), lab.count(6000, 30)
    subsets: dict[str, list[Row]] = {"all": [], "difficult": [], "reject": []}
    found: dict[str, Any] = {}
    for method in METHODS:
        measure = partial(against_regions, lab, kind, method, count, train)
        found = lab.cell(f"pointing-{kind}-{method}", measure, count=count, train=train)
        for subset, rows in subsets.items():
            shown = PUBLISHED.get(method, "") if (kind, subset) == ("coco", "reject") else ""
            rows.append(row_of(LABELS[method], found[subset], shown, lab.model))
    for subset in ("all", "difficult"):
        subsets[subset].append(row_of("centre of the photograph", found[f"centre-{subset}"]))
    note = (
        f"The peak has to lie within {TOLERANCE:.0f} pixels of an object of the class, at the photograph's own"
        " resolution; mean over classes. Difficult: the class's objects cover less than a quarter of the"
        f" photograph, and another class is in it. {found['classifier']}"
    )
    titles = {"all": ", all", "difficult": ", difficult", "reject": " with reject option"}
    return [
        Table(f"4.3, pointing game{titles[subset]}", found["data"], "accuracy", rows, False, 3, text)
        for (subset, rows), text in zip(subsets.items(), (note, note, RULE), strict=True)
    ]


def against_regions(lab: Lab, kind: str, method: str, count: int, train: int) -> dict[str, Any]:
    """Accuracy of one method on VOC's boxes or COCO's masks, by subset; of the image's centre as well."""
    data = (voc_annotations if kind == "voc" else coco_annotations)(lab, count)
    asker = asker_of(lab, kind, data, train)
    reading = read_each(data.items, partial(_pointed, asker, method))
    rows, left_out = reading.items, data.left_out + len(reading.problems)
    found: dict[str, Any] = {"data": data.title, "classifier": asker.about}
    classes = [name for row in rows for name in row.names]
    hard = torch.cat([row.hard for row in rows])
    for prefix, hits in (("", [row.hits for row in rows]), ("centre-", [row.centre for row in rows])):
        every = torch.cat(hits)
        found[f"{prefix}all"] = vars(class_summary(every, classes))
        kept = [name for name, known in zip(classes, hard.tolist(), strict=True) if known]
        found[f"{prefix}difficult"] = vars(class_summary(every[hard], kept))
    found["reject"] = _with_reject([row.top for row in rows])
    for key in ("all", "difficult", "reject", "centre-all", "centre-difficult"):
        found[key]["left_out"] += left_out
    return found


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
    """The classifier fine-tuned on the training split's image labels, or where there is none ImageNet's."""
    try:
        images = data.training(most)
    except UserError as missing:
        groups = {name: group_of(COCO_NOUNS.get(name, name)) for name in data.names}
        names = [name for name, group in groups.items() if group is not None]

        def ask(scores: Tensor) -> tuple[Tensor, Tensor]:
            known, best, indices = group_scores(scores)
            places = [known.index(str(groups[name])) for name in names]
            return best[places], indices[places]

        about = f"ImageNet's classifier, {len(names)} classes by groups of its own ({missing})."
        return Asker(lab.classifier, names, ask, about)
    tuned = fine_tuned(lab.plain_classifier, data.names, images, lab.out / "runs" / kind)
    about = f"A classifier fine-tuned on the classes in {len(images)} training photographs."
    return Asker(tuned, data.names, lambda scores: (scores, torch.arange(len(scores))), about)


@dataclass(frozen=True)
class _Pointed:
    """Of one photograph: the classes in it, hits of the map and of the centre, which are hard; and what
    `hits_with_reject` takes, of the likeliest classes.
    """

    names: list[str]
    hits: Tensor
    centre: Tensor
    hard: Tensor
    top: tuple[Tensor, Tensor, Tensor]


def _pointed(asker: Asker, method: str, item: Annotated) -> _Pointed:
    image = asker.classifier.images(item.path)
    regions = item.regions()
    scores, indices = asker.ask(asker.classifier.logits(image)[0].cpu())
    top = [n for n in scores.topk(min(5, len(scores))).indices.tolist() if asker.names[n] not in item.unsure]
    # Subsets are of the photograph, whatever the classifier knows of it.
    shares = torch.tensor([area for area, _ in regions.values()])
    hard = dict(zip(regions, hard_to_point(shares).tolist(), strict=True))
    there = [name for name in regions if name in asker.names]
    asked = list(dict.fromkeys([*top, *[asker.names.index(name) for name in there]]))
    maps = method_maps(asker.classifier, image, [int(indices[n]) for n in asked], method)[:, 0].cpu()
    size = next(iter(regions.values()))[1].shape
    nothing = torch.zeros(size, dtype=torch.bool)
    masks = torch.stack([regions[asker.names[n]][1] if asker.names[n] in there else nothing for n in asked])
    hits, strengths = pointing_hits(maps, masks), maps.flatten(1).amax(1).double()
    present = torch.tensor([asker.names[n] in there for n in asked])
    bump = centre_map(int(present.sum()), *size)
    first = slice(len(top))
    return _Pointed(
        [asker.names[n] for n, here in zip(asked, present.tolist(), strict=True) if here],
        hits[present],
        pointing_hits(bump, masks[present]),
        torch.tensor([hard[asker.names[n]] for n in asked if asker.names[n] in there], dtype=torch.bool),
        (hits[first], strengths[first], present[first]),
    )


def against_scenes(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """Accuracy of one method on nouns that are there, and on the five likeliest with the reject option."""
    known, broken = scenes(lab, "dev")
    items = [scene_regions(scene) for scene in known if grouped(scene)][:count]
    asker = Asker(lab.classifier, list(GROUPS), lambda scores: group_scores(scores)[1:], "")
    reading = read_each(items, partial(_pointed, asker, method))
    rows, broken = reading.items, broken + len(reading.problems)
    plain = measured(rows, lambda _, row: {"plain": row.hits}, ("plain",), broken)
    reject = _with_reject([row.top for row in rows])
    return {**plain, "reject": {**reject, "left_out": reject["left_out"] + broken}}


def _with_reject(rows: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
    """Each half is measured with the threshold that is best on the other half."""
    if len(rows) < 2:
        return summarised([])
    others = [[torch.cat(part) for part in zip(*rows[1 - half :: 2], strict=True)] for half in (0, 1)]
    thresholds = [best_threshold(*other) for other in others]
    return measured(rows, lambda n, row: {"reject": hits_with_reject(*row, thresholds[n % 2])})["reject"]


if __name__ == "__main__":
    alone("pointing", __doc__)
