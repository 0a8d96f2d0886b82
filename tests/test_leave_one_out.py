"""Choices by the other seeds: no bias, and an interval that allows for what they share."""

import numpy as np
import pytest
from scipy import stats

from jax_lenet.decisions import Claim, Rules, compare_chosen, decide
from jax_lenet.leave_one_out import best_by_others, leave_one_out_interval, leave_one_out_test

QUICK = Rules(most_seeds=8, resamples=999)


def test_each_seeds_choice_is_the_best_mean_of_the_others():
    scores = np.random.default_rng(0).normal(size=(4, 6))
    scores[0, 0] = 9.0  # which chooses candidate 0 for all seeds but this one
    by_hand = [np.delete(scores, seed, axis=1).mean(1).argmax() for seed in range(6)]
    assert best_by_others(scores).tolist() == by_hand
    assert len(set(by_hand)) > 1


def test_of_equal_candidates_the_first_is_taken_and_one_seed_chooses_for_itself():
    assert best_by_others(np.full((3, 4), 0.1)).tolist() == [0] * 4
    assert best_by_others(np.array([[0.1], [0.3], [0.2]])).tolist() == [1]


def test_the_corrected_t_has_nearly_twice_the_variance():
    gains = np.array([0.3, 0.1, -0.2, 0.4])
    error = np.sqrt(gains.var(ddof=1) * (1 / 4 + 1 / 3))
    interval = leave_one_out_interval(gains)
    half = stats.t.ppf(0.975, 3) * error
    np.testing.assert_allclose(interval[:3], [0.15, 0.15 - half, 0.15 + half])
    p = 2 * stats.t.sf(0.15 / error, 3)
    assert leave_one_out_test(gains).p == pytest.approx(p)
    assert compare_chosen(gains).p >= p
    assert leave_one_out_interval(gains[:1]).low is None
    assert leave_one_out_test(np.zeros(3)).p == 1


def studies_of(truth, seeds=10, shared=0.9, scatter=0.002, number=1500):
    """Yield validation and test accuracy of simulated sweeps, and the candidates' truth.

    Args:
        truth: accuracy less the baseline's, by candidate.
        seeds: of each.
        shared: how much of a run's variance shows on validation and test images alike.
        scatter: of runs.
        number: of studies.
    """
    rng = np.random.default_rng(len(truth))
    sizes = np.sqrt([shared, 1 - shared, 1 - shared]) * scatter
    for _ in range(number):
        luck, *own = rng.normal(0, sizes[:, None, None], (3, len(truth) + 1, seeds))
        yield [np.array([0.0, *truth])[:, None] + luck + each for each in own]


@pytest.mark.parametrize(
    "truth", [np.zeros(7), np.array([0.001, 0.002, 0.001, 0, -0.002, -0.004, -0.01])]
)
def test_a_choice_by_the_others_gains_no_more_than_it_is_worth(truth):
    gains, worth, biased, covered, found = [], [], [], [], []
    for validation, test in studies_of(truth):
        chosen = best_by_others(validation[1:])
        own = validation[1:].mean(1).argmax()
        biased.append((test[1 + own] - test[0]).mean() - truth[own])
        gain = test[1 + chosen, np.arange(10)] - test[0]
        gains.append(gain.mean())
        worth.append(truth[chosen].mean())
        comparison = compare_chosen(gain, QUICK)
        covered.append(comparison.interval.low <= worth[-1] <= comparison.interval.high)
        verdict = decide(comparison, Claim("greater", 1e-9), comparison.p, 1, QUICK)
        found.append(verdict.answer in ("supported", "contradicted"))
    # A mean of 1,500 differences that scatter by 0.0011 has a standard error of 0.00003.
    assert np.mean(np.subtract(gains, worth)) == pytest.approx(0, abs=1e-4)
    assert np.mean(biased) > 2e-4  # the seeds that chose, judging their own choice
    assert np.mean(covered) > 0.95  # the correction allows for more than the choices share here
    if not truth.any():
        assert np.mean(found) < 0.05
