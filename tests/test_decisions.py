"""Verdicts: each rule on made-up differences, and error rates on simulated studies."""

from dataclasses import replace

import numpy as np
import pytest

from jax_lenet.decisions import (
    Claim,
    Comparison,
    Rules,
    compare,
    compare_accuracy,
    decide,
    decide_all,
    seeds_needed,
)
from jax_lenet.power import power_of_t_test, projected
from jax_lenet.statistics import Interval, PValue, holm, paired_interval, sign_flip_test
from jax_lenet.two_way import two_way, two_way_interval, two_way_test

BETTER = Claim("greater", margin=0.001)
WORSE = Claim("less", margin=0.001)
NO_WORSE = Claim("greater", margin=0.001, at_least=True)
# Simulations ask for the answer alone, so the search for the seeds needed ends where it begins.
NO_SEARCH = Rules(most_seeds=8, resamples=999)


def scattered(mean, scatter, n=10):
    """Return n values with exactly this mean and standard deviation."""
    values = np.arange(n) - (n - 1) / 2
    return mean + scatter * values / values.std(ddof=1)


def made_up(low, high, p, n=10):
    """Return a comparison with a given interval and p; its seeds all lie in the middle."""
    interval = Interval((low + high) / 2, low, high, n, 0.95, "t")
    return Comparison(np.full(n, (low + high) / 2), interval, (PValue(p, "made up"),))


@pytest.mark.parametrize(
    ("low", "high", "p", "answer"),
    [
        (0.002, 0.004, 0.01, "supported"),
        (-0.004, -0.002, 0.01, "contradicted"),
        (0.0002, 0.0030, 0.01, "supported"),  # sure of the sign, not of its size
        (-0.0009, 0.0009, 0.9, "no practical difference"),
        (0.0002, 0.0009, 0.01, "no practical difference"),  # sure, but small
        (-0.0005, 0.0030, 0.2, "undecided"),
        (0.002, 0.004, 0.06, "undecided"),  # the test does not agree
        (-0.001, 0.004, 0.01, "undecided"),  # the interval does not agree
    ],
)
def test_the_answer_follows_from_interval_test_and_margin(low, high, p, answer):
    comparison = made_up(low, high, p)
    assert decide(comparison, BETTER, p, family=5).answer == answer
    other = {"supported": "contradicted", "contradicted": "supported"}
    assert decide(comparison, WORSE, p, family=5).answer == other.get(answer, answer)


def test_an_interval_within_the_margin_needs_sign_flips_to_agree():
    comparison = made_up(-0.0005, 0.0005, 0.9)
    beyond = Comparison(np.full(10, 0.002), comparison.interval, comparison.tests)
    verdict = decide(beyond, BETTER, 0.9, family=1)
    assert verdict.answer == "undecided"
    assert "within the margin, but the test does not agree" in verdict.reason


@pytest.mark.parametrize("n", [1, 2, 7])
def test_too_few_seeds_decide_nothing_and_the_reason_says_so(n):
    verdict = decide(compare(np.full(n, 0.5)), BETTER, 0.0, family=1)
    assert verdict.answer == "undecided"
    assert verdict.reason.startswith(f"{n} seed{'s' * (n > 1)} cannot decide: at least 8")
    assert (verdict.seeds_needed is None) == (n == 1)


def test_too_few_seeds_for_the_family_cannot_find_a_difference_but_can_rule_one_out():
    # 12 tests: the least p from 8 seeds is 2 / 256, times 12 is 0.09.
    large, none = compare(scattered(0.5, 0.01, 8)), compare(scattered(0, 0.0001, 8))
    verdicts = decide_all([(large, BETTER)] * 11 + [(none, BETTER)])
    assert verdicts[0].answer == "undecided"
    assert verdicts[0].reason == (
        "8 seeds cannot decide: at least 9 are needed to find a difference among 12 tests"
    )
    assert verdicts[-1].answer == "no practical difference"
    nine = compare(scattered(0.5, 0.01, 9))
    assert decide_all([(nine, BETTER)] * 12)[0].answer == "supported"


