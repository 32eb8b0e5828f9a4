"""Figure 7: the network is made to see an airliner that is not there; do the true classes' maps stay?"""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.checks.adversarial import psnr, targeted
from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.gradcam import explain
from common.images import open_image
from common.metrics.faithfulness import rank_correlation
from common.state import untouched
from common.targets import logits
from scripts.experiments.drawing import TWO_CLASS_NAMES, TWO_CLASSES
from scripts.experiments.lab import Lab, measured, paired
from scripts.experiments.report import Section, Table, against, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, Sample, pixels, right_samples

WANTED = "airliner"
EPSILON = 8 / 255
# What is measured of each sample: a table's title and measure, and its rows by key, with what was published of them.
TABLES = {
    ("adversarial images", "probability"): {"chance": (f"'{WANTED}'", "> 0.9999")},
    ("size of the change", "PSNR (dB)"): {"psnr": ("image after, to image before", "")},
    ("maps before and after", "rank correlation"): {
        "same": ("map of the true class", ""), "other": ("map of another class, for scale", ""),
    },
    ("peak after is where the map was above half its maximum", "share"): {
        "stays": ("peak of the true class", ""), "chance_stays": ("a random point", ""),
    },
}  # fmt: skip
ROWS = [key for rows in TABLES.values() for key in rows]


def section(lab: Lab) -> Section:
    """Figure 7, adversarial images."""
    lab = lab.on("samples")
    count = lab.count(20, 2)
    cell = lab.cell("airliner", lambda: measure(lab, count), count=count)
    note = (
        f"Targeted iterative FGSM in steps of 1/255, no pixel changed by more than {EPSILON * 255:.0f}/255. The paper"
        " shows that the cat and the dog of its picture are still localised; the correlation says how much of the map"
        " stays, and the peak whether the class is still found where it was."
    )
    tables = [_table(lab, cell, *title, rows) for title, rows in TABLES.items()]
    caption = "Before and after: what the network says has changed; maps of two classes that are there"
    picture = lab.picture("adversarial", caption, lambda: draw(lab))
    return Section("Figure 7: adversarial images", tables, [picture], [note])


def _table(lab: Lab, cell: dict[str, Any], title: str, measure: str, rows: dict[str, tuple[str, str]]) -> Table:
    (key, (first, published)), *others = rows.items()
    made = [row_of(first, cell[key], published, lab.model)]
    made += [against(row_of(name, cell[n], shown), paired(cell[n], cell[key])) for n, (name, shown) in others]
    digits = 5 if measure == "probability" else 2
    return Table(f"Figure 7, {title}", NAME, measure, made, True, digits, reference=first if others else "")


def attacked(lab: Lab, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels before, pixels after, and the probability of the wanted class (B,)."""
    preprocessing = lab.classifier.preprocessing
    before = preprocessing.denormalise(images).clamp(0, 1)
    wanted = torch.full((len(images),), lab.classifier.labels.find(WANTED))

    def score(values: Tensor) -> Tensor:
        return logits(lab.classifier.network.logits(preprocessing.normalise(values)))

    with untouched(lab.classifier.network.module):
        after, chance = targeted(score, before, wanted, EPSILON)
    return before, after, chance


def measure(lab: Lab, count: int) -> dict[str, Any]:
    """Attack rightly classified samples one by one; what it takes and what it does to the maps."""
    model, normalise = lab.classifier.explainable, lab.classifier.preprocessing.normalise
    wanted = lab.classifier.labels.find(WANTED)
    chosen = [sample for sample in right_samples(lab, count) if sample.label != wanted]

    def changes(number: int, sample: Sample) -> dict[str, Any]:
        before, after, chance = attacked(lab, pixels(lab, [sample]))
        targets = [sample.label, chosen[number - 1].label]
        first, second = (explain(model, normalise(values), targets).heatmaps[:, 0] for values in (before, after))
        half = first[0] > first[0].max() / 2
        return {
            "chance": chance,
            "psnr": psnr(before, after),
            "same": rank_correlation(second[:1], first[:1]),
            "other": rank_correlation(second[1:], first[:1]),
            "stays": half.flatten()[second[0].argmax()],
            "chance_stays": half.double().mean(),
        }

    return measured(chosen, changes, ROWS)


def draw(lab: Lab) -> Image.Image:
    """The bundled photograph with two classes in it, before and after."""
    classifier = lab.classifier
    photograph = open_image(TWO_CLASSES)
    before, after, chance = attacked(lab, classifier.images(photograph))
    tiles, targets = [], [classifier.labels.find(name) for name in TWO_CLASS_NAMES]
    change = f"'{WANTED}' with {float(chance[0]):.4%}; PSNR {float(psnr(before, after)[0]):.1f} dB"
    for values, note in ((before, "as it is"), (after, change)):
        image = fitted(_picture(values).resize(photograph.size), 320)
        found = explain(classifier.explainable, classifier.preprocessing.normalise(values), targets)
        tiles.append(Tile(image, "Photograph", note))
        for name, heat in zip(TWO_CLASS_NAMES, found.heatmaps[:, 0], strict=True):
            tiles.append(Tile(draw_map("gradcam", image, heat), name, "Grad-CAM"))
    return panel(f"An {WANTED}, says the network", tiles, 3, legends_of(("gradcam",)), 230)


def _picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())


if __name__ == "__main__":
    alone("fig7", __doc__)
