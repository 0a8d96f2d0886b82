"""From differences to verdicts: the rules under which a claim counts as supported or contradicted.

A `Comparison` holds what the data say, a `Claim` what is claimed, and `Rules` when that is enough.
`decide` puts them together: a verdict needs the interval and the test to agree, the test's p-value
corrected for all the claims that are decided together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy

from jax_lenet.statistics import (
    RESAMPLES,
    Interval,
    PValue,
    finite,
    holm,
    paired_interval,
    sign_flip_test,
)
from jax_lenet.two_way import two_way, two_way_interval, two_way_test

# Sign flips are as powerful as the t test once their smallest p is far below the level: with 12
# tests and a t test's power of 80%, simulated, they find 66% from 9 seeds (only the single most
# extreme pattern counts), 76% from 12 (8 patterns) and 79.5% from 15 (68 patterns).
_PATTERNS = 32

Answer = Literal["supported", "contradicted", "no practical difference", "undecided"]


@dataclass(frozen=True)
class Rules:
    """When a difference counts. Written before any result was looked at.

    Attributes:
        level: of confidence of every interval.
        alpha: how often, at most, a family of claims without any effect yields a false verdict.
        accuracy_margin: a smaller difference of accuracy, as a fraction, has no practical meaning.
        time_margin: the same of a ratio of times: 0.02 is 2% more.
        least_seeds: fewer decide nothing; from here on the intervals were seen to cover.
        power: chance of a verdict that `seeds_needed` asks for.
        most_seeds: `seeds_needed` looks no further.
        resamples: of bootstraps and of sign flips that are drawn.
    """

    level: float = 0.95
    alpha: float = 0.05
    accuracy_margin: float = 0.001
    time_margin: float = 0.02
    least_seeds: int = 8
    power: float = 0.8
    most_seeds: int = 1_000
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        """Raise ValueError where a rule makes no sense."""
        for name in ("level", "alpha", "power"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: expected between 0 and 1, got {getattr(self, name)}")
        for name in ("accuracy_margin", "time_margin"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")

    @property
    def log_time_margin(self) -> float:
        """`time_margin` for differences of logarithms: ``log(1 + time_margin)``."""
        return float(np.log1p(self.time_margin))

    def least_seeds_for(self, family: int) -> int:
        """Return with how many seeds a difference can be found among `family` tests.

        The smallest p of n sign flips is 2 / 2^n; Holm's correction multiplies it by the family.

        >>> [Rules().least_seeds_for(family) for family in (1, 6, 7, 12, 13)]
        [8, 8, 9, 9, 10]
        """
        return max(self.least_seeds, int(np.ceil(1 + np.log2(family / self.alpha))))


@dataclass(frozen=True)
class Claim:
    """That a difference has a sign.

    Attributes:
        direction: "greater" or "less" than zero.
        margin: a difference within ±margin has no practical meaning; in the difference's unit.
    """

    direction: Literal["greater", "less"]
    margin: float

    def __post_init__(self) -> None:
        """Raise ValueError for another direction."""
        if self.direction not in ("greater", "less"):
            raise ValueError(f"direction: expected greater or less, got {self.direction}")


@dataclass(frozen=True)
class Comparison:
    """What the data say of one difference.

    Attributes:
        differences: finite, one a seed, ``[n]``.
        interval: of their mean.
        tests: of a mean of zero, two-sided; all of them have to find it.
        image_variance: of the mean, from the test images; more seeds do not reduce it.
        unit: what was repeated, in the plural.
    """

    differences: np.ndarray
    interval: Interval
    tests: tuple[PValue, ...]
    image_variance: float = 0.0
    unit: str = "seeds"

    @property
    def p(self) -> float:
        """The largest of the tests' p-values."""
        return max(test.p for test in self.tests)


class Verdict(NamedTuple):
    """The answer to a claim.

    Attributes:
        answer: "supported", "contradicted", "no practical difference" or "undecided".
        reason: why, in words.
        adjusted_p: the comparison's p, corrected for the family.
        seeds_needed: where undecided, how many seeds in all would decide it; see `seeds_needed`.
    """

    answer: Answer
    reason: str
    adjusted_p: float
    seeds_needed: int | None


def compare(differences: np.ndarray, rules: Rules = Rules(), *, unit: str = "seeds") -> Comparison:
    """Return the evidence in differences by seed.

    Args:
        differences: finite, ``[n]``; of logarithms where a ratio is meant.
        rules: level and resamples are used.
        unit: what was repeated, in the plural.
    """
    differences = finite(differences, 1)
    interval = paired_interval(differences, rules.level, resamples=rules.resamples)
    test = sign_flip_test(differences, resamples=rules.resamples)
    return Comparison(differences, interval, (test,), unit=unit)


def compare_accuracy(differences: np.ndarray, rules: Rules = Rules()) -> Comparison:
    """Return the evidence in differences of correctness, for other seeds and other images.

    The seeds' sign flips take the test images for granted, so `two_way_test` has to agree.

    Args:
        differences: ``[seeds, images]``: right minus right of two variants, -1, 0 or 1, or a
            difference of such differences; at least two images.
        rules: level and resamples are used.
    """
    means = finite(differences, 2).mean(axis=1)
    interval = two_way_interval(differences, rules.level, resamples=rules.resamples)
    flips = sign_flip_test(means, resamples=rules.resamples)
    if len(means) < 2:
        return Comparison(means, interval, (flips,))
    tests = (flips, two_way_test(differences))
    return Comparison(means, interval, tests, two_way(differences).image_variance)