@pytest.mark.parametrize("family", [1, 6, 7, 12, 13, 100])
def test_the_least_seeds_for_a_family_are_those_whose_least_p_survives_holm(family):
    n = Rules(least_seeds=1).least_seeds_for(family)

    def least_adjusted(n):
        return holm(np.full(family, sign_flip_test(np.ones(n)).p)).min()

    assert least_adjusted(n) <= 0.05 < least_adjusted(n - 1)


def test_what_was_repeated_is_called_by_its_name():
    verdict = decide(compare(np.zeros(5), unit="repeats"), BETTER, 1.0, family=1)
    assert verdict.reason.startswith("5 repeats cannot decide")


def test_a_family_is_corrected_by_holm():
    rng = np.random.default_rng(0)
    comparisons = [compare(rng.normal(0.001, 0.001, 12)) for _ in range(6)]
    verdicts = decide_all([(comparison, BETTER) for comparison in comparisons])
    expected = holm(np.array([sign_flip_test(c.differences).p for c in comparisons]))
    np.testing.assert_array_equal([v.adjusted_p for v in verdicts], expected)


def test_a_ratio_of_times_is_decided_on_its_logarithm():
    rules, repeats = Rules(), np.linspace(0.98, 1.02, 9)
    slower = Claim("greater", rules.log_time_margin)
    for factor, answer in ((1.3, "supported"), (0.8, "contradicted")):
        comparison = compare(np.log(factor * repeats), rules, unit="repeats")
        assert decide_all([(comparison, slower)])[0].answer == answer
    steady = compare(np.log(1.01 + 0.1 * (repeats - 1)), rules, unit="repeats")
    assert decide_all([(steady, slower)])[0].answer == "no practical difference"
    assert np.exp(rules.log_time_margin) == pytest.approx(1.02)


@pytest.mark.parametrize(
    "rule", ["level", "alpha", "power", "most_left_out", "accuracy_margin", "time_margin"]
)
@pytest.mark.parametrize("value", [0, -0.1, np.nan, np.inf])
def test_rules_that_make_no_sense_are_refused(rule, value):
    with pytest.raises(ValueError, match=rule):
        Rules(**{rule: value})


def test_a_claim_without_a_direction_is_refused():
    with pytest.raises(ValueError, match="two-sided"):
        Claim("two-sided", 0.1)


def test_evidence_by_seed_is_the_paired_interval_and_the_sign_flips():
    differences = np.random.default_rng(0).normal(size=12)
    comparison = compare(differences)
    assert comparison.interval == paired_interval(differences)
    assert comparison.tests == (sign_flip_test(differences),)


def test_evidence_on_accuracy_is_for_other_seeds_and_other_images():
    differences = np.random.default_rng(0).integers(-1, 2, (9, 200))
    comparison = compare_accuracy(differences)
    means = differences.mean(1)
    assert comparison.interval == two_way_interval(differences)
    assert comparison.tests == (sign_flip_test(means), two_way_test(differences))
    assert comparison.p == max(sign_flip_test(means).p, two_way_test(differences).p)
    assert comparison.image_variance == two_way(differences).image_variance
    assert decide_all([(compare_accuracy(differences[:1]), BETTER)])[0].answer == "undecided"


def test_the_seeds_needed_are_those_of_the_textbook():
    # Cohen (1988): an effect of half a standard deviation, alpha 0.05, power 0.8: 34 pairs, whose
    # power is 0.8078 (G*Power 3.1, manual's table for the matched-pairs t test).
    assert seeds_needed(compare(scattered(0.5, 1)), BETTER, family=1) == 34
    power = power_of_t_test(0.5, *projected(1.0, 0.0, np.array([33, 34])), 0.05)
    assert power[0] < 0.8 < power[1]
    assert power[1] == pytest.approx(0.8078, abs=1e-4)


def test_a_larger_family_needs_more_seeds_and_a_surer_effect_fewer():
    needed = [seeds_needed(compare(scattered(0.5, 1)), BETTER, family) for family in (1, 5, 12)]
    assert needed == sorted(set(needed))
    assert seeds_needed(compare(scattered(0.8, 1)), BETTER, 1) < needed[0]


