"""What sweeps add to the verdicts, and rates that are chosen without bias."""

import numpy as np
import pytest

from experiments.cli import UserError
from experiments.evidence import Evidence
from experiments.questions import as_json
from experiments.sentences import difference
from experiments.sweep_files import Outcome, SweepFolder, read
from experiments.sweep_questions import at_dropout_rates
from experiments.sweep_results import Candidates
from tests.simulated import (
    AS_CLAIMED,
    DROPOUT_RATES,
    LEARNING_RATES,
    QUICK,
    Truth,
    evidence_of,
    labels_of,
    outcome_of,
    part_of,
    parts_of,
    summary_of,
    write,
    write_sweep,
)


def test_without_a_sweep_nothing_but_the_parts_counts(tmp_path):
    summary = summary_of(write(tmp_path / "r", Truth(seeds=2)))
    assert all(part["role"] != "further" for part in parts_of(summary))


def test_sweeps_are_further_evidence_in_a_family_for_each_kind(tmp_path):
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
    drop6 = part_of(summary, 3, "LeNet, drop6 at 0.2")
    assert (drop6["verdict"], drop6["family"]) == ("supported", 2)
    both = part_of(summary, 3, "LeNet, drop6 and drop7 at 0.2")
    assert both["verdict"] == "contradicted"
    assert both["estimate"] == pytest.approx(-0.5, abs=0.1)
    further = [part for part in parts_of(summary) if part["role"] == "further"]
    assert len(further) == 4
    assert summary["rules"]["family"] == 19
    assert [entry["verdict"] for entry in summary["verdicts"]] == ["supported"] * 5
    norm, drop = (
        summary["verdicts"][place]["sentence"].partition(" A sweep, which has no part in it: ")[2]
        for place in (1, 2)
    )
    assert norm.startswith("batch norm changes last-epoch test accuracy at the report's learning")
    best = "; with each seed at the learning rates that the others find best, by "
    assert best in norm
    assert (
        "without dropout, at 0.1 with batch norm and at 0.1 without it" in norm.partition(best)[2]
    )
    told = "dropout at its best rate changes last-epoch test accuracy of LeNet by "
    assert drop.startswith(f"{told}{difference(drop6)} with drop6 at 0.2 (supported) and ")
    assert drop.count("of LeNet") == 1
    assert drop.endswith(" 8 seeds). Better than none: LeNet with drop6 at 0.2.")


def test_a_sweep_of_one_kind_changes_nothing_that_is_said_of_the_other(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=2))
    # The gain is small beside what runs scatter by: a family of four would raise its p.
    write_sweep(
        folder.path / "sweeps" / "1",
        LEARNING_RATES,
        lambda point: 0.97 + 0.0005 * point.batch_norm,
    )
    before = summary_of(folder)["verdicts"]
    write_sweep(folder.path / "sweeps" / "2", DROPOUT_RATES, lambda point: 0.9)
    after = summary_of(folder)["verdicts"]
    assert after[1] == before[1]
    assert [part["family"] for part in after[1]["parts"] if part["role"] == "further"] == [2, 2]
    assert after[2] != before[2]


def test_where_no_rate_is_better_the_sweep_says_its_verdict_once_and_ends_with_that(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=2))
    candidates = [
        Candidates(variant, layers, (0.0, 0.2, 0.5), 0.01)
        for variant in ("LeNet", "LeNet_BN_noDropout")
        for layers in ("drop6", "drop7")
    ]
    write_sweep(folder.path / "sweeps" / "1", candidates, lambda p: 0.95 - (p.drop6 + p.drop7) / 20)
    entry = summary_of(folder)["verdicts"][2]
    told = entry["sentence"].partition(" A sweep, which has no part in it: ")[2]
    parts = [difference(part) for part in entry["parts"] if part["role"] == "further"]
    assert told == (
        "dropout at its best rate changes last-epoch test accuracy"
        f" of LeNet by {parts[0]} with drop6 at 0.2 and {parts[1]} with drop7 at 0.2;"
        f" of LeNet_BN_noDropout by {parts[2]} with drop6 at 0.2 and {parts[3]} with drop7 at 0.2"
        " (verdict of each: contradicted, 95% intervals, 8 seeds)."
        " No rate was found better than none."
    )


