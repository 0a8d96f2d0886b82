import io
import json

import numpy as np
from rich.console import Console

from experiments.results import Row
from experiments.summary import curves_of, divergence, summarize, table_of


def run(variant, seed, accuracies, seconds=1.0, loss=1.0):
    return [
        Row(variant, seed, epoch, loss, 0.5, loss, accuracy, seconds)
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def test_curves_gather_finished_runs_in_the_order_of_the_report_and_of_the_seeds():
    rows = [
        *run("LeNet_BN_drop6", 0, [0.9, 0.95]),
        *run("LeNet", 1, [0.7, 0.8], seconds=3),
        *run("LeNet", 0, [0.5, 0.6], seconds=2),
        *run("LeNet", 2, [0.5]),  # not finished
    ]
    lenet, drop6 = curves_of(rows, epochs=2)
    assert (lenet.variant, drop6.variant) == ("LeNet", "LeNet_BN_drop6")
    assert lenet.seeds == (0, 1)
    np.testing.assert_array_equal(lenet.test_accuracy, [[0.5, 0.6], [0.7, 0.8]])
    np.testing.assert_array_equal(lenet.total_seconds, [4, 6])


def test_the_summary_of_two_runs_is_the_case_done_by_hand():
    # Of 0.6 and 0.8: mean 0.7, s = 0.1414, t(1) = 12.706, half width 12.706 * 0.1 = 1.2706.
    rows = run("LeNet", 0, [0.5, 0.6]) + run("LeNet", 1, [0.5, 0.8])
    last = summarize(curves_of(rows, 2))["variants"]["LeNet"]["last_accuracy"]
    np.testing.assert_allclose(last["estimate"], 0.7)
    np.testing.assert_allclose([last["low"], last["high"]], [0.7 - 1.2706, 0.7 + 1.2706], atol=1e-4)
    assert last["n"] == 2


def test_a_diverged_run_is_named_with_its_first_bad_epoch_and_counts_until_then():
    good = run("LeNet", 0, [0.5, 0.6])
    bad = run("LeNet", 1, [0.1, 0.1])
    bad[1] = bad[1]._replace(train_loss=float("nan"))
    assert divergence(good) is None
    assert str(divergence(bad)) == (
        "LeNet seed 1 diverged: its loss was NaN or infinite in epoch 2"
    )
    summary = summarize(curves_of(good + bad, 2))["variants"]["LeNet"]
    assert summary["diverged"] == [{"seed": 1, "epoch": 2}]
    assert summary["first_epoch_accuracy"]["n"] == 2
    assert summary["last_accuracy"]["n"] == 1
    assert summary["last_accuracy"]["estimate"] == 0.6


def test_where_every_run_diverged_there_is_no_accuracy_and_the_json_is_valid():
    curves = curves_of(run("LeNet", 0, [0.1, 0.1], loss=float("inf")), 2)
    summary = summarize(curves)
    assert summary["variants"]["LeNet"]["last_accuracy"] is None
    json.dumps(summary, allow_nan=False)
    text = io.StringIO()
    Console(file=text, width=100).print(table_of(curves))
    assert "diverged" in text.getvalue()


def test_the_closing_table_shows_every_variant_with_its_interval():
    rows = run("LeNet", 0, [0.5, 0.6]) + run("LeNet", 1, [0.5, 0.8])
    text = io.StringIO()
    Console(file=text, width=100).print(table_of(curves_of(rows, 2)))
    line = next(line for line in text.getvalue().splitlines() if "LeNet" in line)
    assert "2.00 ± 0.00 s" in line
    assert "70.00 ± 127.06%" in line
