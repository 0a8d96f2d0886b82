"""What a choice is worth that the same seeds make and judge: each seed gets the others' choice.

Where a seed helps to choose a rate, its luck there counts for the rate, on whichever images. The
gain of a choice by the other seeds has no such bias. But the choices hang together, and a mean of
such gains varies more than their scatter tells. Its variance is therefore taken to be
``s^2 * (1 / n + 1 / (n - 1))``, the correction of Nadeau and Bengio (2003) for cross-validation.

In 1,500 to 4,000 simulated studies each, of 10 seeds whose runs scatter by 0.2 points, 90% of it
shared by both sets of images: the mean gain over a fixed candidate in points, and in percent how
often a 5% test finds one and the 95% interval covers the truth.

============================  =========  =====  =====  ===========  ======
candidates                    chosen by  truth  mean   found        covers
============================  =========  =====  =====  ===========  ======
7, none better than another   all seeds  0.000  0.074  9 (t)
7, none better than another   others     0.000  0.00   11 (flips)
7, none better than another   others     0.000  0.00   2 (both)     98
7, of 7 different accuracies  all seeds  0.18   0.209
7, of 7 different accuracies  others     0.176  0.178  21 (both)    98
============================  =========  =====  =====  ===========  ======

"both" is what is used here: sign flips, and t with the corrected variance.
"""

import numpy as np
import scipy

from jax_lenet.statistics import Interval, PValue, finite


def best_by_others(scores: np.ndarray) -> np.ndarray:
    """Return for each seed which candidate the other seeds find best.

    Args:
        scores: higher is better, ``[candidates, seeds]``.

    Returns:
        Indices of candidates, ``[seeds]``, of equal ones the first. One seed alone has no others
        and chooses for itself.

    >>> best_by_others(np.array([[0.97, 0.98, 0.98], [0.99, 0.97, 0.97]]))
    array([0, 1, 1])
    """
    scores = finite(scores, 2)
    seeds = scores.shape[1]
    if seeds > 1:
        scores = (scores.sum(axis=1, keepdims=True) - scores) / (seeds - 1)
    return np.round(scores, 12).argmax(axis=0)  # without the rounding of the sum


def variance_factor(n: int) -> float:
    """Return by how much the variance of a mean of n gains is larger than ``s^2 / n``."""
    return 1 + n / (n - 1)


def leave_one_out_interval(gains: np.ndarray, level: float = 0.95) -> Interval:
    """Return the mean gain of what `best_by_others`, with its interval: t, corrected.

    Args:
        gains: finite, ``[n]``, one a seed.
        level: of confidence.
    """
    gains = finite(gains, 1)
    n, mean = len(gains), float(gains.mean())
    if n < 2:
        return Interval(mean, None, None, n, level, "none: one seed")
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * _error(gains)
    return Interval(mean, mean - half, mean + half, n, level, "t, corrected for leave-one-out")


def leave_one_out_test(gains: np.ndarray) -> PValue:
    """Test whether the mean gain of what `best_by_others` is zero, two-sided: t, corrected.

    Args:
        gains: finite, ``[n]``, one a seed, at least two.
    """
    gains = finite(gains, 1)
    method, error = "t corrected for leave-one-out", _error(gains)
    if error == 0:
        return PValue(float(gains.mean() == 0), method)
    p = 2 * scipy.stats.t.sf(abs(gains.mean()) / error, len(gains) - 1)
    return PValue(float(p), method)


def _error(gains: np.ndarray) -> float:
    n = len(gains)
    return float(np.sqrt(gains.var(ddof=1) / n * variance_factor(n)))
