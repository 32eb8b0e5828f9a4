"""Figure 9: words for neurons, and decisions explained in the words of the neurons that mattered."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.checks.dissection import (
    LEAST_OVERLAP,
    NeuronName,
    Overlaps,
    firing_thresholds,
    name_units,
    read_names,
    reasons,
)
from common.draw import Tile, draw_map, fitted, panel
from common.images import open_image
from data.words.english import singular
from scripts.experiments.concepts import KINDS, MASK, seen_photographs
from scripts.experiments.facades import SAYS, explained, feature_map
from scripts.experiments.lab import Absent, Lab, measured
from scripts.experiments.report import Picture, Row, Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.scenes import DEV, Scene, scenes

LEAST_IMAGES = 8  # a concept needs boxes in so many photographs
LEAST_SHARE = 1 / 3  # of |importance|, that units with a name have to hold for a sentence in these names
NOTE = (
    "Network Dissection: each unit fires at the top 0.5 % of its values, and is named by the concept with the largest"
    f" IoU, if that is at least {LEAST_OVERLAP}; of several sources the best name counts. A unit of something that no"
    " source names takes the nearest concept. Sentences name the five named units of largest and of smallest importance"
    " (eq. 1), and say what units with a name hold of the sum of |importance|; where that is less than a third, the"
    " decision cannot be said in these names. Importance is a gradient: a unit may matter and be silent here."
)
CAPTION = "Where the neurons fire that speak most for it (first row) and most against it (second row)"


def section(lab: Lab) -> Section:
    """Figure 9, textual explanations."""
    lab = lab.on("flickr8k")
    count, shown = lab.count(600, 15), lab.count(2, 1)
    tables: list[Table] = []
    pictures: list[Picture] = []
    notes: list[str] = []
    shares: list[Row] = []
    for task in SAYS:
        try:
            lab.facade(task)
        except Absent as absent:
            notes.append(f"Left out: {absent}")
            continue
        names, table = named(lab, task, count)
        tables.append(table)
        shares.append(share_row(lab, task, names))
        settings = {"count": count, "shown": shown, "mark": lab.mark(task), "names": _mark(names)}
        photographs = scenes(lab, "dev", shown)[0]
        told = lab.cell(f"sentences-{task}", partial(_told, lab, task, names, photographs), **settings)
        for number, (scene, lines) in enumerate(zip(photographs, told["rows"], strict=True)):
            for part, line in enumerate(lines):
                caption = f"{task[0].upper()}{task[1:]}, {line}. {CAPTION}"
                painted = partial(draw, lab, task, scene, names, part)
                pictures.append(lab.picture(f"neurons-{task}-{number}-{part}", caption, painted, **settings))
    title = "Figure 9, what units with a name hold of the sum of |importance|"
    tables.append(
        Table(title, DEV, "share", shares, True, 3, f"Below {LEAST_SHARE:.2f} a decision is not put in words.")
    )
    return Section("Figure 9: words for neurons", tables, pictures, notes)


def named(lab: Lab, task: str, count: int) -> tuple[dict[int, NeuronName], Table]:
    """Names of a model's units, found in the photographs or read from the file that the user gave, and a table."""
    if task == "classifier" and lab.neuron_names is not None:
        return _from_file(lab, lab.neuron_names)
    cells = {}
    for kind in (kind for kind in KINDS if kind in lab.data):
        bound = lab.on(kind)
        measure = partial(dissect, bound, task, kind, count)
        cells[kind] = bound.cell(f"units-{task}-{kind}", measure, count=count, mark=lab.mark(task))
    names = best_names([NeuronName(int(unit), *rest) for cell in cells.values() for unit, *rest in cell["names"]])
    model, units = lab.model if task == "classifier" else task, next(iter(cells.values()))["units"]
    rows = []
    for kind, cell in cells.items():
        concepts = f"{cell['concepts']} concepts in {cell['images']} photographs"
        rows.append(Row(f"named units, {KINDS[kind]}", cell["named"] / units, None, units, "", model, 0, concepts))
        chance = f"{KINDS[kind]}, of another photograph: chance"
        rows.append(Row(chance, len(cell["by_chance"]) / units, None, units, "", model, cell["broken"]))
    if len(cells) > 1:
        rows.append(Row("named units, all of these", len(names) / units, None, units, "", model))
        chance_units = {unit for cell in cells.values() for unit in cell["by_chance"]}
        rows.append(
            Row("all of these, of another photograph: chance", len(chance_units) / units, None, units, "", model)
        )
    frequent = Counter(name.concept for name in names.values()).most_common(12)
    note = f"{NOTE} Most frequent names: {', '.join(f'{word} ({n})' for word, n in frequent) or 'none'}."
    data = "; ".join(KINDS[kind] for kind in cells)
    return names, Table(_title(lab, task), data, "share", rows, True, 3, note)


def best_names(found: Sequence[NeuronName]) -> dict[int, NeuronName]:
    """The best-fitting name of each unit."""
    return {name.unit: name for name in sorted(found, key=lambda name: name.score)}


def share_row(lab: Lab, task: str, names: dict[int, NeuronName]) -> Row:
    """What units with a name hold of |importance|, of what the model says of photographs."""
    count = lab.count(60, 4)

    def held(number: int, scene: Scene) -> dict[str, float]:
        return {"held": reasons(_decisions(lab, task, scene, names)[0].alpha, names).share}

    def work() -> dict[str, Any]:
        return measured(scenes(lab, "dev", count)[0], held, ("held",))["held"]

    cell = lab.cell(f"held-{task}", work, count=count, mark=lab.mark(task), names=_mark(names))
    return row_of(SAYS[task], cell, "", lab.model if task == "classifier" else task)


