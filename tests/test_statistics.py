import numpy as np
import pytest
from scipy import stats

from jax_lenet.statistics import t_interval


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


def test_t_interval_covers_the_truth_as_often_as_it_says():
    # 4,000 studies of 8 seeds: the share that covers has a standard error of 0.34 points.
    draws = np.random.default_rng(1).normal(0, 1, (4000, 8))
    intervals = [t_interval(study) for study in draws]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.935 < covered < 0.965
