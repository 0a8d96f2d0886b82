"""Choices by the other seeds: no bias, and an interval that allows for what they share."""

import numpy as np
import pytest
from scipy import stats

from jax_lenet.decisions import Claim, Rules, compare_chosen, decide
from jax_lenet.leave_one_out import best_by_others, choice_factor
from jax_lenet.two_way import two_way, two_way_test
from tests.simulated import COMMON, Truth, right_of

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


def test_where_choices_differ_the_variance_from_the_seeds_is_nadeau_and_bengios():
    gains, chosen = np.array([0.3, 0.1, -0.2, 0.4]), np.array([1, 1, 2, 1])
    differences = np.repeat(gains[:, None], 50, axis=1)  # all images alike
    variance = gains.var(ddof=1) * (1 / 4 + 1 / 3)
    factor = choice_factor(chosen)
    assert two_way(differences, factor).seed_variance == pytest.approx(variance)
    p = 2 * stats.t.sf(0.15 / np.sqrt(variance), 3)
    assert two_way_test(differences, factor).p == pytest.approx(p)
    comparison = compare_chosen(differences, chosen)
    assert comparison.p >= p
    assert comparison.seed_factor == pytest.approx(4 * (1 / 4 + 1 / 3))
    assert compare_chosen(differences[:1], chosen[:1]).interval.low is None


def test_where_all_seeds_get_the_same_there_is_nothing_to_correct():
    assert choice_factor(np.array([3, 3, 3])) == 1
    assert choice_factor(np.array([3])) == 1
    assert choice_factor(np.array([[3, 3, 3], [1, 1, 1]])) == 1
    assert choice_factor(np.array([[3, 3, 3], [1, 1, 2]])) == pytest.approx(2.5)


SEEDS, IMAGES = 10, 1000


def studies_of(truth, shared=0.9, scatter=0.002, own=0.5, number=1000):
    """Yield simulated sweeps: validation accuracy, ``[1 + candidates, seeds]``, and a function.

    The function returns which test images each seed has right, bool ``[seeds, images]``, at the
    candidate given for it. The first candidate is the baseline.

    Args:
        truth: accuracy less the baseline's, by candidate.
        shared: how much of a run's variance shows on validation and test images alike.
        scatter: of runs.
        own: how much images differ in difficulty for one candidate alone.
        number: of studies.
    """
    draws = np.random.default_rng(len(truth))
    sizes = np.sqrt([shared, 1 - shared, 1 - shared]) * scatter
    accuracy = 0.97 + np.array([0.0, *truth])[:, None]
    for _ in range(number):
        luck, *rest = draws.normal(0, sizes[:, None, None], (3, len(accuracy), SEEDS))
        validation, test = (accuracy + luck + each for each in rest)
        ease = draws.normal(0, COMMON, IMAGES) + draws.normal(0, own, (len(accuracy), IMAGES))

        def right_at(candidates, test=test, ease=ease):
            accuracies = test[candidates, np.arange(SEEDS)]
            return right_of(accuracies, ease[candidates], Truth(own=own), draws)

        yield validation, right_at


@pytest.mark.parametrize(
    "truth", [np.zeros(7), np.array([0.001, 0.002, 0.001, 0, -0.002, -0.004, -0.01])]
)
@pytest.mark.parametrize("own", [0.0, 0.5])
def test_a_choice_by_the_others_gains_no_more_than_it_is_worth(truth, own):
    gains, worth, biased, covered, found = [], [], [], [], []
    for validation, right_at in studies_of(truth, own=own):
        chosen = best_by_others(validation[1:])
        best = validation[1:].mean(1).argmax()
        none = right_at(np.zeros(SEEDS, int))
        biased.append(right_at(np.full(SEEDS, 1 + best)).mean() - none.mean() - truth[best])
        comparison = compare_chosen(right_at(1 + chosen).astype(np.int8) - none, chosen, QUICK)
        gains.append(comparison.interval.estimate)
        worth.append(truth[chosen].mean())
        covered.append(comparison.interval.low <= worth[-1] <= comparison.interval.high)
        verdict = decide(comparison, Claim("greater", 1e-9), comparison.p, 1, QUICK)
        found.append(verdict.answer in ("supported", "contradicted"))
    gained = np.subtract(gains, worth)
    assert abs(gained.mean()) < 3 * stats.sem(gained)
    assert np.mean(biased) > 2e-4  # the seeds that chose, judging their own choice
    # 93 to 97%, and 5%, each with two standard errors of a share of 1,000 studies.
    assert 0.93 - 2 * 0.007 < np.mean(covered) < 0.97 + 2 * 0.007
    if not truth.any():
        assert np.mean(found) < 0.05 + 2 * 0.007
