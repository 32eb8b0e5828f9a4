"""Bias in a training set, seen in the maps: the doctor/nurse experiment of figure 8 for any two classes.

    python -m scripts.experiments.bias_folders --train photographs/train --test photographs/test
    python -m scripts.experiments.bias_folders --train TRAIN --test TEST --boxes boxes.json --out saywhy-out/bias.png

Both folders hold `CLASS/ATTRIBUTE/*.jpg` with two classes and the attributes that may be confounded with them
(`doctor/man`, `doctor/woman`, `nurse/man`, `nurse/woman`). The network is a trunk with a linear layer of its
own, trained once on all photographs as they are, and once with equally many of each kind. Printed for both:
the accuracy on the test set, over all and for each kind; with `boxes.json` (as for `saywhy score`, boxes of
the nuisance by file name) also the share of the map that lies on the nuisance. The picture shows the same
photographs explained by both. A few hundred photographs take a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from scripts.experiments import figures

SUFFIXES = (".jpg", ".jpeg", ".png")
Kind = tuple[str, str]  # class, attribute


@dataclass(frozen=True)
class Head:
    """A linear layer behind average pooling: weights (K,), and which class is 1."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Scores (N,) of features (N, K, h, w); above 0 is the second class."""
        return features.mean((-2, -1)) @ self.weight + self.bias

    def maps(self, features: Tensor, labels: Tensor) -> Tensor:
        """Grad-CAM (N, h, w) of each photograph's label (N,), 0 or 1."""
        signs = (2 * labels - 1)[:, None, None]
        # Behind average pooling alpha is the weight over the number of positions (paper, section 3.1).
        alpha = self.weight / (features.shape[-2] * features.shape[-1])
        return (torch.einsum("nkhw,k->nhw", features, alpha) * signs).clamp(min=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both heads, print the table, draw the picture."""
    parser = figures.figure_parser(__doc__, "saywhy-out/bias.png")
    parser.add_argument("--train", required=True, metavar="DIR", help="CLASS/ATTRIBUTE/*.jpg to train on")
    parser.add_argument("--test", required=True, metavar="DIR", help="the same layout, to measure on")
    parser.add_argument("--boxes", metavar="FILE", help="boxes of the nuisance in the test photographs")
    parser.add_argument("--model", default="efficientnet_lite0", help="trunk")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of photographs that are left out")
    args = parser.parse_args(arguments)
    import classification

    classifier = classification.load(args.model, fast=True, device=args.device)
    train, test = read_kinds(args.train), read_kinds(args.test)
    classes = sorted({name for name, _ in train})
    if not set(test) <= set(train):
        raise UserError(f"'{args.test}' has {_listed(set(test) - set(train))}, which '{args.train}' lacks")
    sets = {"as it is": train, "rebalanced": rebalanced(train, args.seed)}
    features = {kind: see(classifier, files) for kind, files in test.items()}
    heads = {name: train_on(classifier, kinds, classes) for name, kinds in sets.items()}
    boxes = None if args.boxes is None else nuisance_boxes(args.boxes)
    table = {name: measure(head, features, test, classes, boxes) for name, head in heads.items()}
    report(table, sets, test)
    draw(heads, features, test, classes, args.out)
    _write(
        table, {name: {"/".join(k): len(f) for k, f in kinds.items()} for name, kinds in sets.items()}, args
    )


def read_kinds(folder: str) -> dict[Kind, list[Path]]:
    """Photographs by class and attribute. Raises `UserError` when there are not two classes."""
    root = Path(folder)
    found: dict[Kind, list[Path]] = {}
    for place in sorted(root.glob("*/*")) if root.is_dir() else []:
        files = sorted(file for file in place.glob("*") if file.suffix.lower() in SUFFIXES)
        if files:
            found[(place.parent.name, place.name)] = files
    classes = {name for name, _ in found}
    if len(classes) != 2:
        given = ", ".join(sorted(classes)) or "none"
        raise UserError(f"'{folder}' has the classes: {given}; expected two, as CLASS/ATTRIBUTE/*.jpg")
    return found


def rebalanced(kinds: dict[Kind, list[Path]], seed: int = 0) -> dict[Kind, list[Path]]:
    """Of each kind as many photographs as there are of the rarest. Raises `UserError` if a kind is
    missing.
    """
    classes, attributes = ({kind[place] for kind in kinds} for place in (0, 1))
    absent = {(c, a) for c in classes for a in attributes} - set(kinds)
    if absent:
        raise UserError(f"no photograph of {_listed(absent)}; a few of each kind are needed to rebalance")
    least = min(map(len, kinds.values()))
    rng = random.Random(seed)
    return {kind: sorted(rng.sample(files, least)) for kind, files in kinds.items()}


def see(classifier: Any, files: Sequence[Path]) -> Tensor:
    """The feature maps (N, K, h, w) of photographs, on the CPU."""
    from common.state import untouched

    with untouched(classifier.network.module):
        maps = [classifier.explainable.features(classifier.images(file)).float().cpu() for file in files]
    return torch.cat(maps)


def train_on(classifier: Any, kinds: dict[Kind, list[Path]], classes: Sequence[str]) -> Head:
    """The head that tells the classes apart, trained on the photographs of `kinds`."""
    from scripts.experiments.bias import train_head

    pooled = torch.cat([see(classifier, files).mean((-2, -1)) for files in kinds.values()])
    labels = torch.cat([_labels(kind, len(files), classes) for kind, files in kinds.items()])
    return Head(*train_head(pooled, labels))


def nuisance_boxes(path: str) -> dict[str, list[Any]]:
    """All boxes of each photograph, by its stem."""
    from scripts.commands.score import read_truth

    return {
        stem: [b for boxes in classes.values() for b in boxes] for stem, classes in read_truth(path).items()
    }


def measure(
    head: Head,
    features: dict[Kind, Tensor],
    test: dict[Kind, list[Path]],
    classes: Sequence[str],
    boxes: dict[str, list[Any]] | None,
) -> dict[str, Any]:
    """Summaries: accuracy over all and by kind, and with boxes the share of the map on the nuisance."""
    from common.metrics.grounding import energy_inside, summary

    right: dict[str, list[float]] = {"accuracy": []}
    shares: list[float] = []
    for kind, maps in features.items():
        labels = _labels(kind, len(maps), classes)
        hits = ((head.scores(maps) > 0).float() == labels).double().tolist()
        right["accuracy"] += hits
        right[f"accuracy, {'/'.join(kind)}"] = hits
        if boxes is not None:
            listed = [boxes.get(file.stem, []) for file in test[kind]]
            shares += energy_inside(head.maps(maps, labels), listed).tolist()
    found = {name: summary(values) for name, values in right.items()}
    return found if boxes is None else {**found, "share of the map on the nuisance": summary(shares)}


def report(table: dict[str, Any], sets: dict[str, Any], test: dict[Kind, list[Path]]) -> None:
    """Print a row for each measure."""
    print(f"{'':36}" + "".join(f"{name:>28}" for name in table))
    counts = [f"{sum(map(len, kinds.values()))}" for kinds in sets.values()]
    print(f"{'photographs to train on':36}" + "".join(f"{count:>28}" for count in counts))
    for measure_name in next(iter(table.values())):
        print(f"{measure_name:36}" + "".join(f"{str(column[measure_name]):>28}" for column in table.values()))


def draw(
    heads: dict[str, Head],
    features: dict[Kind, Tensor],
    test: dict[Kind, list[Path]],
    classes: Sequence[str],
    out: str,
) -> None:
    """A row for the first photograph of each kind: itself, and the map of its class by each head."""
    from common.draw import Tile, draw_map, fitted, legends_of, panel, save_picture
    from common.images import open_image

    tiles = []
    for kind, files in test.items():
        image = fitted(open_image(files[0]), 320)
        tiles.append(Tile(image, "/".join(kind)))
        for name, head in heads.items():
            label = _labels(kind, 1, classes)
            heat = head.maps(features[kind][:1], label)[0]
            said = classes[int(head.scores(features[kind][:1])[0] > 0)]
            tiles.append(
                Tile(draw_map("gradcam", image, heat), f"trained on the data {name}", f"says {said}")
            )
    save_picture(panel("Why this class?", tiles, 1 + len(heads), legends_of(("gradcam",)), 230), out)
    print(out)


def _write(table: dict[str, Any], sets: dict[str, Any], args: argparse.Namespace) -> None:
    from common.explanation import versions
    from common.files import write_json

    path = Path(args.out).with_suffix(".json")
    figures_ = {name: {key: vars(value) for key, value in column.items()} for name, column in table.items()}
    write_json(path, {"figures": figures_, "train": sets, "model": args.model, "versions": versions()})
    print(path)


def _labels(kind: Kind, count: int, classes: Sequence[str]) -> Tensor:
    return torch.full((count,), float(classes.index(kind[0])))


def _listed(kinds: set[Kind]) -> str:
    return ", ".join("/".join(kind) for kind in sorted(kinds))


if __name__ == "__main__":
    figures.run_figure(main)
