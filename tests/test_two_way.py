"""Intervals for other seeds and other images, on simulated classifiers with a known truth."""

import numpy as np
import pytest
from scipy import stats

from jax_lenet.statistics import t_interval
from jax_lenet.two_way import two_way, two_way_interval, two_way_test


def simulated(rng, seeds, images, accuracies, seed_scatter, image_scatter):
    """Return correctness, bool ``[variants, seeds, images]``, of classifiers of known accuracy.

    A run has an image right where ``level + seed effect + image effect + noise > 0``, all normal,
    so that the accuracy over all seeds and images is ``Phi(level / sqrt(sum of the variances))``.
    Images differ in difficulty (standard deviation 2: most are always right), and a variant in
    which images it finds difficult (`image_scatter`). Half of a seed's effect is common to all
    variants. `seed_scatter` is the standard deviation of accuracy.
    """
    difficulty = rng.normal(0, 2, images)
    common = rng.normal(size=seeds)
    right = []
    for accuracy in accuracies:
        quantile = stats.norm.ppf(accuracy)
        rest = 1 + 2**2 + image_scatter**2
        effect = seed_scatter * np.sqrt(rest) / stats.norm.pdf(quantile)
        level = quantile * np.sqrt(rest + effect**2)
        runs = effect * (common + rng.normal(size=seeds)) / np.sqrt(2)
        own = difficulty + rng.normal(0, image_scatter, images)
        noise = rng.standard_normal((seeds, images), np.float32)
        right.append(level + runs[:, None] + own + noise > 0)
    return np.array(right)


def difference(right):
    return right[0].astype(np.int8) - right[1]


def test_the_parts_are_those_of_the_analysis_of_variance():
    # By hand: mean 3, row means 2 and 4, column means 1, 3 and 5, residuals 1, 0, -1 and back.
    differences = np.array([[1, 2, 3], [1, 4, 7]])
    mean, seeds, images, _ = two_way(differences)
    assert mean == 3
    assert seeds == pytest.approx(2 / 2)  # s^2 of the row means, 2, over two seeds
    # s^2 of the column means, 4, over three images, less the residual's 4 / 2 over six values
    assert images == pytest.approx(4 / 3 - 2 / 6)


def test_the_estimated_variance_is_the_means_own():
    rng = np.random.default_rng(0)
    studies = [
        two_way(difference(simulated(rng, 8, 500, (0.95, 0.95), 0.01, 0.5))) for _ in range(2000)
    ]
    estimated = np.mean([s.seed_variance + s.image_variance for s in studies])
    # A variance from 2,000 studies has a standard error of 3%; truncation at zero adds up to 2%.
    assert estimated == pytest.approx(np.var([s.mean for s in studies]), rel=0.12)


@pytest.mark.parametrize(
    ("seeds", "seed_scatter", "image_scatter"),
    [(8, 0.003, 0.5), (15, 0.003, 0.5), (30, 0.003, 0.5), (8, 0.003, 0.0), (8, 0.0, 0.5)],
)
def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent(
    seeds, seed_scatter, image_scatter
):
    # 1,500 studies: the share that covers has a standard error of 0.56 points.
    rng = np.random.default_rng([seeds, round(1e4 * seed_scatter), round(10 * image_scatter)])
    covered = []
    for _ in range(1500):
        right = simulated(rng, seeds, 500, (0.97, 0.96), seed_scatter, image_scatter)
        interval = two_way_interval(difference(right), resamples=999)
        covered.append(interval.low <= 0.01 <= interval.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_seeds_own_interval_does_not_cover_where_images_matter():
    # Why there is a two-way interval at all: 30 seeds on 1,000 images, 71% in a longer simulation.
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(300):
        right = simulated(rng, 30, 1000, (0.97, 0.96), 0.003, 0.5)
        interval = t_interval(difference(right).mean(1))
        covered.append(interval.low <= 0.01 <= interval.high)
    assert np.mean(covered) < 0.85


@pytest.mark.parametrize("seeds", [8, 15])
def test_of_equal_variants_the_test_finds_at_most_one_in_twenty_different(seeds):
    rng = np.random.default_rng(seeds)
    p_values = [
        two_way_test(difference(simulated(rng, seeds, 1000, (0.97, 0.97), 0.003, 0.5))).p
        for _ in range(1500)
    ]
    # 5% of 1,500 studies has a standard error of 0.56 points.
    assert np.mean(np.array(p_values) <= 0.05) < 0.05 + 3 * 0.0056


def test_many_seeds_give_the_closed_forms_interval():
    right = simulated(np.random.default_rng(0), 30, 10_000, (0.985, 0.983), 0.0015, 0.5)
    mean, seeds, images, freedom = two_way(difference(right))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(seeds + images)
    interval = two_way_interval(difference(right))
    assert interval.estimate == mean
    # An end of 10,000 resamples scatters by about 2% of the half width.
    assert (interval.low, interval.high) == pytest.approx(
        (mean - half, mean + half), abs=0.08 * half
    )


def test_without_image_effects_it_is_the_seeds_own_t():
    differences = np.repeat(np.random.default_rng(0).normal(size=(9, 1)), 50, axis=1)
    _, seeds, images, freedom = two_way(differences)
    assert seeds == pytest.approx(stats.sem(differences[:, 0]) ** 2)
    assert images == 0
    assert freedom == 8
    assert two_way_test(differences).p == pytest.approx(
        stats.ttest_1samp(differences[:, 0], 0).pvalue
    )


def test_variants_that_never_differ_have_an_interval_without_width():
    interval = two_way_interval(np.zeros((5, 100), np.int8))
    assert (interval.low, interval.high) == (0, 0)
    assert two_way_test(np.zeros((5, 100), np.int8)).p == 1


def test_one_seed_has_no_interval():
    interval = two_way_interval(np.array([[1, 0, 0, 0]]))
    assert (interval.estimate, interval.low, interval.high, interval.n) == (0.25, None, None, 1)
    with pytest.raises(ValueError, match="got 1 and 4"):
        two_way(np.array([[1, 0, 0, 0]]))


def test_the_interval_depends_on_its_seed_alone_and_not_on_the_images_order():
    rng = np.random.default_rng(0)
    differences = difference(simulated(rng, 8, 1000, (0.97, 0.96), 0.003, 0.5))
    first = two_way_interval(differences)
    assert two_way_interval(differences) == first
    assert two_way_interval(differences, seed=1) != first
    shuffled = two_way_interval(rng.permutation(differences, axis=1))
    assert shuffled[:3] == pytest.approx(first[:3], rel=1e-9)  # the sums' rounding
