"""Verdicts where a folder lacks something: seeds, files, variants, epochs, runs that diverged."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.questions import as_json
from experiments.results import TimingRow
from experiments.verdicts import CONCLUSIONS, summarize
from tests.simulated import (
    AS_CLAIMED,
    NORM,
    PLAIN,
    QUICK,
    evidence_of,
    part_of,
    summary_of,
    write,
)


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
    (folder.path / "test_set.npz").unlink()
    summary = summary_of(folder)
    answers = [entry["verdict"] for entry in summary["verdicts"]]
    # The third is about training accuracy.
    assert answers == ["undecided", "undecided", "supported", "undecided", "undecided"]
    assert "without timing.csv nobody knows the time" in summary["verdicts"][0]["sentence"]
    last = part_of(summary, 2, "last epoch, without dropout")
    assert "without predictions.npz and test_set.npz" in last["reason"]
    last_rows = [row for row in folder.read_results() if row.epoch == 3]
    means = {
        v: np.mean([r.test_accuracy for r in last_rows if r.variant == v]) for v in (NORM, PLAIN)
    }
    assert last["estimate"] == pytest.approx(100 * (means[NORM] - means[PLAIN]))
    assert last["p_adjusted"] is None
    first = part_of(summary, 2, "first epoch, without dropout")
    assert "without first_predictions.npz and test_set.npz" in first["reason"]
    gain = part_of(summary, 5, "gain, with batch norm")
    assert "without predictions.npz, first_predictions.npz and test_set.npz" in gain["reason"]
    assert summary["rules"]["family"] == 2  # training accuracy, with and without batch norm
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


def test_where_more_than_one_seed_in_ten_is_lost_to_divergence_the_others_decide_nothing(tmp_path):
    truth = replace(AS_CLAIMED, diverged=((NORM, 2, 2), (NORM, 7, 3), (PLAIN, 7, 3)))
    summary = summary_of(write(tmp_path / "r", truth))
    for number, name in (
        (2, "last epoch, without dropout"),
        (2, "first against last epoch, without dropout"),
        (4, "gap, with batch norm"),
    ):
        part = part_of(summary, number, name)
        assert (part["verdict"], part["n"]) == ("undecided", 10)
        assert part["reason"].startswith("2 of 12 seeds are lost to runs that diverged")
        assert "LeNet_BN_noDropout seed 2 in epoch 2" in part["reason"]
        assert part["p_adjusted"] is None
    assert part_of(summary, 2, "first epoch, without dropout")["verdict"] == "supported"
    assert summary["verdicts"][1]["verdict"] == "undecided"


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
    for number, name in (
        (5, "gain, without batch norm"),
        (5, "first epoch, without batch norm"),
        (2, "first epoch, without dropout"),
        (2, "first against last epoch, without dropout"),
    ):
        part = part_of(summary, number, name)
        assert (part["reason"], part["n"]) == ("one epoch is the first and the last", 0)
    assert summary["rules"]["family"] == 19 - 2 * 4
    assert {gain["epoch"] for gain in summary["pairing"]} == {"last"}
    assert "one epoch is the first" in summary["verdicts"][4]["mechanism"]["text"]
    assert part_of(summary, 2, "last epoch, without dropout")["verdict"] == "supported"


def test_repeats_that_only_one_variant_has_are_not_compared(claimed, tmp_path):
    folder = write(tmp_path / "r", AS_CLAIMED)
    rows = [r for r in folder.read_timing() if r.variant != PLAIN or r.repeat <= 9]
    folder.write_timing([*rows, TimingRow(PLAIN, 99, 1.0, 1.0)])
    assert part_of(summary_of(folder), 1, "batch norm")["n"] == 9


def test_a_question_without_data_is_written_as_undecided(claimed):
    folder, _ = claimed
    evidence = evidence_of(folder)
    question = CONCLUSIONS[0](replace(evidence, timing={}), QUICK).claimed[0]
    part = as_json(question, None, 16, role="claimed")
    assert part["verdict"] == "undecided"
    assert (part["n"], part["n_of"], part["method"]) == (0, "repeats", "none")
