"""Section 4.3: the pointing game, with the option to reject what is not there.

    python -m scripts.experiments.pointing --coco PATH --model googlenet --device cuda   # as published
    python -m scripts.experiments.pointing --voc VOCdevkit --coco PATH                   # with the default network

On VOC's boxes and on COCO's masks by the protocol of Zhang et al. (ECCV 2016): the map's peak, at the
photograph's own resolution, within 15 pixels of an object of the class; all classes of all photographs, and
the difficult ones; the mean over classes. The network is fine-tuned on the classes in the training photographs first;
the paper's is GoogLeNet, whose ImageNet weights are torchvision's. Beside the maps stands what needs no explanation.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.errors import MethodError
from common.metrics.grounding import Summary, centre_map, summary
from common.metrics.localisation import (
    TOLERANCE,
    best_threshold,
    chance_of_hit,
    class_summary,
    hard_to_point,
    hits_with_reject,
    pointing_hits,
)
from data.readers.files import read_each
from scripts.experiments.annotated import BOXES, Annotated
from scripts.experiments.asker import ANNOTATIONS, TRAIN, Asker, asker_of, kinds_of
from scripts.experiments.lab import Lab
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.report import Row, Section, Table, against, row_of
from scripts.experiments.run import alone

METHODS = ("gradcam", "cmwp", "gradient", "activation")
PUBLISHED = {"gradcam": "70.58 %", "cmwp": "60.30 %"}
NAMES = {
    **LABELS,
    "activation": "activation energy, whatever the class",
    "centre": "centre of the photograph",
    "random": "a random point",
    "whole": "the whole photograph, which always hits",
    "none": "reject everything",
}
ON_SCORE = ", threshold on the class's score"
RULE = (
    "The five likeliest classes of each photograph; a map whose maximum is below a threshold rejects its class, which"
    " is right for a class that is not there (of nouns: that no caption names). The threshold is chosen on the other"
    " half of the photographs. Rejecting needs no map: rows of a threshold on the class's score say what the score"
    " alone gives, with the map's peak, with the centre, and at most."
)
ELSEWHERE = "Published: GoogLeNet fine-tuned on COCO, on its masks: Grad-CAM 70.58 %, c-MWP 60.30 %."
# One photograph's measurements: see `_pointed`.
Pointed = Mapping[str, Any]


def section(lab: Lab) -> Section:
    """4.3, the pointing game with a reject option."""
    return Section("4.3: the pointing game", [table for kind in kinds_of(lab) for table in tables(lab.on(kind), kind)])


def tables(lab: Lab, kind: str) -> list[Table]:
    """All, difficult and with the reject option, on the photographs of one kind."""
    count, train = lab.count(300 if kind == "flickr8k" else 5000, 15, 300), lab.trained_on(*TRAIN)
    measure = partial(against_regions, lab, kind, count, train)
    found = lab.cell(f"pointing-{kind}", measure, count=count, train=train, methods=METHODS)
    note = (
        f"The peak has to lie within {TOLERANCE:.0f} pixels of an object of the class, at the photograph's own"
        " resolution; mean over classes. Difficult: the class's objects cover less than a quarter of the"
        f" photograph, and another class is in it. {found['classifier']}"
    )
    made = partial(Table, data=found["data"], measure="accuracy (%)", substitute=kind == "flickr8k", digits=1)
    on_masks = kind == "coco" and not found["data"].endswith(BOXES)
    reject = rejecting(lab, found, PUBLISHED if on_masks else {})
    shown = [
        ("4.3, pointing game, all", plain(lab, found, False), note, ""),
        ("4.3, pointing game, difficult", plain(lab, found, True), "", ""),
        ("4.3, pointing game with reject option", reject, RULE, ELSEWHERE),
    ]
    return [
        made(title, rows=rows, note=text, reference=LABELS["gradcam"], elsewhere=elsewhere)
        for title, rows, text, elsewhere in shown
        if any(row.n for row in rows)
    ]


def plain(lab: Lab, found: Mapping[str, Any], hard: bool) -> list[Row]:
    """The classes that are there, all of them or the difficult ones; differences paired by photograph."""
    rows: Sequence[Pointed] = found["rows"]
    places = [(n, k) for n, row in enumerate(rows) for k, known in enumerate(row["hard"]) if known or not hard]
    classes, photographs = [rows[n]["classes"][k] for n, k in places], [n for n, _ in places]
    names = [name for name in (*METHODS, "centre", "random") if rows and name in rows[0]["hits"]]
    hits = {name: torch.tensor([100.0 * rows[n]["hits"][name][k] for n, k in places]).double() for name in names}

    def one(name: str) -> Row:
        row = row_of(NAMES[name], _left_out(class_summary(hits[name], classes, photographs), found), "", lab.model)
        less = hits[name] - hits["gradcam"]
        return row if name == "gradcam" else against(row, class_summary(less, classes, photographs))

    return [one(name) for name in names]


def rejecting(lab: Lab, found: Mapping[str, Any], published: Mapping[str, str]) -> list[Row]:
    """The five likeliest classes, those rejected whose map, or whose score, is below a threshold."""
    rows: Sequence[Pointed] = found["rows"]
    methods = [name for name in METHODS if rows and name in rows[0]["strengths"] and name != "activation"]
    ways = [(name, "strengths", NAMES[name]) for name in methods]
    on_score = [name for name in ("gradcam", "activation", "centre", "random") if rows and name in rows[0]["top"]]
    ways += [(name, "scores", f"{NAMES[name]}{ON_SCORE}") for name in (*on_score, "whole")]
    right = {label: with_reject(rows, name, by) for name, by, label in ways}
    right[NAMES["none"]] = torch.tensor([v for row in rows for v in (1.0 - torch.tensor(row["present"]).double())])
    photographs = [n for n, row in enumerate(rows) for _ in row["present"]]
    names = {NAMES[name]: text for name, text in published.items()}

    def one(label: str, values: Tensor) -> Row:
        row = row_of(label, _left_out(summary(100 * values, photographs), found), names.get(label, ""), lab.model)
        less = summary(100 * (values - right[NAMES["gradcam"]]), photographs)
        return row if label == NAMES["gradcam"] else against(row, less)

    return [one(label, values) for label, values in right.items()]


def with_reject(rows: Sequence[Pointed], name: str, by: str) -> Tensor:
    """1 for each right answer (classes of all photographs); a half's threshold is the best on the other half."""
    parts = [_top(row, name, by) for row in rows]
    halves = [[torch.cat(part) for part in zip(*parts[half::2], strict=True)] for half in (0, 1)]
    thresholds = [best_threshold(*half) if half else 0.0 for half in halves]
    found = [hits_with_reject(*part, thresholds[1 - number % 2]) for number, part in enumerate(parts)]
    return torch.cat(found) if found else torch.zeros(0).double()


