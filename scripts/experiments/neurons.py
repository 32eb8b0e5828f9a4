"""Figure 9: words for neurons, and decisions explained in the words of the neurons that mattered."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.dissection import (
    LEAST_OVERLAP,
    NeuronName,
    Overlaps,
    firing_thresholds,
    name_units,
    reasons,
)
from common.gradcam import importance
from common.metrics.grounding import box_mask
from common.state import untouched
from common.targets import as_targets, score_table
from scripts.experiments.scenes import NAME, Scene, scenes
from scripts.lab import Lab, summarised
from scripts.report import Row, Section, Table, row_of

MASK = (56, 56)
LEAST_IMAGES = 8  # a concept needs boxes in so many photographs


def figure9(lab: Lab) -> Section:
    """Figure 9, textual explanations."""
    lab = lab.on("flickr8k")
    count = lab.count(600, 40)
    cell = lab.cell("neurons", lambda: dissect(lab, count), count=count)
    rows = [
        Row("named units", cell["named"] / cell["units"], None, cell["units"], "", lab.model, cell["broken"]),
        row_of("IoU of the best concept, all units", cell["best"], "", lab.model),
        Row("concepts with boxes", float(cell["concepts"]), None, count),
    ]
    note = (
        "Network Dissection: each unit fires at the top 0.5 % of its values; a unit is named by the"
        " concept with the"
        f" largest IoU, if that is at least {LEAST_OVERLAP}. Concepts are the nouns of captions, their"
        " masks people's"
        " boxes. Most frequent names: " + ", ".join(f"{word} ({n})" for word, n in cell["words"]) + "."
    )
    table = Table("Figure 9, words for neurons", NAME, "ours", rows, True, 3, note)
    names = {int(unit): NeuronName(int(unit), word, score) for unit, word, score in cell["names"]}
    shown = lab.count(3, 2)
    told = lab.cell("sentences", lambda: {"rows": sentences(lab, names, shown)}, count=count, shown=shown)[
        "rows"
    ]
    caption = "The neurons that speak most for the decision (first row) and most against it (second row)"
    pictures = []
    for number, scene in enumerate(_shown(lab, shown)):
        pictures.append(
            lab.picture(
                f"neurons-{number}",
                f"{told[number]} - {caption}",
                partial(draw, lab, scene, names),
                count=count,
            )
        )
    return Section("Figure 9: words for neurons", [table], pictures, [f"{line}." for line in told])


def dissect(lab: Lab, count: int) -> dict[str, Any]:
    """Names of the units of the explained layer, from photographs of the training split."""
    known, broken = scenes(lab, "train", count)
    frequent = Counter(noun for scene in known for noun in scene.boxes)
    concepts = {noun for noun, images in frequent.items() if images >= min(LEAST_IMAGES, max(2, count // 20))}
    activations = torch.cat([_features(lab, scene) for scene in known])
    counts = Overlaps(firing_thresholds(activations))
    for scene, A in zip(known, activations, strict=True):
        masks = {noun: box_mask(boxes, MASK) for noun, boxes in scene.boxes.items() if noun in concepts}
        counts.add(A, masks, MASK)
    overlaps = counts.overlaps()
    names = name_units(overlaps, counts.concepts)
    words = Counter(name.concept for name in names.values())
    return {
        "names": [(name.unit, name.concept, name.score) for name in names.values()],
        "named": len(names),
        "units": len(overlaps),
        "concepts": len(counts.concepts),
        "best": summarised(overlaps.amax(1)) if overlaps.shape[1] else summarised([]),
        "words": words.most_common(12),
        "broken": broken,
    }


def _features(lab: Lab, scene: Scene) -> Tensor:
    with untouched(lab.classifier.network.module):
        return lab.classifier.explainable.features(lab.classifier.images(scene.path)).float().cpu()


def _shown(lab: Lab, count: int) -> list[Scene]:
    return scenes(lab, "dev", count)[0]


def decision(lab: Lab, scene: Scene) -> tuple[str, Tensor, Tensor]:
    """The prediction for a photograph, the importance (K,) of each unit for it, and A (K, h, w)."""
    classifier = lab.classifier
    image = classifier.images(scene.path)
    best = int(classifier.logits(image)[0].argmax())
    with untouched(classifier.network.module):
        A, output = classifier.explainable.split(image)
        with torch.enable_grad():
            alpha = importance(score_table(as_targets(best), output, 1), A)[0, 0]
    return classifier.labels[best], alpha.detach(), A[0].detach()


def sentences(lab: Lab, names: dict[int, NeuronName], count: int) -> list[str]:
    """The textual explanation of each photograph's prediction."""
    found = []
    for scene in _shown(lab, count):
        said, alpha, _ = decision(lab, scene)
        found.append(reasons(alpha, names).sentence(said))
    return found


def draw(lab: Lab, scene: Scene, names: dict[int, NeuronName]) -> Any:
    """The photograph, and where the top and the bottom neurons fire."""
    from PIL import Image

    from common.draw import Tile, draw_map, fitted, panel
    from common.images import open_image

    image = fitted(open_image(scene.path), 320)
    said, alpha, A = decision(lab, scene)
    found = reasons(alpha, names)
    blank = Image.new("RGB", image.size, "white")
    tiles = []
    for side, rows in (("for it", found.for_it), ("against it", found.against_it)):
        tiles.append(Tile(image, said, side))
        for name, weight in rows:
            note = f"unit {name.unit}, importance {weight:.2g}"
            tiles.append(Tile(draw_map("gradcam", image, A[name.unit]), name.concept, note))
        tiles += [Tile(blank, "")] * (5 - len(rows))
    return panel(f"Why '{said}'", tiles, 6, (), 150)
