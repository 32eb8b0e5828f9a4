"""Sanity checks: maps must not survive a change of what was learnt or said (Adebayo et al. 2018).

    python -m scripts.experiments.sanity --samples PATH --flickr8k PATH

Weights: layers are shuffled, the last first. Labels: the linear head of figure 8 is trained again on shuffled labels
(their section 3.2). Words: a word of a caption is replaced by one of another photograph's caption, and both maps at
its place are compared.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.checks.randomisation import cascade, stages, trainable_layers
from common.errors import UserError
from common.metrics.faithfulness import rank_correlation
from scripts.experiments.drawing import SAMPLES, line_chart
from scripts.experiments.facades import explained
from scripts.experiments.figure8 import by_kind, labels_of, scene_features
from scripts.experiments.heads import train_head
from scripts.experiments.lab import Lab, measured, summarised
from scripts.experiments.maps import LABELS, method_maps
from scripts.experiments.report import Row, Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, pixels, right_samples
from scripts.experiments.scenes import NAME as SCENES
from scripts.experiments.scenes import scenes

METHODS = ("no_relu", "guided_gradcam", "guided", "gradient")
STAGES = 8


def section(lab: Lab) -> Section:
    """Sanity checks by cascading parameter randomisation."""
    lab = lab.on("samples")
    count = lab.count(10, 2)
    settings = {"count": count, "stages": STAGES}
    rows, lines, notes = [], {}, []
    for method in METHODS:
        lines[LABELS[method]] = lab.cell(f"sanity-{method}", partial(curve, lab, method, count), **settings)
        rows.append(_row(LABELS[method], lines[LABELS[method]], lab.model))
    for task in ("captioner", "VQA model"):
        name = f"{LABELS['no_relu']}, {task}"
        try:
            measure = partial(spoken, lab, task, count)
            lines[name] = lab.cell(f"sanity-{task}", measure, **settings, mark=lab.mark(task))
            rows.append(_row(name, lines[name], task))
        except UserError as problem:
            notes.append(f"Left out: {task} ({problem})")
    note = (
        "Spearman's correlation of the map with that of the trained network, when all layers are shuffled, the last"
        " first; near 1 is a map that says little of the network. Grad-CAM is taken before its ReLU, behind which it is"
        " often empty for a randomised network. Adebayo et al. found that Guided Backprop hardly changes until most"
        " layers are random: it draws edges. Not in the paper."
    )
    table = Table("Sanity, all layers randomised", NAME, "rank correlation", rows, True, 3, note)
    caption = "Rank correlation with the trained network's map, by the share of layers that are randomised"
    picture = lab.picture("sanity", caption, lambda: draw(lines), **settings, lines=list(lines))
    tables = [table, *other_tables(lab, notes)]
    return Section("Sanity: maps of randomised networks", tables, [picture], notes)


def other_tables(lab: Lab, notes: list[str]) -> list[Table]:
    """Randomised labels and words, where the data and the captioner are at hand; else a line in `notes`."""
    found = []
    try:
        bound, count = lab.on("flickr8k"), lab.count(100, 8)
        cell = bound.cell("sanity-labels", partial(shuffled_labels, bound, count), count=count)
        rows = [
            row_of("head trained on shuffled labels", cell["shuffled"], "", lab.model),
            row_of("head trained on other photographs", cell["again"], "", lab.model, "for scale"),
        ]
        found.append(Table("Sanity, randomised labels", SCENES, "rank correlation", rows, True))
    except UserError as problem:
        notes.append(f"Left out: randomised labels ({problem})")
    try:
        cell = lab.cell("sanity-words", partial(replaced_words, lab, 6), count=6, mark=lab.mark("captioner"))
        rows = [row_of("another word in its place", cell["replaced"], "", "captioner")]
        why = (
            "Negative where the other word does not fit: what speaks for the word that was said speaks against the"
            " one put in its place, since both share one softmax. Left out are maps that are zero everywhere."
        )
        data = "bundled photographs"
        found.append(Table("Sanity, randomised words", data, "rank correlation", rows, True, 3, why))
    except UserError as problem:
        notes.append(f"Left out: randomised words ({problem})")
    return found


def _row(name: str, cell: dict[str, Any], model: str) -> Row:
    first = cell["curve"][0]["mean"]
    return row_of(name, cell["curve"][-1], "", model, "" if first is None else f"last layer alone: {first:.2f}")


def curve(lab: Lab, method: str, count: int) -> dict[str, Any]:
    """The correlation at each stage of the classifier's randomisation, summarised over samples."""

    def maps(image: Tensor, label: int) -> Tensor:
        return method_maps(lab.classifier, image, label, method)[:, 0]

    cases = [partial(maps, pixels(lab, [sample]), sample.label) for sample in right_samples(lab, count)]
    return cascaded(lab.classifier.network.module, cases)


