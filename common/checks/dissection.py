"""Words for neurons: which concept each unit of a layer fires at, and what the important ones say of a decision.

Bau et al., Network Dissection (CVPR 2017), for the names; Selvaraju et al., section 7, for the explanation.
N images, K units (channels of a feature map), C concepts, h,w feature map, H,W mask.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.formulas import upsample
from common.images import PathLike

QUANTILE_SHARE = 0.005  # of all positions at which a unit counts as firing (Bau et al., section 2.2)
LEAST_OVERLAP = 0.05  # intersection over union that a name needs


@dataclass(frozen=True)
class NeuronName:
    """What a unit is called, and how well the name fits: intersection over union, or CLIP similarity."""

    unit: int
    concept: str
    score: float
    category: str = ""


def firing_thresholds(activations: Tensor, share: float = QUANTILE_SHARE) -> Tensor:
    """The value that each unit exceeds at `share` of all positions: activations (N, K, h, w) -> (K,)."""
    if activations.dim() != 4 or not activations.numel():
        raise UserError(f"activations are {tuple(activations.shape)}; give (N, K, h, w) of at least one image")
    if not 0 < share < 1:
        raise UserError(f"a share of positions is between 0 and 1, not {share}; the paper's is {QUANTILE_SHARE}")
    values = activations.transpose(0, 1).flatten(1).float()
    above = max(1, round(share * values.shape[1]))
    return values.kthvalue(values.shape[1] - above + 1, dim=1).values if above > 1 else values.amax(1)


@dataclass
class Overlaps:
    """Counts of pixels over images: where each unit fires, where each concept is, and where both are.

    Add images one by one; concepts may come in any order. Every image is taken to be annotated with all concepts.
    """

    thresholds: Tensor  # (K,)
    fires: Tensor = field(default_factory=lambda: torch.zeros(()))  # (K,) once there is an image
    covers: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)  # (K,) each

    @property
    def concepts(self) -> list[str]:
        return list(self.shared)

    def add(self, activations: Tensor, masks: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        """Count one image: its activations (K, h, w), upsampled to `size` (H, W), and its masks (H, W) by concept."""
        firing = upsample(activations[None].float(), size)[0] >= self.thresholds[:, None, None]
        firing &= activations.amax((-2, -1))[:, None, None] > 0  # a silent unit fires nowhere, whatever its threshold
        rows = firing.flatten(1).float()
        self.fires = self.fires + rows.sum(1)
        for concept, mask in masks.items():
            flat = mask.flatten().float()
            self.covers[concept] = self.covers.get(concept, 0) + int(flat.sum())
            self.shared[concept] = self.shared.get(concept, 0) + rows @ flat

    def overlaps(self) -> Tensor:
        """Intersection over union of units and concepts over all images: (K, C)."""
        if not self.shared:
            return torch.zeros(len(self.thresholds), 0, dtype=torch.float64)
        shared = torch.stack(list(self.shared.values()), 1).double()
        covers = torch.tensor(list(self.covers.values()), dtype=torch.float64)
        union = self.fires.double()[:, None] + covers - shared
        return shared / union.clamp(min=1)


def name_units(overlaps: Tensor, concepts: Sequence[str], least: float = LEAST_OVERLAP) -> dict[int, NeuronName]:
    """The best concept of each unit (K, C) whose overlap is at least `least`; other units go without a name."""
    if not len(concepts):
        return {}
    best = overlaps.max(1)
    return {
        unit: NeuronName(unit, concepts[place], score)
        for unit, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        if score >= least
    }


@dataclass(frozen=True)
class Reasons:
    """The units that speak most for a decision and most against it, by importance; only named ones are listed.

    `share` is what all units with a name hold of the sum of |importance|: how much can be said in these names at all.
    """

    for_it: tuple[tuple[NeuronName, float], ...]
    against_it: tuple[tuple[NeuronName, float], ...]
    share: float

    def sentence(self, decision: str) -> str:
        """The textual explanation, such as: 'bedroom' because of bed and lamp; against it speak grass and sky."""
        text = f"'{decision}'"
        if self.for_it:
            text += f" because of {_listed(self.for_it)}"
        if self.against_it:
            text += f"{'; ' if self.for_it else ' although '}{_listed(self.against_it)}"
            text += " speak against it" if len(_words(self.against_it)) > 1 else " speaks against it"
        return text if self.for_it or self.against_it else f"{text}: none of the important neurons has a name"


def reasons(alpha: Tensor, names: Mapping[int, NeuronName], count: int = 5) -> Reasons:
    """The `count` named units of largest and of smallest importance alpha (K,) (paper, section 7; eq. 1).

    Units with positive importance speak for the decision, units with negative importance against it.
    """
    if names and max(names) >= len(alpha):
        raise UserError(f"unit {max(names)} has a name, but the layer has units 0 to {len(alpha) - 1}")
    ranked = sorted(((names[unit], float(alpha[unit])) for unit in names), key=lambda pair: -pair[1])
    top = tuple(pair for pair in ranked if pair[1] > 0)[:count]
    bottom = tuple(pair for pair in ranked[::-1] if pair[1] < 0)[:count]
    weight = alpha.abs().double()
    return Reasons(top, bottom, float(weight[sorted(names)].sum() / weight.sum().clamp(min=1e-300)))


def read_names(path: PathLike, layer: str | None = None, least: float | None = None) -> dict[int, NeuronName]:
    """Names of units from a published CSV: NetDissect's `<layer>-result.csv` or CLIP-Dissect's `descriptions.csv`.

    NetDissect counts units from 1, CLIP-Dissect from 0; here they count from 0. `layer` picks one of
    CLIP-Dissect's. `least` defaults to 0.05 for NetDissect and to none for CLIP-Dissect, whose scores are
    similarities. Raises `UserError` naming file and line of what is neither.
    """
    rows = _rows(Path(path))
    columns = set(rows[0]) if rows else set()
    if {"unit", "category", "label", "score"} <= columns:
        found = [_netdissect(path, line, row) for line, row in enumerate(rows, 2)]
        least = LEAST_OVERLAP if least is None else least
    elif {"layer", "unit", "description", "similarity"} <= columns:
        known = list(dict.fromkeys(row["layer"] for row in rows))
        if layer is None and len(known) > 1 or layer is not None and layer not in known:
            raise UserError(f"{path} names units of the layers {', '.join(known)}, not '{layer}'; name one of them")
        found = [
            _neuron(path, line, row["unit"], 0, row["similarity"], row["description"])
            for line, row in enumerate(rows, 2)
            if layer in (None, row["layer"])
        ]
    else:
        raise UserError(
            f"{path} has the columns {', '.join(sorted(columns)[:6]) or 'of no table'}; expected unit,"
            "category,label,score (NetDissect) or layer,unit,description,similarity (CLIP-Dissect)"
        )
    return {name.unit: name for name in found if least is None or name.score >= least}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read neuron names from '{path}': {reason}; give the published CSV") from error


def _netdissect(path: PathLike, line: int, row: dict[str, str]) -> NeuronName:
    # Scenes end in -s, colours in -c; words are joined by underscores.
    concept = re.sub(r"-[sc]$", "", row["label"] or "").replace("_", " ")
    return _neuron(path, line, row["unit"], 1, row["score"], concept, row["category"])


def _neuron(
    path: PathLike, line: int, unit: str, first: int, score: str, concept: str | None, category: str | None = ""
) -> NeuronName:
    try:
        number, value = int(float(unit)) - first, float(score)
    except (TypeError, ValueError):
        raise UserError(f"{path}:{line}: unit and score are {[unit, score]}; expected numbers") from None
    return NeuronName(number, concept or "", value, category or "")


def _words(pairs: Sequence[tuple[NeuronName, float]]) -> list[str]:
    return list(dict.fromkeys(name.concept for name, _ in pairs))


def _listed(pairs: Sequence[tuple[NeuronName, float]]) -> str:
    words = _words(pairs)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
