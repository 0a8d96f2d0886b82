"""Intervals for the results of several runs."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        estimate: the mean.
        low: lower end; None where there is no interval.
        high: upper end; None where there is no interval.
        n: how many values it comes from.
        level: of confidence, for instance 0.95.
        method: how the interval was made, in words.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    level: float
    method: str


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's t interval.

    ``mean ± t(n - 1) * s / sqrt(n)`` with the standard deviation s that divides by n - 1. One value
    has no interval.

    Args:
        values: finite, ``[n]``, n > 0.
        level: of confidence.

    >>> t_interval(np.array([1.0, 2.0, 3.0])).low
    -0.484...
    """
    values = np.asarray(values, np.float64)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, None, None, n, level, "none: one value")
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, float(mean - half), float(mean + half), n, level, "t")
