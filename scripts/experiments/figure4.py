"""Figure 4: weakly supervised segmentation: seeds from maps, and a network that is trained on them (SEC).

    python -m scripts.experiments.figure4 --voc VOCdevkit --device cuda

On VOC, for all 20 classes: a classifier fine-tuned on the training photographs' labels gives the seeds, and
`classification.segmenter` trains a segmentation network on them, which is measured on val with masks that neither has
seen. On a CPU that network's trunk stays the classifier's, and its map is a coarser one: an hour instead of a day for a
thousand photographs; `--device cuda` trains it all. Without VOC the same runs on Flickr8k: labels are nouns of the
captions, and what is measured against are boxes.
"""

from classification.segmentation import crf_package
from common.errors import UserError
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section
from scripts.experiments.run import alone
from scripts.experiments.segment_boxes import boxes_table, sec_boxes_tables, sec_picture
from scripts.experiments.segment_voc import sec_table, seeds_table, voc_picture

TITLE = "Figure 4: seeds for segmentation, and a network trained on them"
NOTE = (
    "The paper's 49.6 (Grad-CAM) and 44.6 (CAM) are the mean IoU, in per cent, of a VGG-16 segmentation network"
    " trained by SEC on 10,582 photographs, on VOC 2012 val. Seeds are what exceeds 20 % of the map's maximum;"
    " the background's seeds are the tenth of the photograph where the gradients of its classes are smallest."
)


def section(lab: Lab) -> Section:
    """Figure 4, weakly supervised segmentation."""
    given = "voc" in lab.data
    lab = lab.on("voc" if given else "flickr8k")
    tables = [seeds_table(lab) if given else boxes_table(lab)]
    notes = [NOTE, "Boxes hold background too: even a perfect mask would not reach 1."][: 1 if given else 2]
    try:
        crf_package()
    except UserError as missing:
        return Section(TITLE, tables, notes=[*notes, f"Left out: SEC training ({missing})"])
    if given:
        return Section(TITLE, [*tables, sec_table(lab)], [voc_picture(lab)], notes)
    return Section(TITLE, [*tables, *sec_boxes_tables(lab)], [sec_picture(lab)], notes)


if __name__ == "__main__":
    alone("fig4", __doc__)