def spoken(lab: Lab, task: str, count: int) -> dict[str, Any]:
    """The same for a model that speaks, of what it said of the bundled photographs before it was randomised."""
    model = lab.facade(task)

    def maps(photograph: Path, said: str) -> Tensor:
        encoded = model.encode(photograph)
        alpha = explained(task, model, encoded, said).maps["importance"][0]
        return torch.einsum("bk,bkhw->bhw", alpha, encoded.features)  # before the ReLU (paper, eq. 2)

    photographs = sorted(SAMPLES.glob("*.jpg"))[:count]
    cases = [partial(maps, file, explained(task, model, file).names[0]) for file in photographs]
    return cascaded(model.network.module, cases)


def cascaded(network: nn.Module, cases: Sequence[Callable[[], Tensor]]) -> dict[str, Any]:
    """The correlation of each case's map (1, h, w) with that of the trained network, at each stage, summarised;
    and the share of layers that each stage randomises.
    """
    names = trainable_layers(network)
    sets = stages(names, STAGES)
    found = [cascade(network, maps, sets, "shuffle", seed=number) for number, maps in enumerate(cases)]
    shares = [len(layers) / len(names) for layers in sets]
    return {"curve": list(map(summarised, torch.cat(found, 1))), "layers": shares}


def draw(curves: dict[str, dict[str, Any]]) -> Image.Image:
    """A line for each method."""
    lines = {
        name: ([0.0, *cell["layers"]], [1.0, *[point["mean"] for point in cell["curve"]]])
        for name, cell in curves.items()
    }
    return line_chart(lines, "share of layers randomised, from the output", "rank correlation")


def shuffled_labels(lab: Lab, count: int, seed: int = 0) -> dict[str, Any]:
    """Correlation of the maps (before the ReLU) of a head with those of one trained on shuffled labels.

    `again` is the correlation with a head trained on the other half of the true labels: what is left to
    expect when the labels mean the same.
    """
    kinds = by_kind(scenes(lab, "train")[0])
    chosen = [scene for these in kinds.values() for scene in these[:count]]
    random.Random(seed).shuffle(chosen)
    if len(chosen) < 8:
        raise UserError(f"{len(chosen)} photographs of dogs and children; at least 8 are needed")
    features = scene_features(lab, chosen)
    labels, pooled = labels_of(chosen), features.mean((-2, -1))
    half = len(chosen) // 2
    order = torch.randperm(half, generator=torch.Generator().manual_seed(seed))
    true, shuffled, again = (
        train_head(inputs, these).signed(features[half:])
        for inputs, these in (
            (pooled[:half], labels[:half]),
            (pooled[:half], labels[:half][order]),
            (pooled[half:], labels[half:]),
        )
    )
    found = {"shuffled": shuffled, "again": again}
    return {name: summarised(rank_correlation(maps, true)) for name, maps in found.items()}


def replaced_words(lab: Lab, count: int, seed: int = 0) -> dict[str, Any]:
    """Correlation of a word's map with that of a word of another photograph put in its place."""
    captioner = lab.facade("captioner")
    photographs = sorted(SAMPLES.glob("*.jpg"))[:count]
    seen = [captioner.encode(file) for file in photographs]
    said = [captioner.caption(one).words for one in seen]
    rng = random.Random(seed)

    def correlations(number: int, words: Sequence[str]) -> dict[str, list[float]]:
        others, found = sorted({word for more in said for word in more} - set(words)), []
        explain = partial(captioner.explain, seen[number], score="log_probability")
        before = explain(" ".join(words)).heatmaps[1:, 0]
        for place in range(len(words) if others else 0):
            changed = [*words[:place], rng.choice(others), *words[place + 1 :]]
            after = explain(" ".join(changed)).heatmaps[1:, 0]
            if len(after) == len(before):
                found += rank_correlation(after[place : place + 1], before[place : place + 1]).tolist()
        return {"replaced": found}

    return measured(said, correlations, ("replaced",))


if __name__ == "__main__":
    alone("sanity", __doc__)
