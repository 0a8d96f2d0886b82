"""From differences to verdicts: the rules under which a claim counts as supported or contradicted.

A `Comparison` holds what the data say, a `Claim` what is claimed, and `Rules` when that is enough.
`decide` puts them together: a verdict needs the interval and the test to agree, the test's p-value
corrected for all the claims that are decided together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from jax_lenet.leave_one_out import choice_factor
from jax_lenet.power import power_of_equivalence, power_of_t_test, projected
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
    """When a difference counts.

    Attributes:
        level: of confidence of every interval.
        alpha: how often, at most, a family of claims without any effect yields one that it is
            supported or contradicted. That a difference lies within the margin, or not beyond
            it, is decided claim by claim, each false in (1 - level) / 2.
        accuracy_margin: a smaller difference of accuracy, as a fraction, has no practical meaning.
        time_margin: the same of a ratio of times: 0.02 is 2% more.
        least_seeds: fewer decide nothing; from here on the intervals were seen to cover.
        most_left_out: where a larger share of the seeds is lost, as runs diverged, nothing is
            decided: those that are left are no fair sample.
        power: chance of a verdict that `seeds_needed` asks for.
        most_seeds: `seeds_needed` looks no further.
        resamples: of bootstraps and of sign flips that are drawn.
    """

    level: float = 0.95
    alpha: float = 0.05
    accuracy_margin: float = 0.001
    time_margin: float = 0.02
    least_seeds: int = 8
    most_left_out: float = 0.1
    power: float = 0.8
    most_seeds: int = 1_000
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        """Raise ValueError where a rule makes no sense."""
        for name in ("level", "alpha", "power", "most_left_out"):
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
    """That a difference has a sign, or is at least not beyond the margin on the other side.

    Attributes:
        direction: "greater" or "less" than zero.
        margin: a difference within ±margin has no practical meaning; in the difference's unit.
        at_least: whether no more is claimed than non-inferiority: with "greater", that the
            difference is above -margin; with "less", that it is below the margin.
    """

    direction: Literal["greater", "less"]
    margin: float
    at_least: bool = False

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
        seed_factor: by how much the mean's variance from the seeds is larger than theirs / n.
    """

    differences: np.ndarray
    interval: Interval
    tests: tuple[PValue, ...]
    image_variance: float = 0.0
    unit: str = "seeds"
    seed_factor: float = 1.0

    @property
    def mirrored(self) -> "Comparison":
        """The same of the differences with the other sign."""
        low, high = (None if end is None else -end for end in self.interval[1:3])
        interval = self.interval._replace(estimate=-self.interval.estimate, low=high, high=low)
        return replace(self, differences=-self.differences, interval=interval)

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
        margin_p: of the sign flips about the margin, not corrected: how often data at least as far
            within it come about where the mean lies on it (of both margins the larger); of a claim
            of "at least", as far on this side of it.
        seeds_needed: where undecided, how many seeds in all would decide it; see `seeds_needed`.
    """

    answer: Answer
    reason: str
    adjusted_p: float
    margin_p: float
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


def compare_accuracy(
    differences: np.ndarray, rules: Rules = Rules(), *, seed_factor: float = 1.0
) -> Comparison:
    """Return the evidence in differences of correctness, for other seeds and other images.

    The seeds' sign flips take the test images for granted, so `two_way_test` has to agree.

    Args:
        differences: ``[seeds, images]``: right minus right of two variants, -1, 0 or 1, or a
            difference of such differences; at least two images.
        rules: level and resamples are used.
        seed_factor: as in `jax_lenet.two_way.two_way`.
    """
    means = finite(differences, 2).mean(axis=1)
    interval = two_way_interval(
        differences, rules.level, resamples=rules.resamples, seed_factor=seed_factor
    )
    flips = sign_flip_test(means, resamples=rules.resamples)
    if len(means) < 2:
        return Comparison(means, interval, (flips,))
    tests = (flips, two_way_test(differences, seed_factor))
    images = two_way(differences).image_variance
    return Comparison(means, interval, tests, images, seed_factor=seed_factor)


def compare_chosen(
    differences: np.ndarray, chosen: np.ndarray, rules: Rules = Rules()
) -> Comparison:
    """Return the evidence in gains of what the other seeds chose (`jax_lenet.leave_one_out`).

    Args:
        differences: ``[seeds, images]``: right with each seed's choice minus right without.
        chosen: as in `choice_factor`.
        rules: level and resamples are used.
    """
    return compare_accuracy(differences, rules, seed_factor=choice_factor(chosen))


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

    A claim of "at least" is decided by where the interval lies beside the margin on the other side:
    supported where it reaches nowhere beyond it, contradicted where it lies beyond it and the
    corrected test finds a difference, each if sign flips about that margin agree at alpha.

    Args:
        comparison: the data.
        claim: what is claimed.
        adjusted_p: the comparison's p, corrected for the family.
        family: how many tests were corrected together.
        rules: of deciding.
    """
    answer, reason = _answer(comparison, claim, adjusted_p, family, rules)
    needed = seeds_needed(comparison, claim, family, rules) if answer == "undecided" else None
    return Verdict(answer, reason, adjusted_p, _margin_p(comparison, claim, rules), needed)


