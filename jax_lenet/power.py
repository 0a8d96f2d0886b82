"""How often a study of some size finds what is true: the power of its tests, by noncentral t."""

import numpy as np
import scipy

# From here on a power is 1 or 0 to all digits, and the noncentral t may return NaN.
_SURE = 1e3


def projected(
    variance: float, image_variance: float, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean's standard error and degrees of freedom with other numbers of seeds.

    Args:
        variance: between seeds.
        image_variance: of the mean, from the test images; more seeds do not reduce it.
        seeds: their numbers, ``[k]``, each at least 2.

    Returns:
        Both float64 ``[k]``.
    """
    # Where all seeds agree, a scatter far below any difference keeps the ratios finite.
    of_seeds = max(variance, 1e-24) / seeds
    total = of_seeds + image_variance
    freedom = np.minimum((seeds - 1) * (total / of_seeds) ** 2, 1e6)
    return np.sqrt(total), freedom


def power_of_t_test(
    mean: float, error: np.ndarray, freedom: np.ndarray, alpha: float
) -> np.ndarray:
    """Return the chance that a two-sided t test finds a difference from zero, sign included.

    Args:
        mean: the true one, of either sign.
        error: standard error of its estimate, ``[k]``.
        freedom: degrees of freedom, ``[k]``.
        alpha: level of the test.

    Returns:
        float64 ``[k]``.
    """
    return _above(np.abs(mean) / error, freedom, alpha)


def power_of_equivalence(
    mean: float, margin: float, error: np.ndarray, freedom: np.ndarray, alpha: float
) -> np.ndarray:
    """Return the chance that the interval of level ``1 - alpha`` lies within ±margin.

    Both of its ends have to, which is a chance of at least the sum of the two less 1, and hardly
    more where it is large.

    Args:
        mean: the true one, of either sign.
        margin: above 0.
        error: standard error of the mean's estimate, ``[k]``.
        freedom: degrees of freedom, ``[k]``.
        alpha: two-sided.

    Returns:
        float64 ``[k]``.
    """
    below = _above((margin - mean) / error, freedom, alpha)
    above = _above((margin + mean) / error, freedom, alpha)
    return np.maximum(below + above - 1, 0)


def _above(effect: np.ndarray, freedom: np.ndarray, alpha: float) -> np.ndarray:
    """Return the chance that t with this noncentrality is above the upper quantile."""
    quantile = scipy.stats.t.isf(alpha / 2, freedom)
    chance = scipy.stats.nct.sf(quantile, freedom, np.clip(effect, 0, _SURE))
    return np.where(effect < 0, 0.0, chance)  # below alpha / 2