def test_no_number_of_seeds_is_enough_where_the_images_leave_too_much_open():
    seeds = compare(scattered(0.0012, 0.002))
    images = Comparison(seeds.differences, seeds.interval, seeds.tests, image_variance=0.0006**2)
    assert seeds_needed(seeds, BETTER, 5) < 1000
    # However many seeds: the difference is two standard errors of the images alone.
    assert seeds_needed(images, BETTER, 5) is None


def test_seeds_that_all_agree_need_no_more_than_the_least():
    least = Rules().least_seeds_for(1)
    assert seeds_needed(compare(np.full(3, 0.01)), BETTER, 1) in range(least, least + 6)
    assert seeds_needed(compare(np.zeros(3)), BETTER, 1) == least


@pytest.mark.parametrize("scatter", ["normal", "heavy tails"])
def test_without_any_effect_at_most_one_study_in_twenty_has_a_false_verdict(scatter):
    # Six variants against a seventh in two epochs: 12 tests, of which each epoch's hang together.
    rng = np.random.default_rng(len(scatter))
    draw = {"normal": rng.standard_normal, "heavy tails": lambda size: rng.standard_t(3, size)}
    false = []
    for _ in range(1000):
        accuracy = 0.98 + 0.002 * draw[scatter]((2, 7, 10))
        differences = (accuracy[:, 1:] - accuracy[:, :1]).reshape(12, 10)
        verdicts = decide_all([(compare(d), BETTER) for d in differences], NO_SEARCH)
        false.append(any(v.answer in ("supported", "contradicted") for v in verdicts))
    # 5% of 1,000 studies has a standard error of 0.7 points.
    assert np.mean(false) <= 0.05 + 2 * 0.007


def test_without_any_effect_the_choice_of_images_makes_no_false_verdict_either():
    # Six variants from 12 seeds on 500 images, all 15 pairs; which images a variant finds difficult
    # differs by variant. Sign flips alone, blind to the images, are wrong in 4 of 10.
    rng = np.random.default_rng(0)
    false, blind = [], []
    for _ in range(100):
        difficulty = rng.normal(2, 1, 500) + rng.normal(0, 0.7, (6, 1, 500))
        right = (difficulty + rng.normal(size=(6, 12, 500)) > 0).astype(np.int8)
        pairs = [right[i] - right[j] for i in range(6) for j in range(i)]
        comparisons = [compare_accuracy(d, NO_SEARCH) for d in pairs]
        verdicts = decide_all([(c, BETTER) for c in comparisons], NO_SEARCH)
        false.append(any(v.answer in ("supported", "contradicted") for v in verdicts))
        blind.append(holm(np.array([c.tests[0].p for c in comparisons])).min() <= 0.05)
    # 5% of 100 studies has a standard error of 2.2 points.
    assert np.mean(false) <= 0.05 + 2 * 0.022
    assert np.mean(blind) > 0.25


def test_a_difference_just_beyond_the_margin_is_rarely_called_none():
    # Truth at the margin: the interval ends below it in 2.5%, with a standard error of 0.35 points.
    draws = np.random.default_rng(3).normal(BETTER.margin, 0.0003, (2000, 10))
    verdicts = [decide(compare(d), BETTER, 1.0, 1, NO_SEARCH) for d in draws]
    assert np.mean([v.answer == "no practical difference" for v in verdicts]) <= 0.025 + 2 * 0.0035


@pytest.mark.parametrize(("n", "effect"), [(15, 1.12), (15, 0.9), (18, 0.99)])
def test_a_planted_effect_is_found_with_the_power_claimed(n, effect):
    # Among 12 tests, the others without effect. Holm's first step is then alpha / 12.
    error = projected(0.01**2, 0.0, np.array([n]))
    claimed = float(power_of_t_test(0.01 * effect, *error, 0.05 / 12)[0])
    draws = np.random.default_rng(n).normal(0.01 * effect, 0.01, (1000, n))
    comparisons = [compare(d) for d in draws]
    verdicts = [decide(c, BETTER, min(12 * c.p, 1), 12, NO_SEARCH) for c in comparisons]
    found = np.mean([v.answer == "supported" for v in verdicts])
    # Two standard errors of 1,000 studies, and a point that the sign flips lose to the t test.
    assert found == pytest.approx(claimed, abs=2 * np.sqrt(claimed * (1 - claimed) / 1000) + 0.01)
    assert 0.5 < claimed < 0.9