def _answer(
    comparison: Comparison, claim: Claim, adjusted_p: float, family: int, rules: Rules
) -> tuple[Answer, str]:
    interval, unit = comparison.interval, comparison.unit
    if interval.low is None or interval.high is None or interval.n < rules.least_seeds:
        return "undecided", _too_few(interval.n, unit, f"at least {rules.least_seeds} are needed")
    if claim.at_least:
        return _at_least(comparison, claim, adjusted_p, rules)
    if -claim.margin < interval.low and interval.high < claim.margin:
        if _margin_p(comparison, claim, rules) <= rules.alpha:
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


def _at_least(
    comparison: Comparison, claim: Claim, adjusted_p: float, rules: Rules
) -> tuple[Answer, str]:
    greater = comparison if claim.direction == "greater" else comparison.mirrored
    low, high = greater.interval.low, greater.interval.high
    assert low is not None  # `_answer` has seen to it
    assert high is not None
    margin = "the margin on the side that is not claimed"
    if low > -claim.margin:
        if _margin_p(comparison, claim, rules) <= rules.alpha:
            return "supported", f"the interval reaches nowhere beyond {margin}"
        return "undecided", f"the interval does not reach {margin}, but the test does not agree"
    if high >= -claim.margin:
        return "undecided", f"the interval holds {margin}"
    below = _p_above(-claim.margin - greater.differences, rules)
    if max(below, adjusted_p) <= rules.alpha:
        return "contradicted", f"the interval lies beyond {margin}, and the corrected test agrees"
    return "undecided", f"the interval lies beyond {margin}, but the tests do not agree"


def _margin_p(comparison: Comparison, claim: Claim, rules: Rules) -> float:
    below = _p_above(claim.margin - comparison.differences, rules)
    above = _p_above(comparison.differences + claim.margin, rules)
    if claim.at_least:
        return above if claim.direction == "greater" else below
    return max(below, above)


def _p_above(differences: np.ndarray, rules: Rules) -> float:
    return sign_flip_test(differences, "greater", resamples=rules.resamples).p


def seeds_needed(
    comparison: Comparison, claim: Claim, family: int, rules: Rules = Rules()
) -> int | None:
    """Estimate how many seeds in all would decide a claim that is undecided.

    The least number with which the difference measured, taken for the truth, has a verdict with
    `Rules.power`: either a t test at level alpha / family finds it, or the interval about it lies
    within the margin; of a claim of "at least", the interval leaves out the margin. By the
    noncentral t distribution. As uncertain as the difference itself: it says tens or hundreds, not
    37 rather than 41.

    Returns:
        The number, seeds at hand included; None where it is beyond `Rules.most_seeds`, as where
        the test images alone leave too much open, or where one seed tells no scatter.
    """
    measured = comparison.differences
    if len(measured) < 2:
        return None
    n = np.arange(max(len(measured) + 1, rules.least_seeds), rules.most_seeds + 1)
    variance = comparison.seed_factor * measured.var(ddof=1)
    error, freedom = projected(variance, comparison.image_variance, n)
    mean, tail = float(measured.mean()), 1 - rules.level
    found = power_of_t_test(mean, error, freedom, rules.alpha / family) >= rules.power
    found &= n >= rules.least_seeds_for(_PATTERNS * family)
    if claim.at_least:
        inside = claim.margin + (mean if claim.direction == "greater" else -mean)
        enough = power_of_t_test(inside, error, freedom, tail) >= rules.power
        enough &= found if inside < 0 else True  # beyond the margin, a difference is found too
    else:
        within = power_of_equivalence(mean, claim.margin, error, freedom, tail)
        enough = found | (within >= rules.power)
    return int(n[np.argmax(enough)]) if enough.any() else None
