"""Intervals and tests for the results of several runs: on arrays, on `scipy.stats` where it can.

Every function that draws random numbers takes the generator's seed, and gives the same result for
the same seed. What follows from an interval and a test is in `jax_lenet.decisions`.
"""

from typing import Literal, NamedTuple

import numpy as np
import scipy

Alternative = Literal["two-sided", "greater", "less"]  # scipy's words

RESAMPLES = 9_999  # with the data themselves 10,000

LEAST_FOR_BCA = 40
"""How many values the bootstrap needs before it is trusted beside Student's t.

Coverage of the 95% interval of a mean in percent, ``t / BCa`` (as in `paired_interval`), from 4,000
to 10,000 simulated studies each; one standard error is 0.2 to 0.4:

===================  =========  =========  =========  =========  =========  =========  =========
values                   5          8         10         15         20         30         40
===================  =========  =========  =========  =========  =========  =========  =========
normal               94.7 91.4  95.0 93.7  94.8 94.0  94.5 94.3  94.8 94.4  94.1 93.9  94.5 94.0
Laplace              96.8 90.6  96.2 91.4  96.1 91.6  95.4 91.6  95.0 91.7  95.1 92.7  95.4 93.7
Student's t(3)       96.1 90.3  96.1 92.2  96.0 91.9  96.0 91.8  95.9 91.5  95.4 92.4  95.6 92.0
gamma, skewness 1    93.0 90.5  93.4 93.1  93.6 93.6  93.9 94.3  94.0 94.2  94.4 95.0  94.9 94.9
log-normal, 1.75     91.7 89.3  91.8 92.1  92.3 92.7  92.2 92.6  93.3 93.6  93.6 93.3  94.2 94.3
exponential, 2       87.8 86.7  89.5 91.5  89.3 91.7  91.1 93.0  91.7 93.0  92.4 93.5  92.2 93.3
===================  =========  =========  =========  =========  =========  =========  =========

Below 40 the t interval is the better one, and stays between 93 and 97, but where the values are
strongly skewed (the last two rows): there neither reaches 93 from ten values or fewer. The
difference of two variants that scatter alike is symmetric, whatever the shape of their scatter;
that of two that do not, as with and without batch norm where one seed in ten learns late, can be as
skewed as the last rows.
"""

_EXACT_UP_TO = 32  # the sums of each half, 2^16, take half a megabyte and a few milliseconds


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        estimate: the mean.
        low: lower end; None where there is no interval.
        high: upper end; None where there is no interval.
        n: how many values, or seeds, it comes from.
        level: of confidence, for instance 0.95.
        method: how the interval was made, in words.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    level: float
    method: str


class PValue(NamedTuple):
    """The outcome of a test.

    Attributes:
        p: how often data at least as extreme come about without an effect.
        method: which test, in words.
    """

    p: float
    method: str


def finite(values: np.ndarray, rank: int) -> np.ndarray:
    """Return values as float64.

    Raises:
        ValueError: if there are none, one is not finite, or they are not of that rank.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != rank or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite values of rank {rank}, got {values}")
    return values


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
    half = scipy.stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, float(mean - half), float(mean + half), n, level, "t")


def paired_interval(
    differences: np.ndarray, level: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of paired differences with its interval.

    Student's t below `LEAST_FOR_BCA` values, and where all are equal. From there on the bootstrap
    with bias correction and acceleration (BCa; Efron 1987), its level widened so that normal data
    would give the t interval: the quantile ``Phi(-t(n - 1))`` of the means scaled by
    ``sqrt((n - 1) / n)``, as resampled means scatter too little (Hesterberg 2015, "expanded
    percentile").

    Args:
        differences: finite, ``[n]``, one a seed.
        level: of confidence.
        resamples: of the bootstrap.
        seed: of the bootstrap's generator.

    Returns:
        The interval, whose `method` says which of the two it is.
    """
    differences = finite(differences, 1)
    n = len(differences)
    if n < LEAST_FOR_BCA or np.ptp(differences) == 0:
        return t_interval(differences, level)
    quantile = scipy.stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(n / (n - 1))
    found = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        confidence_level=float(1 - 2 * scipy.stats.norm.sf(quantile)),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    mean = float(differences.mean())
    return Interval(mean, float(found.low), float(found.high), n, level, "BCa bootstrap")


def exponential(interval: Interval) -> Interval:
    """Return the interval of ``exp(x)`` from that of x: of a ratio from that of its logarithm."""
    low, high = (None if end is None else float(np.exp(end)) for end in interval[1:3])
    return interval._replace(estimate=float(np.exp(interval.estimate)), low=low, high=high)


