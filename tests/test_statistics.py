"""Each function against scipy or a textbook, and its promise by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from jax_lenet.statistics import (
    LEAST_FOR_BCA,
    exponential,
    holm,
    mcnemar_test,
    paired_interval,
    pairing_gain,
    sign_flip_test,
    t_interval,
)

# Darwin's maize, cross- minus self-fertilized in eighths of an inch, as in Fisher's Design of
# Experiments (1935), sections 17 and 21.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], np.float64)


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("n", [2, 8, 30])
def test_t_interval_is_scipys(n, level):
    values = np.random.default_rng(0).normal(3, 2, n)
    interval = t_interval(values, level)
    low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([interval.low, interval.high], [low, high], rtol=1e-12)
    assert interval.n == n


def test_one_value_has_no_interval():
    interval = t_interval(np.array([0.5]))
    assert interval.estimate == 0.5
    assert interval.low is None
    assert interval.high is None


def test_few_pairs_get_the_t_interval_and_it_says_so():
    interval = paired_interval(MAIZE)
    # By hand: 20.93 ± 2.145 * 37.74 / sqrt(15).
    assert interval.estimate == pytest.approx(20.93, abs=0.01)
    assert (interval.low, interval.high) == pytest.approx((0.03, 41.84), abs=0.01)
    assert interval.method == "t"


def test_many_pairs_get_the_bca_interval_and_it_says_so():
    values = np.random.default_rng(0).exponential(size=LEAST_FOR_BCA)
    interval = paired_interval(values, seed=3)
    n = len(values)
    widened = 2 * stats.norm.cdf(stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))) - 1
    ends = stats.bootstrap(
        (values,), np.mean, confidence_level=widened, rng=np.random.default_rng(4)
    ).confidence_interval
    # Other draws: an end of 10,000 resamples scatters by 2% of the interval's width.
    width = ends.high - ends.low
    assert (interval.low, interval.high) == pytest.approx(tuple(ends), abs=0.08 * width)
    assert interval.method == "BCa bootstrap"
    assert interval.high - interval.estimate > interval.estimate - interval.low  # skewed


def test_the_bootstrap_depends_on_its_seed_alone():
    values = np.random.default_rng(0).normal(size=50)
    first = paired_interval(values)
    np.random.default_rng(1).normal()
    assert paired_interval(values) == first
    assert paired_interval(values, seed=1) != first


def test_pairs_that_all_differ_alike_have_an_interval_without_width():
    interval = paired_interval(np.full(50, 0.25))
    assert (interval.low, interval.high) == (0.25, 0.25)


@pytest.mark.parametrize("n", [8, 15, 30])
@pytest.mark.parametrize("shape", ["normal", "heavy tails", "mild skewness"])
def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent(n, shape):
    # 3,000 studies: the share that covers has a standard error of 0.4 points.
    rng = np.random.default_rng([n, len(shape)])
    draws, truth = {
        "normal": lambda size: (rng.normal(size=size), 0),
        "heavy tails": lambda size: (rng.standard_t(3, size), 0),
        "mild skewness": lambda size: (rng.gamma(4, size=size), 4),  # skewness 1
    }[shape]((3000, n))
    intervals = [paired_interval(study) for study in draws]
    assert 0.93 <= np.mean([i.low <= truth <= i.high for i in intervals]) <= 0.97


def test_the_bca_interval_covers_as_often_where_it_is_used():
    draws = np.random.default_rng(5).normal(size=(1500, LEAST_FOR_BCA))
    intervals = [paired_interval(study, resamples=999) for study in draws]
    assert 0.93 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 0.97


def test_a_ratios_interval_is_that_of_its_logarithm():
    times = np.array([1.1, 1.3, 1.2])
    ratio = exponential(t_interval(np.log(times)))
    assert ratio.estimate == pytest.approx(stats.gmean(times))
    assert ratio.low * ratio.high == pytest.approx(ratio.estimate**2)
    assert exponential(t_interval(np.log(times[:1]))).low is None


def test_sign_flips_give_fishers_count():
    # 1,726 of the 32,768 sums are at least 314 in size (Fisher 1935, section 21).
    assert sign_flip_test(MAIZE).p == 1726 / 32768


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_exact_sign_flips_are_scipys(alternative):
    # Whole multiples of 0.0001, as accuracies are: many sums are equal but for rounding.
    differences = np.random.default_rng(0).integers(-9, 16, 11) / 10_000
    expected = stats.permutation_test(
        (differences * 10_000,),
        np.sum,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative=alternative,
    )
    result = sign_flip_test(differences, alternative)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert result.method == "sign flips, exact"


@pytest.mark.parametrize("n", [1, 6, 8, 20, 32])
def test_the_smallest_p_is_two_in_all_patterns(n):
    assert sign_flip_test(np.arange(1.0, n + 1)).p == 2 / 2**n


def signed_ranks(n):
    """Ranks with signs: their sign flips are Wilcoxon's test, which scipy computes exactly."""
    return np.random.default_rng(2).choice([-1, 1, 1], n) * np.arange(1.0, n + 1)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("n", [2, 13, 24, 31, 32])