@pytest.mark.parametrize(
    ("claim", "mean", "scatter", "answer"),
    [
        (BETTER, 0.008, 0.01, "supported"),
        (BETTER, 0.0, 0.0015, "no practical difference"),
        (BETTER, 0.0002, 0.0010, "no practical difference"),
        (BETTER, -0.0005, 0.0015, "no practical difference"),
        (NO_WORSE, 0.0, 0.0015, "supported"),
        (NO_WORSE, -0.0004, 0.0015, "supported"),
        (NO_WORSE, -0.004, 0.0035, "contradicted"),
    ],
)
def test_as_many_seeds_as_are_said_to_be_needed_decide_in_four_studies_of_five(
    claim, mean, scatter, answer
):
    needed = seeds_needed(compare(scattered(mean, scatter, 10)), claim, family=12)
    draws = np.random.default_rng(1).normal(mean, scatter, (1000, needed))
    comparisons = [compare(d, NO_SEARCH) for d in draws]
    verdicts = [decide(c, claim, min(12 * c.p, 1), 12, NO_SEARCH) for c in comparisons]
    found = np.mean([v.answer == answer for v in verdicts])
    # 80% of 1,000 studies has a standard error of 1.3 points; a seed more or less is worth 4.
    assert found == pytest.approx(0.82, abs=0.02 + 2 * 0.013)


# Claims of no more than the margin on the other side


@pytest.mark.parametrize(
    ("low", "high", "p", "answer"),
    [
        (-0.0004, 0.0024, 0.2, "supported"),  # whether it is more is open, and not asked
        (-0.00085, -0.00035, 0.01, "supported"),  # lower, and by less than the margin
        (-0.0005, 0.0005, 0.9, "supported"),
        (0.002, 0.004, 0.01, "supported"),
        (-0.0015, -0.0003, 0.01, "undecided"),  # lower, perhaps by more than the margin
        (-0.0015, 0.0030, 0.4, "undecided"),
        (-0.004, -0.002, 0.01, "contradicted"),
        (-0.004, -0.002, 0.06, "undecided"),  # the corrected test does not agree
    ],
)
def test_whether_it_is_at_least_so_follows_from_the_margin_on_the_other_side(low, high, p, answer):
    assert decide(made_up(low, high, p), NO_WORSE, p, family=5).answer == answer
    no_more = Claim("less", margin=0.001, at_least=True)
    assert decide(made_up(-high, -low, p), no_more, p, family=5).answer == answer


@pytest.mark.parametrize(("low", "high", "elsewhere"), [(-0.0005, 0.0005, -1), (-0.004, -0.002, 1)])
def test_at_least_so_needs_sign_flips_about_the_margin_to_agree(low, high, elsewhere):
    comparison = made_up(low, high, 0.001)
    beyond = replace(comparison, differences=np.full(10, elsewhere))
    verdict = decide(beyond, NO_WORSE, 0.001, family=1)
    assert verdict.answer == "undecided"
    assert "agree" in verdict.reason


def test_too_few_seeds_do_not_show_that_it_is_at_least_so():
    assert decide(compare(np.full(7, 0.5)), NO_WORSE, 0.0, family=1).answer == "undecided"


def test_what_is_worse_by_the_margin_is_rarely_called_no_worse():
    # The interval ends above it in 2.5%, with a standard error of 0.35 points.
    draws = np.random.default_rng(4).normal(-NO_WORSE.margin, 0.0003, (2000, 10))
    verdicts = [decide(compare(d), NO_WORSE, 1.0, 1, NO_SEARCH) for d in draws]
    assert np.mean([v.answer == "supported" for v in verdicts]) <= 0.025 + 2 * 0.0035
