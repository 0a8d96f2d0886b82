"""The verdicts on simulated studies whose truth is known, and their numbers made again by scipy."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments import verdicts
from experiments.questions import as_json
from experiments.results import TimingRow
from experiments.verdicts import CONCLUSIONS, summarize, verdict_of
from jax_lenet.decisions import Rules
from tests.simulated import DROPOUT_RATES, LEARNING_RATES, Truth, evidence_of, write, write_sweep

PLAIN, NORM = "LeNet", "LeNet_BN_noDropout"
DROP, BOTH = "LeNet_noBN_Dropout", "LeNet_BN_Dropout"
DROP6 = "LeNet_BN_drop6"
# Everything that the report claims, by amounts that 12 seeds and 2,000 images can tell.
AS_CLAIMED = Truth(
    first={NORM: 0.1, DROP: -0.05, BOTH: 0.05, DROP6: 0.1},
    last={NORM: 0.014, DROP: 0.01, BOTH: 0.024, DROP6: 0.024},
    train={DROP: -0.02, BOTH: -0.02, DROP6: -0.01},
    time={NORM: 0.1, DROP: 0.05, BOTH: 0.15},
)
QUICK = Rules(resamples=999)
# The simulated test set is a fifth of MNIST's: its intervals are wider.
WIDE = replace(QUICK, accuracy_margin=0.01)


def opposite(truth):
    """Every effect with the other sign."""
    signs = ("first", "last", "train", "time")
    return replace(truth, **{k: {v: -x for v, x in getattr(truth, k).items()} for k in signs})


def summary_of(folder, rules=QUICK):
    return summarize(evidence_of(folder), rules)


def parts_of(summary):
    return [part for entry in summary["verdicts"] for part in entry["parts"]]


def part_of(summary, number, name):
    (part,) = (p for p in summary["verdicts"][number - 1]["parts"] if p["name"] == name)
    return part


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    """A study with every effect that the report claims, and its answers."""
    folder = write(tmp_path_factory.mktemp("claimed") / "r", AS_CLAIMED)
    return folder, summary_of(folder)


# Known truth


def test_where_all_effects_are_as_claimed_all_conclusions_are_supported(claimed):
    _, summary = claimed
    assert [entry["verdict"] for entry in summary["verdicts"]] == ["supported"] * 5
    assert {part["verdict"] for part in parts_of(summary)} == {"supported"}


def test_where_all_effects_have_the_other_sign_all_conclusions_are_contradicted(tmp_path):
    summary = summary_of(write(tmp_path / "r", opposite(AS_CLAIMED)))
    assert [entry["verdict"] for entry in summary["verdicts"]] == ["contradicted"] * 5
    assert {part["verdict"] for part in parts_of(summary)} == {"contradicted"}


def test_where_nothing_differs_by_more_than_the_margin_nothing_matters(tmp_path):
    summary = summary_of(write(tmp_path / "r", Truth()), WIDE)
    assert [entry["verdict"] for entry in summary["verdicts"]] == ["no practical difference"] * 5
    for part in parts_of(summary):
        # Who claims to be at least equal is borne out by being equal.
        expected = "supported" if part["at_least"] else "no practical difference"
        assert part["verdict"] == expected, part["name"]
    assert [p["name"] for p in parts_of(summary) if p["at_least"]] == [
        "last epoch, without batch norm",
        "last epoch, with batch norm",
    ]


def test_an_effect_within_the_margin_is_no_practical_difference_though_it_is_sure(tmp_path):
    truth = Truth(time={NORM: 0.012}, first={NORM: 0.004})  # of margins of 2% and 1 point
    summary = summary_of(write(tmp_path / "r", truth), WIDE)
    for number, name in ((1, "batch norm"), (2, "first epoch, without dropout")):
        part = part_of(summary, number, name)
        assert part["p_adjusted"] < 0.05
        assert part["verdict"] == "no practical difference"


def test_what_seeds_and_images_leave_open_is_undecided_with_the_seeds_that_it_would_take(tmp_path):
    truth = Truth(first={NORM: 0.003}, scatter=0.01)
    part = part_of(summary_of(write(tmp_path / "r", truth)), 2, "first epoch, without dropout")
    assert part["verdict"] == "undecided"
    assert part["seeds_needed"] is None or part["seeds_needed"] > 12


def test_studies_without_any_effect_seldom_end_with_a_false_verdict(tmp_path, monkeypatch):
    # With margins that nothing can lie within. At most 5% of studies may have a false verdict;
    # of 100 more than 13 come about once in 4,000.
    tight = replace(QUICK, accuracy_margin=1e-9, time_margin=1e-9, resamples=199)
    false = 0
    for number in range(100):
        folder = write(tmp_path / str(number), Truth(images=300), number)
        evidence = evidence_of(folder)
        entries, _ = verdicts._answers([c(evidence, tight) for c in CONCLUSIONS], tight)
        answers = {part["verdict"] for entry in entries for part in entry["parts"]}
        false += bool(answers & {"supported", "contradicted"})
    assert false <= 13


# The rule that makes a conclusion's verdict of its parts


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        (("supported", "supported"), "supported"),
        (("supported", "contradicted"), "contradicted"),
        (("undecided", "contradicted", "no practical difference"), "contradicted"),
        (("supported", "undecided"), "undecided"),
        (("no practical difference", "undecided"), "undecided"),
        (("no practical difference", "supported"), "no practical difference"),
        (("no practical difference",) * 2, "no practical difference"),
    ],
)
def test_a_conclusion_is_as_good_as_its_worst_part(answers, verdict):
    assert verdict_of(answers) == verdict_of(answers[::-1]) == verdict


def test_the_family_has_19_tests_of_which_17_are_claimed(claimed):
    _, summary = claimed
    assert [len(entry["parts"]) for entry in summary["verdicts"]] == [3, 6, 2, 2, 6]
    assert summary["rules"]["family"] == 19
    assert all(part["family"] == 19 for part in parts_of(summary))
    beside = [part["name"] for part in parts_of(summary) if part["role"] == "beside"]
    assert beside == [f"last epoch, {which} batch norm" for which in ("without", "with")]


def test_what_is_asked_beside_a_claim_does_not_make_its_verdict(tmp_path):
    weak = replace(AS_CLAIMED, last=AS_CLAIMED.last | {DROP: -0.01})
    entry = summary_of(write(tmp_path / "r", weak))["verdicts"][4]
    (part,) = (p for p in entry["parts"] if p["name"] == "last epoch, without batch norm")
    assert part["verdict"] == "contradicted"
    assert entry["verdict"] == "supported"
    assert "not claimed, so not counted: at the last epoch by -" in entry["sentence"]


def test_each_functions_docstring_begins_with_its_claim(claimed):
    _, summary = claimed
    for function, entry in zip(CONCLUSIONS, summary["verdicts"], strict=True):
        claim = entry["claim"].partition(" (")[0].rstrip(".")
        assert (function.__doc__ or "").startswith(claim)


# The numbers, made again from the files


def columns_of(folder, name):
    with (folder.path / name).open() as file:
        return list(csv.DictReader(file))


def by_seed(folder, variant, column, epoch):
    rows = [r for r in columns_of(folder, "results.csv") if r["variant"] == variant]
    return np.array([float(r[column]) for r in rows if r["epoch"] == str(epoch)])


def right_of(folder, variant):
    return folder.read_predictions()[variant] == folder.read_test_set().labels


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
    ("number", "name", "pair", "column", "change"),
    [
        (2, "first epoch, with dropout", (BOTH, DROP), "test_accuracy", (1, None)),
        (2, "first against last epoch, without dropout", (NORM, PLAIN), "test_accuracy", (1, 3)),
        (3, "last epoch, without batch norm", (DROP, PLAIN), "train_accuracy", (3, None)),
        (5, "gain, with batch norm", (BOTH, NORM), "test_accuracy", (3, 1)),
    ],
)
def test_a_part_over_seeds_is_scipys_t_interval_and_sign_flips(
    claimed, number, name, pair, column, change
):
    folder, summary = claimed
    part = part_of(summary, number, name)
    plus, minus = change
    values = [by_seed(folder, v, column, plus) for v in pair]
    if minus:
        values = [x - by_seed(folder, v, column, minus) for x, v in zip(values, pair, strict=True)]
    differences = 100 * (values[0] - values[1])
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


@pytest.mark.parametrize(
    ("number", "name", "pair", "gap"),
    [
        (2, "last epoch, without dropout", (NORM, PLAIN), False),
        (5, "last epoch, with batch norm", (BOTH, NORM), False),
        (4, "test accuracy, with batch norm", (DROP6, NORM), False),
        (4, "gap, with batch norm", (DROP6, NORM), True),
    ],
)
def test_a_last_epoch_part_takes_seeds_and_images_as_random(claimed, number, name, pair, gap):
    folder, _ = claimed
    summary = summary_of(folder, Rules())
    part = part_of(summary, number, name)
    first, second = (right_of(folder, variant).astype(float) for variant in pair)
    differences = first - second
    if gap:
        train = [by_seed(folder, variant, "train_accuracy", 3) for variant in pair]
        differences = (train[0] - train[1])[:, None] - differences
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


# What a folder lacks


def test_one_seed_cannot_decide_and_shows_its_numbers(tmp_path):
    summary = summary_of(write(tmp_path / "r", replace(AS_CLAIMED, seeds=1)))
    for entry in summary["verdicts"][1:]:
        assert entry["verdict"] == "undecided"
        assert "since 1 seed cannot decide: at least 8 are needed" in entry["sentence"]
        for part in entry["parts"]:
            assert np.isfinite(part["estimate"])
            assert part["low"] is part["high"] is part["seeds_needed"] is None
    assert summary["verdicts"][0]["verdict"] == "supported"  # of time, which has its repeats
    assert summary["pairing"] == []
    assert len(summary["mcnemar"]) == 5
    json.dumps(summary, allow_nan=False)


def test_fewer_seeds_than_the_family_asks_for_find_no_difference(tmp_path):
    # 2 / 2^9 * 19 = 0.07: no nine seeds are sure enough among 19 tests.
    summary = summary_of(write(tmp_path / "r", replace(AS_CLAIMED, seeds=9)))
    part = part_of(summary, 2, "first epoch, without dropout")
    assert part["verdict"] == "undecided"
    assert "9 seeds cannot decide: at least 10" in part["reason"]


def test_without_timing_and_predictions_those_questions_are_undecided_and_say_why(tmp_path):
    folder = write(tmp_path / "r", replace(AS_CLAIMED, repeats=0))
    for name in ("predictions.npz", "test_set.npz"):
        (folder.path / name).unlink()
    summary = summary_of(folder)
    answers = [entry["verdict"] for entry in summary["verdicts"]]
    # The fifth claims the first epoch and the gain, which are numbers by seed.
    assert answers == ["undecided", "undecided", "supported", "undecided", "supported"]
    assert "without timing.csv nobody knows the time" in summary["verdicts"][0]["sentence"]
    last = part_of(summary, 2, "last epoch, without dropout")
    assert "without predictions.npz and test_set.npz" in last["reason"]
    differences = [100 * by_seed(folder, variant, "test_accuracy", 3) for variant in (NORM, PLAIN)]
    assert last["estimate"] == pytest.approx(np.mean(differences[0] - differences[1]))
    assert last["p_adjusted"] is None
    assert part_of(summary, 2, "first epoch, without dropout")["verdict"] == "supported"
    assert summary["rules"]["family"] == 19 - 3 - 6  # times; last epochs and the gap
    assert summary["wrong_labels"] is None
    json.dumps(summary, allow_nan=False)


def test_a_study_of_some_variants_answers_what_it_can(tmp_path):
    summary = summary_of(write(tmp_path / "r", replace(AS_CLAIMED, variants=(PLAIN, NORM))))
    assert part_of(summary, 1, "batch norm")["verdict"] == "supported"
    both = part_of(summary, 1, "both")
    assert both["reason"] == "the study has not timed LeNet_BN_Dropout"
    assert (both["estimate"], both["n"]) == (None, 0)
    drop = part_of(summary, 5, "first epoch, without batch norm")
    assert drop["reason"] == "the study has no finished run of LeNet_noBN_Dropout"
    assert summary["rules"]["family"] == 1 + 3
    assert summary["verdicts"][4]["sentence"].startswith("Undecided: ")
    json.dumps(summary, allow_nan=False)


def test_a_diverged_run_leaves_its_seed_out_from_there_on_and_is_named(tmp_path):
    truth = replace(AS_CLAIMED, diverged=((NORM, 2, 2),))
    summary = summary_of(write(tmp_path / "r", truth))
    last = part_of(summary, 2, "last epoch, without dropout")
    assert last["n"] == 11
    assert last["verdict"] == "supported"
    assert "LeNet_BN_noDropout seed 2 in epoch 2" in last["reason"]
    assert "without those of runs that diverged" in summary["verdicts"][1]["sentence"]
    assert part_of(summary, 2, "first epoch, without dropout")["n"] == 12
    json.dumps(summary, allow_nan=False)


def test_where_every_run_diverged_there_is_nothing_to_compare(tmp_path):
    truth = replace(AS_CLAIMED, seeds=2, diverged=((PLAIN, 0, 1), (PLAIN, 1, 1)))
    summary = summary_of(write(tmp_path / "r", truth))
    part = part_of(summary, 2, "first epoch, without dropout")
    assert part["estimate"] is None
    assert part["reason"].startswith("at every seed one of the two diverged: LeNet seed 0")
    json.dumps(summary, allow_nan=False)


def test_one_epoch_has_no_first_and_last_to_compare(claimed, tmp_path):
    folder, _ = claimed
    evidence = evidence_of(folder)
    runs = {
        variant: replace(
            runs,
            train_loss=runs.train_loss[:, -1:],
            train_accuracy=runs.train_accuracy[:, -1:],
            test_accuracy=runs.test_accuracy[:, -1:],
        )
        for variant, runs in evidence.runs.items()
    }
    summary = summarize(replace(evidence, epochs=1, runs=runs), QUICK)
    gain = part_of(summary, 5, "gain, without batch norm")
    assert gain["reason"] == "one epoch is the first and the last"
    assert part_of(summary, 2, "last epoch, without dropout")["verdict"] == "supported"


def test_repeats_that_only_one_variant_has_are_not_compared(claimed, tmp_path):
    folder = write(tmp_path / "r", AS_CLAIMED)
    rows = [r for r in folder.read_timing() if r.variant != PLAIN or r.repeat <= 9]
    folder.write_timing([*rows, TimingRow(PLAIN, 99, 1.0, 1.0)])
    assert part_of(summary_of(folder), 1, "batch norm")["n"] == 9


# Sweeps


def test_without_a_sweep_nothing_but_the_parts_counts(claimed):
    assert all(part["role"] != "further" for part in parts_of(claimed[1]))


def test_sweeps_are_further_evidence_in_families_of_their_own(tmp_path):
    folder = write(tmp_path / "r", AS_CLAIMED)
    best = {(0, 0.003): 0.95, (0, 0.01): 0.97, (0, 0.1): 0.985}
    best |= {(1, 0.003): 0.97, (1, 0.01): 0.98, (1, 0.1): 0.985}
    write_sweep(
        folder.path / "sweeps" / "1",
        LEARNING_RATES,
        lambda point: best[point.batch_norm, point.learning_rate],
    )
    # Dropout of 0.2 in drop6 helps; in both it costs, and 0.5 costs most.
    drop = {(0.0, 0.0): 0.97, (0.2, 0.0): 0.98, (0.5, 0.0): 0.96, (0.2, 0.2): 0.965}
    write_sweep(
        folder.path / "sweeps" / "2",
        DROPOUT_RATES,
        lambda point: drop.get((point.drop6, point.drop7), 0.9),
    )
    summary = summary_of(folder)
    report = part_of(summary, 2, "report's learning rate, without dropout")
    assert report["verdict"] == "supported"
    assert report["estimate"] == pytest.approx(1.0, abs=0.1)  # of 0.0005 scatter in 8 seeds
    assert report["compared"] == ["LeNet_BN_noDropout at 0.01", "LeNet at 0.01"]
    tuned = part_of(summary, 2, "best learning rates, without dropout")
    assert tuned["estimate"] == pytest.approx(0.0, abs=0.1)
    assert tuned["compared"] == ["LeNet_BN_noDropout at 0.1", "LeNet at 0.1"]
    drop6 = part_of(summary, 3, "drop6 at 0.2, LeNet")
    assert (drop6["verdict"], drop6["family"]) == ("supported", 2)
    both = part_of(summary, 3, "drop6 and drop7 at 0.2, LeNet")
    assert both["verdict"] == "contradicted"
    assert both["estimate"] == pytest.approx(-0.5, abs=0.1)
    further = [part for part in parts_of(summary) if part["role"] == "further"]
    assert len(further) == 4
    assert summary["rules"]["family"] == 19
    assert [entry["verdict"] for entry in summary["verdicts"]] == ["supported"] * 5
    assert "sweep" not in summary["verdicts"][1]["sentence"]


def test_a_question_without_data_is_written_as_undecided(claimed):
    folder, _ = claimed
    evidence = evidence_of(folder)
    question = CONCLUSIONS[0](replace(evidence, timing={}), QUICK).claimed[0]
    part = as_json(question, None, 16, role="claimed")
    assert part["verdict"] == "undecided"
    assert (part["n"], part["n_of"], part["method"]) == (0, "repeats", "none")
