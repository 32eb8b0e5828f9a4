"""Figure 3 of the paper: counterfactuals, the regions that would make the network change its mind.

    python -m scripts.experiments.figure3                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure3 --image my.jpg --target boxer --target "tiger cat"

For each class Grad-CAM, and the counterfactual, the same with the gradient negated, in two ways. Of the logit it
shows what speaks against the class wherever that is, also where no class is; of the log-probability what speaks for
the other classes. To expect: by the log-probability, what speaks against one class is the other one, as the paper
shows.
"""

from typing import Any

from PIL import Image

from common.draw import Tile, draw_map, fitted, legends_of, panel
from scripts.experiments.drawing import ClassFigure
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

WAYS = {"logit": "of the logit", "log_probability": "by log-probability"}


class Counterfactuals(ClassFigure):
    """A row for each class: photograph, Grad-CAM, and the counterfactual in two ways."""

    def draw(self, classifier: Any, image: Image.Image, targets: Any) -> Image.Image:
        shown, seen = fitted(image), classifier.encode(image)
        found = {s: classifier.explain(seen, list(targets), methods=self.methods, score=s) for s in WAYS}
        likely = "; ".join(f"{p.label.split(',')[0]} {p.probability:.0%}" for p in classifier.predict(seen, top=3))
        tiles = []
        for row, name in enumerate(name.split(",")[0] for name in found["logit"].names):
            heat = draw_map("gradcam", shown, found["logit"].heatmaps[row, 0])
            tiles += [Tile(shown, "Photograph", likely), Tile(heat, f"Grad-CAM: {name}", "for it")]
            for score, way in WAYS.items():
                heat = draw_map("counterfactual", shown, found[score].maps["counterfactual"][row, 0])
                value = float(found[score].scores[row, 0])
                tiles.append(Tile(heat, f"Counterfactual: {name}", f"{way}, {value:.2f}"))
        note = f"{classifier.network.name}, layer {classifier.layer}; after figure 3 of Selvaraju et al."
        about = self.title.partition(": ")[2].capitalize()
        return panel(about, tiles, 4, legends_of(self.methods), note=note)


FIGURE = Counterfactuals(
    "figure3",
    ("gradcam", "counterfactual"),
    "Figure 3: what speaks for a class, and against it",
    "For each class Grad-CAM, and the counterfactual, what would make the network change its mind: of the class's logit"
    " alone, and by its log-probability, where the other classes speak against it as in the paper's picture; a bare"
    " photograph is a map of zeros",
)


def section(lab: Lab) -> Section:
    """Figure 3, counterfactuals."""
    return FIGURE.section(lab)


if __name__ == "__main__":
    FIGURE.main(__doc__)
