"""How far the mean of a few seeds may be off: test clips and seeds of distillation, whose variances add up.

Two or three seeds drawn with replacement keep half or two thirds of their variance, and one seed none, so that a
bootstrap over them finds differences where none are. Here a seed's variance is one for all cells of a study, of each
cell's deviations from its own mean taken together, and a test knows on how many of them it stands: Welch's t, with the
degrees of freedom of Satterthwaite (doi:10.2307/3002019).

Shape letters: S seeds of distillation, R resamples of the test clips.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isinf, sqrt

import numpy as np
import scipy.stats

from distill.evidence.statistics import COVERAGE


@dataclass(frozen=True)
class Variance:
    """An estimate, and the degrees of freedom that it stands on; 0: nothing is known of it."""

    value: float
    freedom: float

    def __add__(self, other: "Variance") -> "Variance":
        """Of a sum of independent parts (Satterthwaite); a part of which nothing is known is left out."""
        known = [part for part in (self, other) if part.freedom]
        whole = sum(part.value for part in known)
        if isinf(whole):
            return Variance(inf, 1.0)
        if not whole:
            return Variance(0.0, max((part.freedom for part in known), default=0.0))
        return Variance(whole, whole**2 / sum(part.value**2 / part.freedom for part in known))

    def scaled(self, by: float) -> "Variance":
        return Variance(by * self.value, self.freedom)

    def interval(self, value: float) -> list[float] | None:
        """The 95 % interval of a value with this variance; None where it may be any."""
        if isinf(self.value):
            return None
        half = float(scipy.stats.t.ppf((1 + COVERAGE) / 2, self.freedom)) * sqrt(self.value) if self.value else 0.0
        return [value - half, value + half]

    def p_value(self, value: float) -> float | None:
        """Of a value so far from 0, were it 0; two-sided. None where the variance may be any."""
        if isinf(self.value):
            return None
        if not self.value:
            return float(value == 0)
        return float(2 * scipy.stats.t.sf(abs(value) / sqrt(self.value), self.freedom))


def of_clips(scores_R: np.ndarray, units: int) -> Variance:
    """Of a score, or of the difference of two on the same resamples; units: how many clips (or speakers) were drawn.

    Of a single clip it may be any: infinite.
    """
    scores_R = scores_R[np.isfinite(scores_R)]
    if units < 2 or len(scores_R) < 2:
        return Variance(inf, 1.0)
    return Variance(float(np.var(scores_R, ddof=1)) * units / (units - 1), units - 1.0)


def of_seed(cells: Iterable[Sequence[float]]) -> Variance:
    """Of one seed's score about its cell's mean, of all cells (S each) together; freedom 0 where each has one seed."""
    all_S = [np.asarray(values_S, float) for values_S in cells]
    freedom = sum(len(values_S) - 1 for values_S in all_S)
    squares = sum(float(np.square(values_S - values_S.mean()).sum()) for values_S in all_S)
    return Variance(squares / freedom if freedom else 0.0, float(freedom))
