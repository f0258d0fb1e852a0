"""From a sum over parts to the time of a whole network, and how far off that is."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Correction:
    """A network's milliseconds are `offset_ms + factor` x the sum of its parts' milliseconds."""

    offset_ms: float
    factor: float

    @classmethod
    def fit(cls, sums: np.ndarray, wholes: np.ndarray) -> "Correction":
        """Least squares; without an offset where the times do not grow with the sums."""
        if np.ptp(sums) > 0:
            factor, offset = np.polyfit(sums, wholes, 1)
            if factor > 0:
                return cls(float(offset), float(factor))
        return cls(0.0, float(sums @ wholes / (sums @ sums)))

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """The corrected milliseconds."""
        return self.offset_ms + self.factor * sums


@dataclass(frozen=True)
class HeldOut:
    """How far predictions are from networks that took no part in the fit.

    Errors are relative to the measured time. Rank correlations, which the correction leaves as they
    are, are None where the sums or the measured times are all alike.
    """

    mean_error_before: float
    mean_error_after: float
    worst_error_before: float
    worst_error_after: float
    kendall: float | None
    spearman: float | None

    @classmethod
    def of(cls, sums: np.ndarray, wholes: np.ndarray, correction: Correction) -> "HeldOut":
        """Compare the sums of parts with whole networks, (n,) both."""
        before = np.abs(sums / wholes - 1)
        after = np.abs(correction(sums) / wholes - 1)
        ranked = np.ptp(sums) > 0 and np.ptp(wholes) > 0
        return cls(
            float(before.mean()),
            float(after.mean()),
            float(before.max()),
            float(after.max()),
            float(stats.kendalltau(sums, wholes).statistic) if ranked else None,
            float(stats.spearmanr(sums, wholes).statistic) if ranked else None,
        )
