"""A verdict's numbers, made again from the files by scipy."""

import csv

import numpy as np
import pytest
from scipy import stats

from jax_lenet.decisions import Rules
from tests.simulated import (
    BOTH,
    DROP,
    DROP6,
    NORM,
    PLAIN,
    Truth,
    part_of,
    parts_of,
    summary_of,
    write,
)


def columns_of(folder, name):
    with (folder.path / name).open() as file:
        return list(csv.DictReader(file))


def by_seed(folder, variant, column, epoch):
    rows = [r for r in columns_of(folder, "results.csv") if r["variant"] == variant]
    return np.array([float(r[column]) for r in rows if r["epoch"] == str(epoch)])


def right_of(folder, variant, name="predictions.npz"):
    return folder.read_predictions(name)[variant] == folder.read_test_set().labels


def flips_p(differences):
    """The exact sign-flip test, by scipy."""
    return stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("last epoch, without batch norm", (DROP, PLAIN)),
        ("last epoch, with batch norm", (BOTH, NORM)),
    ],
)
def test_a_part_on_training_images_is_scipys_t_interval_and_sign_flips(claimed, name, pair):
    folder, summary = claimed
    part = part_of(summary, 3, name)
    first, second = (by_seed(folder, variant, "train_accuracy", 3) for variant in pair)
    differences = 100 * (first - second)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = [part["estimate"], part["low"], part["high"]]
    np.testing.assert_allclose(found, [differences.mean(), low, high], rtol=1e-9)
    assert part["p"] == pytest.approx(flips_p(differences))
    assert (part["n"], part["n_of"], part["unit"]) == (12, "seeds", "points")
    assert "over the seeds alone" in part["method"]
    assert not part["by_image"]


def two_way_t(differences):
    """Mean, standard error and p of a two-way layout, from its mean squares."""
    n, m = differences.shape
    mean, rows, columns = differences.mean(), differences.mean(1), differences.mean(0)
    rest = differences - rows[:, None] - columns + mean
    squares = {
        "seeds": m * ((rows - mean) ** 2).sum() / (n - 1),
        "images": n * ((columns - mean) ** 2).sum() / (m - 1),
        "rest": (rest**2).sum() / ((n - 1) * (m - 1)),
    }
    beyond = max(squares["images"] - squares["rest"], 0)
    error = np.sqrt((squares["seeds"] + beyond) / (n * m))
    freedom = n - 1
    if beyond:
        freedom = (squares["seeds"] + beyond) ** 2 / (
            squares["seeds"] ** 2 / (n - 1)
            + squares["images"] ** 2 / (m - 1)
            + squares["rest"] ** 2 / ((n - 1) * (m - 1))
        )
    return mean, error, freedom


LAST, FIRST = ("predictions.npz", 1), ("first_predictions.npz", 1)
LESS_LAST, LESS_FIRST = ("predictions.npz", -1), ("first_predictions.npz", -1)


@pytest.mark.parametrize(
    ("number", "name", "pair", "terms"),
    [
        (2, "last epoch, without dropout", (NORM, PLAIN), [LAST]),
        (2, "first epoch, with dropout", (BOTH, DROP), [FIRST]),
        (2, "first against last epoch, without dropout", (NORM, PLAIN), [FIRST, LESS_LAST]),
        (4, "test accuracy, with batch norm", (DROP6, NORM), [LAST]),
        (4, "gap, with batch norm", (DROP6, NORM), [("train_accuracy", 1), LESS_LAST]),
        (5, "last epoch, with batch norm", (BOTH, NORM), [LAST]),
        (5, "gain, with batch norm", (BOTH, NORM), [LAST, LESS_FIRST]),
    ],
)
def test_a_part_on_test_images_takes_seeds_and_images_as_random(claimed, number, name, pair, terms):
    folder, _ = claimed
    summary = summary_of(folder, Rules())
    part = part_of(summary, number, name)

    def has(variant):
        return sum(
            sign * by_seed(folder, variant, source, 3)[:, None]
            if source == "train_accuracy"
            else sign * right_of(folder, variant, source).astype(float)
            for source, sign in terms
        )

    differences = has(pair[0]) - has(pair[1])
    mean, error, freedom = two_way_t(100 * differences)
    assert part["estimate"] == pytest.approx(mean)
    half = stats.t.ppf(0.975, freedom) * error
    # The bootstrap's ends scatter by 2% of the half width, and 12 seeds are not quite normal.
    ends = [mean - half, mean + half]
    np.testing.assert_allclose([part["low"], part["high"]], ends, atol=half / 8)
    p = max(flips_p(differences.mean(1)), 2 * stats.t.sf(abs(mean) / error, freedom))
    assert part["p"] == pytest.approx(p)
    assert part["by_image"]


def test_a_ratio_of_times_is_the_geometric_mean_of_each_repeats(claimed):
    folder, summary = claimed
    rows = columns_of(folder, "timing.csv")

    def seconds(variant):
        own = [row for row in rows if row["variant"] == variant]
        return np.array([float(row["train_seconds"]) + float(row["test_seconds"]) for row in own])

    ratios = seconds(BOTH) / seconds(PLAIN)
    part = part_of(summary, 1, "both")
    assert part["estimate"] == pytest.approx(stats.gmean(ratios))
    low, high = np.exp(stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.95))
    np.testing.assert_allclose([part["low"], part["high"]], [low, high], rtol=1e-9)
    assert (part["n"], part["n_of"], part["unit"]) == (12, "repeats", "ratio")
    assert part["margin"] == pytest.approx(0.02)


def test_the_p_values_are_corrected_by_holm_over_the_whole_family(tmp_path):
    truth = Truth(first={NORM: 0.1}, time={NORM: 0.004}, train={DROP: -0.001})
    parts = parts_of(summary_of(write(tmp_path / "r", truth)))
    raw = np.array([part["p"] for part in parts])
    order = np.argsort(raw, kind="stable")
    expected, running = np.empty(19), 0.0
    for rank, index in enumerate(order):  # Holm (1979), step by step
        running = max(running, min(1.0, (19 - rank) * raw[index]))
        expected[index] = running
    np.testing.assert_allclose([part["p_adjusted"] for part in parts], expected)


def test_pairing_and_mcnemar_are_numpys_and_scipys(claimed):
    folder, summary = claimed
    a, b = (by_seed(folder, variant, "test_accuracy", 3) for variant in (NORM, PLAIN))
    (last,) = (p for p in summary["pairing"] if p["pair"] == [NORM, PLAIN] and p["epoch"] == "last")
    assert last["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    ratio = np.var(a - b, ddof=1) / (np.var(a, ddof=1) + np.var(b, ddof=1))
    assert last["variance_ratio"] == pytest.approx(ratio)
    first, second = (right_of(folder, variant)[0] for variant in (NORM, PLAIN))
    (test,) = (t for t in summary["mcnemar"] if t["pair"] == [NORM, PLAIN])
    assert (test["seed"], test["only_first"]) == (0, np.sum(first & ~second))
    assert test["p"] == pytest.approx(
        stats.binomtest(test["only_first"], test["only_first"] + test["only_second"]).pvalue
    )
