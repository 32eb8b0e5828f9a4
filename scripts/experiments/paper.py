"""What the paper reports, row by row: the published result, our experiment, and how far ours follows its protocol.

Selvaraju et al., IJCV 2019 (arXiv 1610.02391v4). Values that could not be checked against its text say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from data.readers import coco, voc

_SPEAKERS = ("captioner", "VQA model")
COUNT = (5000, 50)  # photographs of ILSVRC's validation set, in all and in a quick run
PART = "data (a part of COCO, by its boxes where it has no outlines)"
RANKED = (2510, 4, 100)  # photographs of VOC's val split in section 5.3, in all, in a quick run, on a CPU
WORDS = (1000, 10, 200)  # and of figure 11
SEGMENTED = (1449, 10, 200)  # and of figure 4


@dataclass(frozen=True)
class Reported:
    """One experiment of the paper. `section` is ours, `tables` what the titles of its tables start with.

    `network` is the paper's; `differs` says what else is not as published, of a lab and the data it has.
    """

    paper: str
    experiment: str
    published: str
    section: str
    tables: str
    network: str
    differs: Callable[[Any], Sequence[str]]
    facade: str = "classifier"

    def protocol(self, lab: Any) -> str:
        """'as published', or what differs."""
        parts = list(self.differs(lab))
        if parts and parts[0].startswith("not "):
            return parts[0]
        ours = lab.model if self.facade == "classifier" else f"our {self.facade}"
        if self.network and ours not in self.network.lower().replace("-", ""):
            parts.insert(0, f"network ({ours}, not {self.network})")
        return f"differs in {'; '.join(parts)}" if parts else "as published"


def _number(lab: Any) -> list[str]:
    """What ILSVRC's experiments leave out of its validation set."""
    count = lab.count(*COUNT)
    return [f"number of photographs ({count:,} of 50,000)"] if count < 50_000 else []


def _fewer(lab: Any, years: tuple[str, ...], listing: str, published: int, count: int) -> list[str]:
    """How many of the photographs that the paper had VOC's list names, and the experiment takes."""
    if "voc" not in lab.data:
        return []
    try:
        root = voc.find_root(lab.data["voc"], years)
        there = len((root / "ImageSets" / listing).read_text(encoding="utf-8").split())
    except (UserError, OSError):
        return []
    taken = min(count, there)
    return [f"number of photographs ({taken:,} of {published:,})"] if taken < published else []


def _segmented(lab: Any) -> list[str]:
    """What differs of figure 4."""
    if "voc" not in lab.data:
        return ["data (boxes of Flickr8k)"]
    fewer = _fewer(lab, ("2012", "2007"), "Segmentation/val.txt", 1449, lab.count(*SEGMENTED))
    return [*fewer, *(["last layers alone are trained (a CPU)"] if lab.device == "cpu" else [])]


def _voc(lab: Any) -> list[str]:
    """The data of experiments on VOC 2007 val."""
    if "voc" not in lab.data:
        return ["data (ImageNet samples)"]
    try:
        name = voc.find_root(lab.data["voc"], ("2007", "2012")).name
    except UserError:
        return ["data"]
    other = [] if name == "VOC2007" else [f"data ({name.replace('VOC', 'VOC ')})"]
    return [*other, *_tuned(lab)]


def _tuned(lab: Any) -> list[str]:
    """How the classifier of another data set's classes was trained."""
    return ["the classifier's last layer alone is trained (a CPU)"] if lab.device == "cpu" else []


def _ranked(lab: Any) -> list[str]:
    return [*_voc(lab), *_fewer(lab, ("2007", "2012"), "Main/val.txt", RANKED[0], lab.count(*RANKED))]


def _regions(lab: Any) -> list[str]:
    if "densecap" in lab.data:
        return []
    genome = "visualgenome" in lab.data
    return ["regions of people, of Visual Genome" if genome else "phrases and boxes of people, of Flickr8k"]


def _boxes(lab: Any) -> list[str]:
    if "imagenet" in lab.data:
        return _number(lab)
    given = [kind.upper() for kind in ("voc", "coco") if kind in lab.data]
    return [f"data ({' and '.join(given) or 'Flickr8k'} boxes, not ILSVRC-15 val)", "the class is given, not predicted"]


def _pointing(lab: Any) -> list[str]:
    if "coco" in lab.data:
        return [*([] if _whole(lab) else [PART]), *_tuned(lab)]
    if "voc" in lab.data:
        return ["data (VOC)", *_tuned(lab)]
    return ["data (nouns and boxes of Flickr8k)", "classes are ImageNet's, in groups"]


def _shown(lab: Any) -> str:
    """What units are named by in figure 9."""
    return " and ".join(["Flickr8k", *(kind.upper() for kind in ("voc", "coco") if kind in lab.data)])


def _words(lab: Any) -> list[str]:
    """What differs of figure 11."""
    if "coco" not in lab.data or not coco.has_instances(lab.data["coco"]):
        return ["data (phrases and boxes of Flickr8k)"]
    count = lab.count(*WORDS)
    fewer = [f"number of photographs ({count:,})"] if count < 1000 else []
    return [*fewer, *([] if _whole(lab) else [PART])]


def _whole(lab: Any) -> bool:
    """Whether COCO is in its published layout, with a validation set of its own."""
    try:
        coco.find_instances(lab.data["coco"], "val")
    except UserError:
        return False
    return True


