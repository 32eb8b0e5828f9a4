"""A second opinion: a mixed-effects model of the same answers, by statsmodels.

Fixed effects of the methods, random intercepts of people and of photographs, fitted by restricted maximum likelihood.
Of right and wrong answers it is a linear probability model: its differences are shares, as the table's. A method is
taken to be as much better on each photograph and for each person, which the intervals of estimates.py don't ask for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from scripts.study.answers import Scores

MISSING = "no second opinion by a mixed-effects model: it needs statsmodels; pip install 'saywhy[study]'"


@dataclass(frozen=True)
class Mixed:
    """Coefficients of the methods (M,), their covariance (M, M), and the deviations of what is random."""

    means: np.ndarray
    covariance: np.ndarray
    people: float
    photographs: float
    rest: float

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """One method's mean less another's, and its standard error."""
        variance = self.covariance[one, one] + self.covariance[other, other] - 2 * self.covariance[one, other]
        return float(self.means[one] - self.means[other]), float(np.sqrt(max(variance, 0.0)))


def mixed_model(scores: Scores) -> Mixed:
    """Fit the model. Raises `UserError` without statsmodels, and where the model can't be fitted to the answers."""
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
    except ImportError as missing:
        raise UserError(MISSING) from missing
    design = np.eye(len(scores.names))[scores.methods]
    random = [np.eye(int(each.max()) + 1)[each] for each in (scores.people, scores.photographs)]
    names = ["people", "photographs"]
    columns = [[[f"{name}{n}" for n in range(each.shape[1])]] for name, each in zip(names, random, strict=True)]
    parts = VCSpec(names, columns, [[each] for each in random])
    groups = np.zeros(len(scores.values))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a variance of zero is told in its place
            found = MixedLM(scores.values, design, groups, exog_vc=parts).fit(reml=True)
    except (np.linalg.LinAlgError, ValueError) as problem:
        raise UserError(f"the mixed-effects model can't be fitted to these answers ({problem})") from problem
    count = len(scores.names)
    covariance = np.asarray(found.cov_params())[:count, :count]
    if not np.isfinite(covariance).all():
        raise UserError("the mixed-effects model can't be fitted to these answers: too few of them")
    people, photographs = (float(np.sqrt(max(each, 0.0))) for each in found.vcomp)
    return Mixed(np.asarray(found.fe_params), covariance, people, photographs, float(np.sqrt(found.scale)))