def _top(row: Pointed, name: str, by: str) -> tuple[Tensor, Tensor, Tensor]:
    """What `hits_with_reject` takes: hits, strengths, present of the likeliest classes."""
    present = torch.tensor(row["present"], dtype=torch.bool)
    hits = present.double() if name == "whole" else torch.tensor(row["top"][name]).double()
    strengths = row["scores"] if by == "scores" else row["strengths"][name]
    return hits, torch.tensor(strengths, dtype=torch.float64), present


def _left_out(found: Summary, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {**vars(found), "left_out": found.left_out + cell["left_out"]}


def against_regions(lab: Lab, kind: str, count: int, train: int) -> dict[str, Any]:
    """What every method and baseline hits, photograph by photograph."""
    data = ANNOTATIONS[kind](lab, count)
    asker = asker_of(lab, kind, data, train)
    reading = read_each(data.items, partial(_pointed, asker))
    about = {"data": data.title, "classifier": asker.about, "left_out": data.left_out + len(reading.problems)}
    return {**about, "rows": reading.items}


@dataclass(frozen=True)
class _Asked:
    """The classes asked about in one photograph: the likeliest `top` first, then those that are there besides."""

    names: list[str]
    top: int
    indices: list[int]
    scores: list[float]
    present: Tensor
    masks: Tensor
    hard: dict[str, bool]


def _asked(asker: Asker, item: Annotated, image: Tensor) -> _Asked:
    regions = item.regions()
    scores, indices = asker.ask(asker.classifier.logits(image)[0].cpu())
    top = [n for n in scores.topk(min(5, len(scores))).indices.tolist() if asker.names[n] not in item.unsure]
    # Subsets are of the photograph, whatever the classifier knows of it.
    shares = torch.tensor([area for area, _ in regions.values()])
    hard = dict(zip(regions, hard_to_point(shares).tolist(), strict=True))
    there = [asker.names.index(name) for name in regions if name in asker.names]
    asked = list(dict.fromkeys([*top, *there]))
    nothing = torch.zeros(next(iter(regions.values()))[1].shape, dtype=torch.bool)
    masks = torch.stack([regions[asker.names[n]][1] if n in there else nothing for n in asked])
    present = torch.tensor([n in there for n in asked], dtype=torch.bool)
    names = [asker.names[n] for n in asked]
    return _Asked(names, len(top), indices[asked].tolist(), scores[asked].tolist(), present, masks, hard)


def _pointed(asker: Asker, item: Annotated) -> dict[str, Any]:
    """Of one photograph, by method: `hits` of the classes in it, `top` and `strengths` of the likeliest ones."""
    image = asker.classifier.images(item.path)
    asked = _asked(asker, item, image)
    there, top = asked.present, slice(asked.top)
    classes = [name for name, here in zip(asked.names, there.tolist(), strict=True) if here]
    hits, strengths = {}, {}
    for method in METHODS:
        with contextlib.suppress(MethodError):
            maps = method_maps(asker.classifier, image, asked.indices, method)[:, 0].cpu()
            hits[method] = pointing_hits(maps, asked.masks)
            strengths[method] = maps.flatten(1).amax(1).double()
    hits["centre"] = pointing_hits(centre_map(*asked.masks.shape), asked.masks)
    hits["random"] = chance_of_hit(asked.masks)
    return {
        "classes": classes,
        "hard": [asked.hard[name] for name in classes],
        "present": there[top].tolist(),
        "scores": asked.scores[top],
        "hits": {name: values[there].tolist() for name, values in hits.items()},
        "top": {name: values[top].nan_to_num(0).tolist() for name, values in hits.items()},
        "strengths": {name: values[top].tolist() for name, values in strengths.items()},
    }


if __name__ == "__main__":
    alone("pointing", __doc__)