ROWS = (
    Reported(
        "Figure 1", "two classes in one photograph", "a picture", "fig1", "Figure 1", "VGG-16 and ResNet",
        lambda lab: ["photograph"],
    ),
    Reported(
        "Figure 3", "counterfactual explanations", "a picture", "fig3", "Figure 3", "VGG-16", lambda lab: ["photograph"]
    ),
    Reported(
        "Table 1", "localisation error, top-1, ILSVRC-15 val", "Grad-CAM 56.51 %, CAM (VGG-GAP) 57.20 %",
        "table1", "Table 1", "VGG-16", _boxes,
    ),
    Reported(
        "Figure 4", "weakly supervised segmentation, VOC 2012", "IoU 49.6 with Grad-CAM's seeds, 44.6 with CAM's",
        "fig4", "Figure 4, weakly", "VGG-16", _segmented,
    ),
    Reported(
        "4.3", "pointing game with the option to reject, COCO", "Grad-CAM 70.58 %, c-MWP 60.30 %", "pointing",
        "4.3, pointing game with reject", "GoogLeNet", _pointing,
    ),
    Reported(
        "5.1", "class discrimination, 43 people, VOC 2007 val",
        "Guided Grad-CAM 61.23 %, Guided Backprop 44.44 %, Deconv Grad-CAM 60.37 %, Deconv 53.33 %", "discrimination",
        "5.1", "VGG-16 and AlexNet",
        lambda lab: ["a rule in the place of people, whom `saywhy study` asks", *_voc(lab)],
    ),
    Reported(
        "5.2", "trust, 54 people: VGG-16 against AlexNet", "Guided Grad-CAM +1.27, Guided Backprop +1.00", "", "-", "",
        lambda lab: ["not done: it needs people; `saywhy study` builds it, serves it and analyses the answers"],
    ),
    Reported(
        "5.3", "rank correlation with occlusion, VOC 2007 val, 2,510 images",
        "Guided Grad-CAM 0.261, Grad-CAM 0.254, c-MWP 0.220, CAM 0.208, Guided Backprop 0.168", "faithfulness",
        "5.3, faithfulness", "VGG-16", _ranked,
    ),
    Reported(
        "Figure 6", "failures", "a picture", "fig6", "Figure 6", "VGG-16", lambda lab: ["data (ImageNet samples)"]
    ),
    Reported(
        "Figure 7", "adversarial images", "'airliner' > 0.9999; cat and dog still localised", "fig7", "Figure 7",
        "VGG-16", lambda lab: ["photographs (ImageNet samples)"],
    ),
    Reported(
        "Figure 8", "dataset bias: doctors and nurses", "82 % to 90 % when rebalanced", "fig8", "Figure 8", "VGG-16",
        lambda lab: ["data (dogs and children)", "trunk not trained"],
    ),
    Reported(
        "Figure 9", "textual explanations by neurons, Places365", "a picture", "fig9", "Figure 9", "VGG-16",
        lambda lab: [f"data ({_shown(lab)})", f"names {'of our own' if lab.neuron_names is None else 'given'}"],
    ),
    Reported(
        "Figure 10a", "captions", "a picture", "fig10", "-", "neuraltalk2", lambda lab: ["photographs"], _SPEAKERS[0]
    ),
    Reported(
        "Figure 10b", "activation inside over outside DenseCap's regions, 5 an image",
        "Grad-CAM 3.27 ± 0.18, Guided Grad-CAM 6.38 ± 0.99, Guided Backprop 2.32 ± 0.08", "fig10", "Figure 10b",
        "neuraltalk2", _regions, _SPEAKERS[0],
    ),
    Reported(
        "Figure 11", "words of people's captions point at COCO's masks, 1,000 images", "30.0 %", "fig11", "Figure 11",
        "Show and Tell", _words, _SPEAKERS[0],
    ),
    Reported(
        "Figure 12a", "one question, four answers", "a picture", "fig12", "-", "deeper LSTM Q + norm I",
        lambda lab: ["photograph"], _SPEAKERS[1],
    ),
    Reported(
        "8.2", "VQA, rank correlation with occlusion", "Grad-CAM 0.60 ± 0.038, Guided Backprop 0.42 ± 0.038", "vqa",
        "8.2, VQA maps and occlusion", "deeper LSTM Q + norm I",
        lambda lab: ["questions (VQA v2)", "windows (the paper's size is not known)"], _SPEAKERS[1],
    ),
    Reported(
        "8.2", "VQA, rank correlation with human attention (VQA-HAT), 1,374 pairs", "Grad-CAM 0.136", "vqa",
        "8.2, VQA maps and human attention", "deeper LSTM Q + norm I",
        lambda lab: [] if "vqahat" in lab.data else ["not done: no VQA-HAT data; give its folder with --vqahat PATH"],
        _SPEAKERS[1],
    ),
    Reported(
        "Figure 12b", "co-attention, layer by layer", "a picture", "fig12", "-", "ResNet-200 with co-attention",
        lambda lab: ["photograph", "no co-attention; `saywhy train vqa --model coattention`"], _SPEAKERS[1],
    ),
    Reported(
        "Appendix B", "ablations, top-1 localisation error (%)",
        "Grad-CAM 59.65, without the ReLU 74.98, guided ReLU 59.14, deconv ReLU 83.95", "appendix_b", "Appendix B",
        "VGG-16", lambda lab: _number(lab) if "imagenet" in lab.data else ["measure and data (share of mosaics)"],
    ),
    Reported(
        "Reinforcement learning", "named as a family; no experiment", "-", "", "-", "",
        lambda lab: ["not in the paper; `python -m scripts.experiments.policy` explains a policy"],
    ),
)  # fmt: skip


def reported(lab: Any) -> list[dict[str, str]]:
    """The rows as the report and `results.json` have them."""
    keys = ("paper", "experiment", "published", "section", "tables")
    return [{**{key: getattr(row, key) for key in keys}, "protocol": row.protocol(lab)} for row in ROWS]
