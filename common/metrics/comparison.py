"""Is one method better than another on the same photographs? Paired differences, and the words for them.

Two methods measured on the same photographs share what is hard about these; so their values are subtracted photograph
by photograph, and the difference has a standard error of its own, mostly smaller than that of either mean. A difference
counts beyond `ERRORS` standard errors. Nothing that this project writes says that one method beats another unless
`verdict` found it so.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.errors import UserError
from common.metrics.grounding import Summary, summary

ERRORS = 2.0  # standard errors that a difference has to exceed


def difference(
    these: Tensor | Sequence[float], those: Tensor | Sequence[float], groups: Sequence[int | str] | None = None
) -> Summary:
    """Mean and error of these less those, pair by pair; pairs of which either is undefined are left out.

    `groups` says which pairs are of one photograph, as in `summary`. Raises `UserError` for lists of unlike lengths.
    """
    a, b = (torch.as_tensor(values, dtype=torch.float64).flatten() for values in (these, those))
    if len(a) != len(b):
        raise UserError(f"{len(a)} values do not pair with {len(b)}; give both of the same photographs")
    return summary(a - b, groups)


def direction(found: Summary) -> int:
    """1 or -1 for a difference that is beyond doubt above or below zero, else 0.

    >>> direction(Summary(0.5, 0.1, 40)), direction(Summary(-0.5, 0.1, 40)), direction(Summary(0.1, 0.1, 40))
    (1, -1, 0)
    """
    if not (math.isfinite(found.mean) and math.isfinite(found.error)) or abs(found.mean) <= ERRORS * found.error:
        return 0
    return 1 if found.mean > 0 else -1


def verdict(name: str, others: Mapping[str, Summary], better: str = "high", digits: int = 3) -> str:
    """Which of the others a method is ahead of, behind, or not told apart from: one sentence, '' without others.

    `others` are the differences others less method, on measures where `better` is 'high' or 'low'.

    >>> verdict("Grad-CAM", {"the centre": Summary(-0.2, 0.01, 9), "noise": Summary(0.01, 0.02, 9)})
    'Grad-CAM is ahead of the centre (0.200 ± 0.010); no difference found from noise (0.010 ± 0.020).'
    """
    if better not in ("high", "low"):
        raise UserError(f"better is '{better}'; give 'high' or 'low'")
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for other, each in others.items():
        lead = -direction(each) * (1 if better == "high" else -1)
        if each.n and math.isfinite(each.mean):
            found[lead].append(f"{other} ({abs(each.mean):.{digits}f}{_spread(each, digits)})")
    parts = [(1, f"{name} is ahead of"), (-1, f"{name} is behind"), (0, "no difference found from")]
    said = [f"{words} {_listed(found[lead])}" for lead, words in parts if found[lead]]
    if found[0] and len(said) == 1:
        said = [f"{name}: {said[0]}"]
    return f"{'; '.join(said)}." if said else ""


def _spread(found: Summary, digits: int) -> str:
    return f" ± {found.error:.{digits}f}" if math.isfinite(found.error) else ", one photograph"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
