"""Figure 7: the network is made to see an airliner that is not there; do the true classes' maps stay?

python -m scripts.experiments.figure7 --samples PATH
"""

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
from scripts.experiments.lab import Lab, summarised
from scripts.experiments.report import Section, Table, row_of
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, pixels, right_samples

WANTED = "airliner"
EPSILON = 8 / 255


def section(lab: Lab) -> Section:
    """Figure 7, adversarial images."""
    lab = lab.on("samples")
    count = lab.count(20, 2)
    cell = lab.cell("airliner", lambda: measure(lab, count), count=count)
    rows = [
        row_of(f"probability of '{WANTED}'", cell["chance"], "> 0.9999", lab.model),
        row_of("PSNR of the change (dB)", cell["psnr"], "", lab.model),
        row_of("rank correlation of the true class's map", cell["same"], "", lab.model, "before and after"),
        row_of("the same, of another class's map", cell["other"], "", lab.model, "for scale"),
        row_of(
            "peak after is where the map was above half its maximum", cell["stays"], "", lab.model, "share"
        ),
        row_of("a random point is there", cell["chance_stays"], "", lab.model, "share, for scale"),
    ]
    note = (
        f"Targeted iterative FGSM in steps of 1/255, no pixel changed by more than {EPSILON * 255:.0f}/255. The paper"
        " shows that the cat and the dog of its picture are still localised; the correlation says how much of the map"
        " stays, and the peak whether the class is still found where it was."
    )
    table = Table("Figure 7, adversarial images", NAME, "ours", rows, True, 4, note)
    picture = lab.picture(
        "adversarial",
        "Before and after: the prediction changes, the evidence for the true class stays",
        lambda: draw(lab),
    )
    return Section("Figure 7: adversarial images", [table], [picture])


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
    wanted = lab.classifier.labels.find(WANTED)
    chosen = [sample for sample in right_samples(lab, count) if sample.label != wanted]
    names = ("chance", "psnr", "same", "other", "stays", "chance_stays")
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for place, sample in enumerate(chosen):
        before, after, chance = attacked(lab, pixels(lab, [sample]))
        other = chosen[place - 1].label
        maps = [
            explain(
                lab.classifier.explainable,
                lab.classifier.preprocessing.normalise(values),
                [sample.label, other],
            )
            for values in (before, after)
        ]
        first, second = (found.heatmaps[:, 0] for found in maps)
        rows["chance"].append(chance)
        rows["psnr"].append(psnr(before, after))
        rows["same"].append(rank_correlation(second[:1], first[:1]))
        rows["other"].append(rank_correlation(second[1:], first[:1]))
        half = first[0] > first[0].max() / 2
        rows["stays"].append(half.flatten()[second[0].argmax()].double()[None].cpu())
        rows["chance_stays"].append(half.double().mean()[None].cpu())
    return {name: summarised(torch.cat(values)) for name, values in rows.items()}


def draw(lab: Lab) -> Image.Image:
    """The bundled cat and espresso, before and after."""
    classifier = lab.classifier
    photograph = open_image(TWO_CLASSES)
    before, after, chance = attacked(lab, classifier.images(photograph))
    tiles, targets = [], [classifier.labels.find(name) for name in TWO_CLASS_NAMES]
    change = f"'{WANTED}' with {float(chance[0]):.4%}; PSNR {float(psnr(before, after)[0]):.1f} dB"
    for values, note in ((before, "as it is"), (after, change)):
        image = fitted(_picture(values).resize(photograph.size), 320)
        found = explain(classifier.explainable, classifier.preprocessing.normalise(values), targets)
        tiles.append(Tile(image, "Photograph", note))
        tiles += [
            Tile(draw_map("gradcam", image, found.heatmaps[t, 0]), TWO_CLASS_NAMES[t], "Grad-CAM")
            for t in range(len(targets))
        ]
    return panel(f"An {WANTED}, says the network", tiles, 3, legends_of(("gradcam",)), 230)


def _picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())


if __name__ == "__main__":
    alone("fig7", __doc__)