def _from_file(lab: Lab, file: Path) -> tuple[dict[int, NeuronName], Table]:
    names = read_names(file, lab.neuron_layer)
    rows = [Row("units with a name", float(len(names)), None, len(names), "", lab.model)]
    common = Counter(name.concept for name in names.values()).most_common(12)
    words = ", ".join(f"{word} ({n})" for word, n in common)
    note = f"Names are read from the file and belong to the layer by its word. Most frequent names: {words}."
    return names, Table(_title(lab, "classifier"), f"names from {file.name}", "ours", rows, True, 0, note)


def _title(lab: Lab, task: str) -> str:
    model = lab.facade(task)
    return f"Figure 9, words for the {task}'s neurons (layer {model.layer or model.network.layer})"


def dissect(lab: Lab, task: str, kind: str, count: int) -> dict[str, Any]:
    """Names of the units of the explained layer, from photographs of one kind's training split."""
    known, broken = seen_photographs(lab, kind, count)
    there = [seen.masks() for seen in known]
    frequent = Counter(concept for masks in there for concept in masks)
    least = min(LEAST_IMAGES, max(2, count // 20))
    masks = [{name: mask for name, mask in each.items() if frequent[name] >= least} for each in there]
    activations = torch.cat([feature_map(lab.facade(task), seen.path) for seen in known])
    thresholds = firing_thresholds(activations)
    counts, chance = Overlaps(thresholds), Overlaps(thresholds)
    for A, own, other in zip(activations, masks, [*masks[1:], *masks[:1]], strict=True):
        counts.add(A, own, MASK)
        chance.add(A, other, MASK)
    overlaps = counts.overlaps()
    names = name_units(overlaps, counts.concepts)
    return {
        "names": [(name.unit, name.concept, name.score) for name in names.values()],
        "named": len(names),
        "by_chance": list(name_units(chance.overlaps(), chance.concepts)),
        "units": len(overlaps),
        "concepts": len(counts.concepts),
        "images": len(known),
        "broken": broken,
    }


@dataclass(frozen=True)
class Decision:
    """What was said (`context` says of what kind it is), the units' importance (K,) and the map A (K, h, w)."""

    context: str
    said: str
    alpha: Tensor
    A: Tensor


def decisions(task: str, model: Any, photograph: Path, nouns: Collection[str]) -> list[Decision]:
    """What a model says of a photograph, and of a caption the first word besides that is one of the nouns."""
    encoded = model.encode(photograph)
    A = feature_map(model, encoded)[0]
    found = explained(task, model, encoded)
    alpha = found.maps["importance"][:, 0].cpu()
    whole, *words = found.names
    first = whole.split(",")[0] if task == "classifier" else whole  # a class has several names
    made = [Decision(SAYS[task], first, alpha[0], A)]
    for place, word in enumerate(words, 1):
        if singular(word) in nouns:
            return [*made, Decision(f"a word of '{whole}'", word, alpha[place], A)]
    return made


def _decisions(lab: Lab, task: str, scene: Scene, names: dict[int, NeuronName]) -> list[Decision]:
    nouns = {name.concept for name in names.values()} | set(scene.boxes)
    return decisions(task, lab.facade(task), scene.path, nouns)


def _mark(names: dict[int, NeuronName]) -> str:
    text = repr(sorted((unit, name.concept) for unit, name in names.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _told(lab: Lab, task: str, names: dict[int, NeuronName], shown: list[Scene]) -> dict[str, Any]:
    """The textual explanations of each photograph's decisions."""

    def line(made: Decision) -> str:
        return f"{made.context}: {told(made, names)}"

    return {"rows": [list(map(line, _decisions(lab, task, scene, names))) for scene in shown]}


def told(made: Decision, names: dict[int, NeuronName]) -> str:
    """The decision in the names of its units and what these hold, or that it cannot be said in them."""
    found = reasons(made.alpha, names)
    held = f"units with a name hold {found.share:.0%} of the importance"
    if found.share < LEAST_SHARE:
        return f"'{made.said}' cannot be said in these names: {held}"
    return f"{found.sentence(made.said)} ({held})"


def draw(lab: Lab, task: str, scene: Scene, names: dict[int, NeuronName], part: int) -> Image.Image:
    """The photograph, and where the top and the bottom neurons of one decision fire."""
    image = fitted(open_image(scene.path), 320)
    decision = _decisions(lab, task, scene, names)[part]
    found = reasons(decision.alpha, names)
    blank = Image.new("RGB", image.size, "white")
    tiles = []
    for side, rows in (("for it", found.for_it), ("against it", found.against_it)):
        tiles.append(Tile(image, "Photograph", side))
        for name, weight in rows:
            fires = bool((decision.A[name.unit] > 0).any())
            note = f"unit {name.unit}, importance {weight:.1e}" + ("" if fires else "; silent here")
            tiles.append(Tile(draw_map("gradcam", image, decision.A[name.unit]), name.concept, note))
        tiles += [Tile(blank, "")] * (5 - len(rows))
    return panel(f"Why '{decision.said}' ({decision.context})", tiles, 6, (), 150)


if __name__ == "__main__":
    alone("fig9", __doc__)