def decide_all(pairs: Sequence[tuple[Comparison, Claim]], rules: Rules = Rules()) -> list[Verdict]:
    """Decide a family of claims, their tests corrected together by Holm's method.

    Args:
        pairs: every comparison whose verdict will be read, with its claim.
        rules: of deciding.
    """
    adjusted = holm(np.array([comparison.p for comparison, _ in pairs]))
    return [
        decide(comparison, claim, float(p), len(pairs), rules)
        for (comparison, claim), p in zip(pairs, adjusted, strict=True)
    ]


def decide(
    comparison: Comparison,
    claim: Claim,
    adjusted_p: float,
    family: int,
    rules: Rules = Rules(),
) -> Verdict:
    """Decide one claim.

    In this order:

    - fewer than `Rules.least_seeds`: undecided;
    - the interval lies within ±margin, and sign flips about both margins agree at alpha: "no
      practical difference", even where the difference is sure. This is two one-sided tests; the
      95% interval keeps each of them at 2.5%, which is stricter than the usual 90% interval, as it
      is not corrected for the family;
    - the interval leaves out zero, and the corrected test finds a difference: supported, or
      contradicted where it has the other sign;
    - undecided otherwise.

    Args:
        comparison: the data.
        claim: what is claimed.
        adjusted_p: the comparison's p, corrected for the family.
        family: how many tests were corrected together.
        rules: of deciding.
    """
    answer, reason = _answer(comparison, claim, adjusted_p, family, rules)
    needed = seeds_needed(comparison, claim, family, rules) if answer == "undecided" else None
    return Verdict(answer, reason, adjusted_p, needed)


def _answer(
    comparison: Comparison, claim: Claim, adjusted_p: float, family: int, rules: Rules
) -> tuple[Answer, str]:
    interval, unit = comparison.interval, comparison.unit
    if interval.low is None or interval.high is None or interval.n < rules.least_seeds:
        return "undecided", _too_few(interval.n, unit, f"at least {rules.least_seeds} are needed")
    if -claim.margin < interval.low and interval.high < claim.margin:
        if _equivalence_p(comparison, claim.margin, rules) <= rules.alpha:
            return "no practical difference", "the interval lies within the margin"
        return "undecided", "the interval lies within the margin, but the test does not agree"
    sure, apart = adjusted_p <= rules.alpha, interval.low > 0 or interval.high < 0
    if sure and apart:
        as_claimed = (interval.low > 0) == (claim.direction == "greater")
        side = "on the claimed side of zero" if as_claimed else "on the other side of zero"
        answer = "supported" if as_claimed else "contradicted"
        return answer, f"the interval lies {side}, and the corrected test agrees"
    least = rules.least_seeds_for(family)
    if apart and interval.n < least:
        among = f"at least {least} are needed to find a difference among {family} tests"
        return "undecided", _too_few(interval.n, unit, among)
    if sure or apart:
        return "undecided", "the interval and the corrected test do not agree"
    return "undecided", "the interval holds zero and reaches beyond the margin"


def _too_few(n: int, unit: str, why: str) -> str:
    return f"{n} {unit if n != 1 else unit.removesuffix('s')} cannot decide: {why}"


def _equivalence_p(comparison: Comparison, margin: float, rules: Rules) -> float:
    above = sign_flip_test(comparison.differences + margin, "greater", resamples=rules.resamples)
    below = sign_flip_test(comparison.differences - margin, "less", resamples=rules.resamples)
    return max(above.p, below.p)


def seeds_needed(
    comparison: Comparison, claim: Claim, family: int, rules: Rules = Rules()
) -> int | None:
    """Estimate how many seeds in all would decide a claim that is undecided.

    The least number at which either a t test at level alpha / family finds a difference as large as
    the one measured with `Rules.power`, by the noncentral t distribution, or the interval about
    that difference has shrunk inside the margin. As uncertain as the difference itself: it says
    tens or hundreds, not 37 rather than 41.

    Returns:
        The number, seeds at hand included; None where it is beyond `Rules.most_seeds`, as where
        the test images alone leave too much open, or where one seed tells no scatter.
    """
    measured = comparison.differences
    if len(measured) < 2:
        return None
    n = np.arange(max(len(measured) + 1, rules.least_seeds), rules.most_seeds + 1)
    power = power_of_t_test(comparison, n, rules.alpha / family)
    found = (power >= rules.power) & (n >= rules.least_seeds_for(_PATTERNS * family))
    error, freedom = _projected(comparison, n)
    half = scipy.stats.t.isf((1 - rules.level) / 2, freedom) * error
    within = half + abs(measured.mean()) < claim.margin
    enough = found | within
    return int(n[np.argmax(enough)]) if enough.any() else None


def power_of_t_test(comparison: Comparison, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """Return the chance that a two-sided t test finds the measured difference, sign included.

    Args:
        comparison: its mean and scatter are taken for the truth; at least two seeds.
        seeds: numbers of seeds, ``[k]``, each at least 2.
        alpha: level of the test.

    Returns:
        float64 ``[k]``.
    """
    error, freedom = _projected(comparison, seeds)
    # Where seeds hardly scatter: the power is 1 long before, and nct returns NaN long after.
    effect = np.minimum(abs(comparison.differences.mean()) / error, 1e4)
    return scipy.stats.nct.sf(scipy.stats.t.isf(alpha / 2, freedom), freedom, effect)


def _projected(comparison: Comparison, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean's standard error and degrees of freedom with other numbers of seeds."""
    # Where all seeds agree, a scatter far below any difference keeps the ratios finite.
    variance = max(comparison.differences.var(ddof=1), 1e-24) / seeds
    total = variance + comparison.image_variance
    freedom = np.minimum((seeds - 1) * (total / variance) ** 2, 1e6)
    return np.sqrt(total), freedom
