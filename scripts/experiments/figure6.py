"""Figure 6: the most confident mistakes, with Guided Grad-CAM for the class that was said and for the true one."""

from PIL import Image

from common.draw import Tile, draw_map, fitted, legends_of, panel
from common.gradcam import explain
from common.images import open_image
from scripts.experiments.lab import Lab
from scripts.experiments.report import Row, Section, Table
from scripts.experiments.run import alone
from scripts.experiments.samples import NAME, Sample, pixels, samples

METHOD = "guided_gradcam"


def section(lab: Lab) -> Section:
    """Figure 6, failure modes."""
    lab = lab.on("samples")
    known, broken = samples(lab)
    worst = sorted((s for s in known if not s.right), key=lambda s: -s.probability)[: lab.count(6, 3)]
    accuracy = sum(sample.right for sample in known) / len(known)
    error = (accuracy * (1 - accuracy) / len(known)) ** 0.5
    row = Row("top-1 accuracy", accuracy, error, len(known), "", lab.model, broken)
    table = Table("Figure 6, how often the classifier is right", NAME, "share", [row], True)
    if not worst:
        return Section("Figure 6: failures", [table], notes=["The classifier made no mistake on these photographs."])
    caption = "The most confident mistakes: photograph, Guided Grad-CAM for what was said and for the true class"
    names = [sample.path.name for sample in worst]
    picture = lab.picture("failures", caption, lambda: draw(lab, worst), files=names)
    return Section("Figure 6: failures", [table], [picture])


def draw(lab: Lab, chosen: list[Sample]) -> Image.Image:
    """A row for each mistake, by the method that the paper shows."""
    labels, tiles = lab.classifier.labels, []
    for sample in chosen:
        image = fitted(open_image(sample.path), 320)
        targets = [sample.predicted, sample.label]
        found = explain(lab.classifier.explainable, pixels(lab, [sample]), targets, methods=METHOD)
        said, true = labels[sample.predicted], labels[sample.label]
        tiles.append(Tile(image, "Photograph", f"of the class {true}"))
        named = ((said, f"said with {sample.probability:.0%}"), (true, "the true class"))
        for heat, (name, note) in zip(found.maps[METHOD][:, 0], named, strict=True):
            tiles.append(Tile(draw_map(METHOD, image, heat), name, note))
    return panel("The most confident mistakes, and why", tiles, 3, legends_of((METHOD,)), 230)


if __name__ == "__main__":
    alone("fig6", __doc__)
