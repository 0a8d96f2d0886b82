"""Power against simulated studies, and where scatter is nothing or the images' alone."""

import numpy as np
import pytest
from scipy import stats

from jax_lenet.power import power_of_equivalence, power_of_t_test, projected


@pytest.mark.parametrize(("mean", "n"), [(0.0, 12), (0.0, 30), (-0.3, 30), (0.6, 80), (1.0, 30)])
def test_the_chance_of_an_interval_within_the_margin_is_that_of_simulated_studies(mean, n):
    draws = np.random.default_rng(n).normal(mean, 1.5, (20_000, n))
    low, high = stats.ttest_1samp(draws, 0, axis=1).confidence_interval(0.95)
    found = np.mean((low > -1) & (high < 1))
    error = projected(1.5**2, 0.0, np.array([n]))
    (claimed,) = power_of_equivalence(mean, 1.0, *error, 0.05)
    # 20,000 studies: a standard error of 0.35 points at most.
    assert claimed <= found + 0.01
    if found > 0.5:  # below, the sum of both ends' chances promises less than there is
        assert claimed == pytest.approx(found, abs=0.01)


def test_the_chance_is_the_same_on_either_side_and_none_beyond_the_margin():
    error = projected(1.0, 0.0, np.array([10, 100]))
    one, other = (power_of_equivalence(mean, 1.0, *error, 0.05) for mean in (0.3, -0.3))
    np.testing.assert_array_equal(one, other)
    assert power_of_equivalence(1.5, 1.0, *error, 0.05).tolist() == [0, 0]


def test_seeds_that_do_not_scatter_find_what_there_is_and_no_nan():
    error = projected(0.0, 0.0, np.array([8, 1000]))
    assert power_of_t_test(0.01, *error, 0.05 / 19).tolist() == [1, 1]
    assert power_of_equivalence(0.0, 0.001, *error, 0.05).tolist() == [1, 1]
    assert power_of_equivalence(0.002, 0.001, *error, 0.05).tolist() == [0, 0]


def test_more_seeds_do_not_reduce_what_the_images_leave_open():
    error, freedom = projected(1.0, 0.25, np.array([4, 10**6]))
    assert error.tolist() == pytest.approx([np.sqrt(0.25 + 0.25), 0.5], rel=1e-5)
    assert freedom[0] == pytest.approx(3 * 2**2)  # Satterthwaite: (n - 1) * (0.5 / 0.25)^2