def sign_flip_test(
    differences: np.ndarray,
    alternative: Alternative = "two-sided",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PValue:
    """Test whether paired differences are symmetric about zero, by flipping their signs.

    p is the share of the sign patterns whose sum is at least as extreme as the data's. Up to 32
    differences all 2^n patterns count, the data's own among them, so that p is never below 2/2^n
    (two-sided). Beyond, patterns are drawn, and ``p = (k + 1) / (resamples + 1)``.

    Args:
        differences: finite, ``[n]``, n > 0.
        alternative: about the mean: "two-sided", "greater" or "less" than zero.
        resamples: patterns drawn where there are too many to sum them all.
        seed: of the generator that draws them.

    >>> sign_flip_test(np.array([0.2, 0.1, 0.4])).p  # 2 of 8: all plus, all minus
    0.25
    """
    differences = finite(differences, 1)
    tolerance = 1e-9 * np.abs(differences).sum()  # sums that differ by rounding alone are ties
    least = _extremeness(differences.sum(), alternative) - tolerance
    if len(differences) <= _EXACT_UP_TO:
        share = _share_from(differences, float(least))
        # Of each pattern there is the opposite one: as many sums are as far below zero.
        p = min(2 * share, 1.0) if alternative == "two-sided" else share
        return PValue(p, "sign flips, exact")
    sums = _drawn_sums(differences, resamples, seed)
    extreme = _extremeness(sums, alternative) >= least
    return PValue(float((extreme.sum() + 1) / (resamples + 1)), "sign flips, drawn")


def _share_from(differences: np.ndarray, least: float) -> float:
    """Return the share of all sign patterns whose sum is at least so large.

    A sum is one of the first half's and one of the second's; with the latter sorted, for each of
    the former a search tells how many of them are enough.
    """
    half = len(differences) // 2
    first, second = _all_sums(differences[:half]), np.sort(_all_sums(differences[half:]))
    too_small = np.searchsorted(second, least - np.sort(first))
    return float((len(second) - too_small).sum() / 2.0 ** len(differences))


def _all_sums(differences: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for difference in differences:  # each doubles the patterns
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


def _drawn_sums(differences: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    plus = np.random.default_rng(seed).integers(0, 2, (resamples, len(differences)), np.int8)
    return (2 * plus - 1) @ differences


def _extremeness(sums: np.ndarray, alternative: Alternative) -> np.ndarray:
    match alternative:
        case "two-sided":
            return np.abs(sums)
        case "greater":
            return sums
        case "less":
            return -sums
    raise ValueError(f"expected two-sided, greater or less, got {alternative}")


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for being a family, by Holm's step-down method (1979).

    The i-th smallest of m is multiplied by m - i + 1, and none may fall below a smaller one's.
    Rejecting where the adjusted value is at most alpha makes any false rejection in the whole
    family no likelier than alpha, however the tests depend on each other.

    Args:
        p_values: of the family, ``[m]``, in any order.

    Returns:
        float64 ``[m]``, in the order given.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist()
    [0.03, 0.06, 0.06, 0.02]
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


class McNemar(NamedTuple):
    """Two runs on the same images.

    Attributes:
        only_first: images that only the first has right.
        only_second: images that only the second has right.
        p: exact and two-sided, of the two being equally good.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar_test(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two single runs by the images that exactly one of them has right (McNemar 1947).

    Of equally good runs each such image is either's with probability a half: a binomial test. It
    is about these two runs, and knows nothing of what another seed would give.

    Args:
        first: whether the first run has an image right, bool ``[images]``.
        second: the same of the second.

    >>> mcnemar_test(np.array([True] * 9 + [False]), np.array([False] * 9 + [True]))
    McNemar(only_first=9, only_second=1, p=0.021...)
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    discordant = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


class PairingGain(NamedTuple):
    """What pairing does to the difference of two variants.

    Attributes:
        correlation: of the paired values; None where one side does not vary.
        variance_ratio: variance of the paired difference over that of an unpaired one; 0.25 means
            that a quarter of the seeds suffices. None where neither side varies.
    """

    correlation: float | None
    variance_ratio: float | None


def pairing_gain(first: np.ndarray, second: np.ndarray) -> PairingGain:
    """Measure how much pairing by seed helps: ``var(a - b) / (var(a) + var(b))``.

    Args:
        first: finite, ``[n]``, n > 1: one variant by seed.
        second: the other, from the same seeds.

    >>> pairing_gain(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    PairingGain(correlation=0.5, variance_ratio=0.5)
    """
    (a, shared), (_, b) = np.cov(finite(first, 1), finite(second, 1))
    correlation = float(shared / np.sqrt(a * b)) if a > 0 and b > 0 else None
    return PairingGain(correlation, float((a + b - 2 * shared) / (a + b)) if a + b > 0 else None)