def test_exact_sign_flips_of_signed_ranks_are_wilcoxons(alternative, n):
    exact = stats.wilcoxon(signed_ranks(n), alternative=alternative, method="exact").pvalue
    result = sign_flip_test(signed_ranks(n), alternative)
    assert result.p == pytest.approx(exact, rel=1e-9)
    assert result.method == "sign flips, exact"


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_drawn_sign_flips_agree_with_an_exact_test(alternative):
    ranks = signed_ranks(36)
    exact = stats.wilcoxon(ranks, alternative=alternative, method="exact").pvalue
    result = sign_flip_test(ranks, alternative)
    # Four standard errors of a share of 9,999 draws.
    assert result.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999) + 1e-4)
    assert result.method == "sign flips, drawn"
    assert sign_flip_test(ranks, alternative) == result


def test_a_drawn_p_is_never_zero():
    assert sign_flip_test(np.ones(40), "greater", resamples=99).p == 1 / 100


def test_an_unknown_alternative_is_refused():
    with pytest.raises(ValueError, match="two_sided"):
        sign_flip_test(MAIZE, "two_sided")


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [[1.0]]])
def test_what_is_no_list_of_finite_differences_is_refused(bad):
    with pytest.raises(ValueError, match="finite values of rank 1"):
        sign_flip_test(np.array(bad))


def test_holm_adjusts_in_order_and_never_falls():
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and the largest may not fall below the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.4, 0.9])), [0.8, 0.9])
    np.testing.assert_array_equal(holm(np.array([0.7, 0.6])), [1, 1])


def test_holm_is_as_good_as_bonferroni_at_the_least_p_and_nothing_at_the_largest():
    p_values = np.linspace(0.001, 0.01, 7)
    adjusted = holm(p_values)
    assert adjusted[0] == pytest.approx(7 * 0.001)
    assert adjusted[-1] >= 0.01


def test_mcnemar_on_the_approval_ratings():
    # Agresti, Categorical Data Analysis (1990), p. 350: 150 and 86 of 1,600 changed their minds.
    first = np.repeat([True, True, False, False], [794, 150, 86, 570])
    second = np.repeat([True, False, True, False], [794, 150, 86, 570])
    result = mcnemar_test(first, second)
    assert (result.only_first, result.only_second) == (150, 86)
    assert result.p == pytest.approx(2 * sum(math.comb(236, k) for k in range(87)) / 2**236)
    # R's chi-square with continuity correction, 16.818, has p = 4.115e-05: an approximation.
    assert result.p == pytest.approx(4.115e-05, rel=0.15)


def test_mcnemar_by_hand_and_without_any_difference():
    first, second = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    assert mcnemar_test(first, second).p == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar_test(first, first).p == 1


def test_pairing_gains_what_the_correlation_promises():
    # With equal variances the ratio is 1 - correlation.
    rng = np.random.default_rng(0)
    shared = rng.normal(size=20_000)
    a, b = (np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=20_000) for _ in range(2))
    gain = pairing_gain(a, b)
    assert gain.correlation == pytest.approx(stats.pearsonr(a, b).statistic)
    # Four standard errors of a correlation of 0.7 from 20,000 pairs are 0.015.
    assert gain.variance_ratio == pytest.approx(0.3, abs=0.015)
    assert gain.variance_ratio == pytest.approx(np.var(a - b) / (np.var(a) + np.var(b)))


def test_values_that_do_not_vary_have_no_correlation():
    assert pairing_gain(np.ones(4), np.arange(4.0)) == (None, 1.0)
    assert pairing_gain(np.ones(4), np.ones(4)) == (None, None)