def test_validation_and_not_test_accuracy_chooses_the_rates(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=2))
    drop = {0.0: (0.97, 0.97), 0.2: (0.98, 0.965), 0.5: (0.96, 0.985)}  # validation, test
    write_sweep(
        folder.path / "sweeps" / "1",
        DROPOUT_RATES[:1],
        lambda point: drop[point.drop6][0],
        tested=lambda point: drop[point.drop6][1],
    )
    # Validation, then test without and with batch norm.
    norm = {0.003: (0.97, 0.96, 0.962), 0.01: (0.96, 0.985, 0.99), 0.1: (0.95, 0.97, 0.97)}
    write_sweep(
        folder.path / "sweeps" / "2",
        LEARNING_RATES,
        lambda point: norm[point.learning_rate][0],
        tested=lambda point: norm[point.learning_rate][1 + point.batch_norm],
    )
    summary = summary_of(folder)
    drop6 = part_of(summary, 3, "LeNet, drop6 at 0.2")
    assert drop6["estimate"] == pytest.approx(-0.5, abs=0.1)
    tuned = part_of(summary, 2, "best learning rates, without dropout")
    assert tuned["compared"] == ["LeNet_BN_noDropout at 0.003", "LeNet at 0.003"]
    assert tuned["estimate"] == pytest.approx(0.2, abs=0.1)
    text = summary["verdicts"][1]["mechanism"]["text"]
    assert "With batch norm the lowest rate tried was chosen; one beyond may be better." in text


def test_a_seeds_own_luck_does_not_choose_its_rate(tmp_path):
    # Seed 0 alone is good at 0.5, on both sets of images; the other seeds are better at 0.2.
    sweep = write_sweep(tmp_path / "s", DROPOUT_RATES[:1], lambda point: 0.9, seeds=3)
    found = {0.0: (0.90, 0.90, 0.90), 0.2: (0.91, 0.92, 0.92), 0.5: (0.99, 0.91, 0.91)}
    outcomes = [
        outcome_of(*run, *[found[run.point.drop6][run.seed]] * 2, images=2_000)
        for run in SweepFolder(sweep).read_runs()
    ]
    SweepFolder(sweep).write_outcomes(outcomes, labels_of(2_000))
    (question,) = at_dropout_rates(
        Evidence(3, 0.01, runs={}, timing={}, sweeps=(read(sweep),)), QUICK
    )
    # The mean over all seeds chooses 0.5, for its 0.937; seed 0's others choose 0.2, for 0.92.
    assert question.compared[0] == "LeNet with drop6 at 0.2 or 0.5"
    assert question.comparison is not None
    np.testing.assert_allclose(question.comparison.differences, [0.01, 0.01, 0.01])
    method = as_json(question, None, 1, "further")["method"]
    assert method.startswith("bootstrap of seeds and images, each seed's rate chosen by the other")
    assert "each seed's rate chosen by the other seeds' validation accuracy" in method


def test_one_seed_chooses_for_itself_and_decides_nothing(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=2))
    write_sweep(folder.path / "sweeps" / "1", DROPOUT_RATES[:1], lambda p: 0.9 + p.drop6 / 100, 1)
    (part,) = (p for p in parts_of(summary_of(folder)) if p["role"] == "further")
    assert part["name"] == "LeNet, drop6 at 0.5"
    assert part["verdict"] == "undecided"
    assert part["estimate"] == pytest.approx(0.5, abs=0.3)


def test_a_sweep_of_other_test_images_is_refused(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=2, images=200))
    kept = write_sweep(
        folder.path / "sweeps" / "1", DROPOUT_RATES[:1], lambda p: 0.9, 2, data={"test": 200}
    )
    summary_of(folder)
    swept = SweepFolder(kept)
    runs = swept.read_runs()
    answers = swept.read_answers(runs)
    outcomes = [Outcome(runs[run], 9 - said) for run, said in answers.predictions.items()]
    swept.write_outcomes(outcomes, 9 - answers.labels)  # as right as before
    with pytest.raises(UserError, match=r"1/predictions.npz: expected the labels of test_set.npz"):
        summary_of(folder)


def test_wrong_labels_are_left_out_of_sweeps_too(tmp_path):
    folder = write(tmp_path / "r", Truth(seeds=9))
    write_sweep(folder.path / "sweeps" / "1", DROPOUT_RATES[:1], lambda p: 0.95 - p.drop6 / 10)
    evidence = evidence_of(folder)
    wrong = evidence.wrong
    assert wrong is not None
    (before,), (after,) = (
        evidence.sweeps[0].curves,
        evidence.without_wrong_labels().sweeps[0].curves,
    )
    np.testing.assert_array_equal(after.right, before.right[..., ~wrong])
    found = summary_of(folder)
    further = [part for part in parts_of(found) if part["role"] == "further"]
    assert [part["by_image"] for part in further] == [True]
    again = sum(part["by_image"] for part in parts_of(found))
    assert found["wrong_labels"]["recomputed"] == again
