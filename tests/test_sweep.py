"""The sweep program: its command line, what it trains, what it chooses, its files and its chart."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from experiments import cli, npz, sweep, sweep_figure, sweep_folder
from experiments.sweep_files import SweepFolder, read
from experiments.sweep_progress import Display, say_curves
from experiments.sweep_results import Candidates, Point, RateCurve, SweepRow, choose, summarize
from experiments.sweep_settings import Settings
from experiments.together import Together
from jax_lenet import examples, fit, lenet5, load
from jax_lenet.ensemble import evaluate_runs
from jax_lenet.two_way import two_way_interval

ROOT = Path(__file__).parents[1]
SMALL = ("--dataset", "mnist_sample", "--train-size", "256", "--epochs", "1", "--seeds", "2")


def run(capsys, out, *arguments):
    """The program in this process: exit code and screen."""
    line = [*arguments, "--compilation-cache", "off", "--out", str(out)]
    code = cli.run(sweep.main, Settings, "sweep", line)
    return code, capsys.readouterr()


# The command line


MISTAKES = [
    (["--dropout-rates"], "--dropout-rates: expected at least one rate, not none"),
    (["--dropout-rates", "1.0"], "--dropout-rates: expected rates in [0, 1), not 1"),
    (["--dropout-rates", "0.99999999"], "--dropout-rates: expected rates in [0, 1), not 1"),
    (["--dropout-rates", "0.1", "nan"], "--dropout-rates: expected rates in [0, 1), not nan"),
    (["--dropout-rates", "-0.1"], "--dropout-rates"),
    (["--dropout-rates", "0.1", "0.2", "0.1"], "expected each rate once, not 0.1 0.2 0.1"),
    (["--dropout-rates", "x"], "--dropout-rates"),
    (["--learning-rates"], "--learning-rates: expected at least one rate, not none"),
    (["--learning-rates", "0"], "--learning-rates: expected rates that are positive, not 0"),
    (["--learning-rates", "inf"], "--learning-rates: expected rates that are positive, not inf"),
    (["--learning-rates", "nan"], "--learning-rates: expected rates that are positive, not nan"),
    (["--learning-rates", "0.1", "0.1"], "--learning-rates: expected each rate once"),
    (["--learning-rates", "0.1", "--layers", "drop6"], "--layers: expected not beside"),
    (["--learning-rates", "0.1", "--dropout-rates", "0.1"], "--dropout-rates: expected not beside"),
    (["--layers"], "--layers: expected one or more of drop6, drop7, both"),
    (["--layers", "both", "both"], "--layers: expected one or more of drop6, drop7, both"),
    (["--layers", "drop8"], "--layers"),
    (["--variants", "LeNet_BN_drop6"], "--variants: expected models without dropout"),
    (["--runs-at-once", "0"], "--runs-at-once: expected at least 1, not 0"),
    (["--seeds", "0"], "--seeds: expected at least 1, not 0"),
    (["--train-size", "4000"], "--train-size: expected some training images to be left"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    code, screen = run(capsys, out, "--dataset", "mnist_sample", *arguments)
    assert code == 2
    assert screen.err.count("\n") == 1
    assert screen.err.startswith("sweep: ")
    assert message in screen.err
    assert not out.exists()


def test_the_default_is_the_reports_question_with_every_rate_run_once_for_a_seed():
    settings = Settings()
    curves = settings.candidates
    assert [(c.variant, c.layers) for c in curves] == [
        (variant, layers)
        for variant in ("LeNet", "LeNet_BN_noDropout")
        for layers in ("drop6", "drop7", "both")
    ]
    assert all(c.rates == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8) for c in curves)
    # By hand: nine rates of three layers, of which rate 0 is the same model, by eight seeds.
    runs = sweep_folder.runs_of(curves[:3], settings.all_seeds)
    assert len(runs) == len(set(runs)) == (9 * 3 - 2) * 8
    groups = list(sweep.groups_of(runs, 32))
    assert [len(group) for group in groups] == [32] * 6 + [8]
    assert [run for group in groups for run in group] == runs


def test_the_rate_to_compare_with_is_added_where_it_is_missing():
    assert Settings(dropout_rates=(0.5, 0.2)).candidates[0].rates == (0, 0.2, 0.5)
    learning = Settings(learning_rates=(0.1, 0.003), learning_rate=0.02).candidates
    assert [c.variant for c in learning] == ["LeNet", "LeNet_BN_noDropout"]
    assert learning[0].rates == (0.003, 0.02, 0.1)
    assert learning[0].baseline == 0.02


def test_a_rate_goes_to_the_layers_that_are_asked_for():
    points = {
        layers: Candidates("LeNet_BN_noDropout", layers, (0.0, 0.3), 0.01).point(0.3)
        for layers in ("drop6", "drop7", "both")
    }
    assert points == {
        "drop6": Point(1, 0.3, 0.0, 0.01),
        "drop7": Point(1, 0.0, 0.3, 0.01),
        "both": Point(1, 0.3, 0.3, 0.01),
    }
    own = Candidates("LeNet_noBN_Dropout", None, (0.01, 0.1), 0.01)
    assert own.point(0.1) == Point(0, 0.5, 0.5, 0.1)


# Training


def test_traced_rates_give_the_runs_that_rates_in_the_model_give_in_any_company():
    settings = Settings(dropout_rates=(0.6,), epochs=2, batch_size=32, runs_at_once=2)
    dataset = load("mnist_sample", train_size=256)
    data = sweep.Data.of(dataset, settings, Together(2, 2))
    programs = sweep.compile_for(settings, "LeNet_BN_noDropout", data, 2)
    placed = programs.place(data.train, data.held_out)
    group = [sweep.Run(Point(1, 0.0, 0.0, 0.1), 3), sweep.Run(Point(1, 0.5, 0.2, 0.15), 3)]
    _, (row, predictions) = sweep.train_group(programs, placed, data, group, settings.epochs)
    ((again, same),) = sweep.train_group(programs, placed, data, group[1:], settings.epochs)
    assert again == row._replace(seconds=again.seconds)  # to the last bit, in another place
    np.testing.assert_array_equal(same, predictions)
    assert (predictions == dataset.test_labels).mean() == pytest.approx(row.test_accuracy)
    model = lenet5(batch_norm=True, dropout=(0.5, 0.2))
    test = examples(dataset.test_images, dataset.test_labels)
    alone = fit(
        model,
        examples(dataset.train_images, dataset.train_labels),
        examples(dataset.validation_images, dataset.validation_labels),
        seeds=[3],
        epochs=2,
        batch_size=32,
        learning_rate=0.15,
    )
    last = alone.history[-1]
    tested = evaluate_runs(model, alone.state.variables, test)
    # Rounding, after sixteen steps; it may tip a few of a thousand images.
    assert row.train_loss == pytest.approx(last.train_loss[0], rel=1e-3)
    assert row.train_accuracy == pytest.approx(last.train_accuracy[0], abs=0.01)
    assert row.validation_accuracy == pytest.approx(last.test_accuracy[0], abs=0.005)
    assert row.test_accuracy == pytest.approx(tested.accuracy[0], abs=0.005)
    assert row.test_accuracy > 0.5  # it has learnt, so that the comparison says something


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """LeNet with drop6 or both at two rates, from two seeds, in a process of its own."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    arguments = ("--variants", "LeNet", "--layers", "drop6", "both", "--dropout-rates", "0.5")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *SMALL, *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done


def test_every_run_has_one_row_and_rate_0_serves_all_layers(finished):
    with (finished[0] / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == SweepRow._fields
    found = [(float(row["drop6"]), float(row["drop7"]), int(row["seed"])) for row in rows]
    assert sorted(found) == [
        *((0, 0, 0), (0, 0, 1), (0.5, 0, 0), (0.5, 0, 1), (0.5, 0.5, 0), (0.5, 0.5, 1))
    ]
    for row in rows:
        assert row["batch_norm"] == row["diverged"] == "0"
        for images in ("train", "validation", "test"):
            assert 0 <= float(row[f"{images}_accuracy"]) <= 1


def test_the_folder_says_how_it_was_made_and_what_was_chosen(finished):
    out, _ = finished
    config = json.loads((out / "config.json").read_text())
    assert config["program"] == "experiments.sweep"
    assert config["settings"]["dropout_rates"] == [0.5]
    assert config["data"]["sizes"] == {"train": 256, "validation": 1000, "test": 1000}
    summary = json.loads((out / "sweep.json").read_text())
    assert [curve["layers"] for curve in summary["curves"]] == ["drop6", "both"]
    assert summary == summarize(read(out).curves)
    answers = npz.decode((out / "predictions.npz").read_bytes())
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = ("batch_norm", "drop6", "drop7", "learning_rate", "seed")
    assert answers["runs"].tolist() == [[float(row[name]) for name in named] for row in rows]
    right = (answers["predictions"] == answers["labels"]).mean(1)
    np.testing.assert_allclose(right, [float(row["test_accuracy"]) for row in rows], atol=1e-6)
    with Image.open(out / "sweep.png") as picture:
        picture.verify()


def test_without_a_terminal_the_screen_has_one_line_per_run_and_a_closing_table(finished):
    out, done = finished
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert lines[0].split()[:4] == ["batch", "norm", "drop6", "drop7"]
    assert sum(line.startswith("no ") for line in lines[1:7]) == 6
    assert all(len(line) == len(lines[0]) for line in lines[1:7])
    assert any("no BN, both" in line for line in lines[7:])
    assert lines[-1] == f"Results: {out}"


def test_a_folder_of_which_nothing_tells_what_it_is_is_refused(tmp_path, capsys):
    (tmp_path / "sweep.csv").write_text("the user's")
    code, screen = run(capsys, tmp_path, *SMALL)
    assert code == 2
    assert "already holds sweep.csv; give --overwrite" in screen.err
    assert (tmp_path / "sweep.csv").read_text() == "the user's"


def test_overwrite_removes_the_sweeps_files_and_no_others(tmp_path):
    for name in ("sweep.csv", "results.csv"):
        (tmp_path / name).write_text("x")
    SweepFolder.create(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_learning_rates_share_one_program_and_a_run_that_diverges_is_kept_and_named(
    tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    compiled = []
    compile_for = sweep.compile_for
    monkeypatch.setattr(
        sweep, "compile_for", lambda *args: compiled.append(args[1]) or compile_for(*args)
    )
    code, screen = run(
        capsys, out, *SMALL, "--variants", "LeNet", "--learning-rates", "0.05", "1e9"
    )
    assert code == 0, screen.err
    assert compiled == ["LeNet"]
    (curve,) = read(out).curves
    assert curve.candidates == Candidates("LeNet", None, (0.01, 0.05, 1e9), 0.01)
    assert curve.diverged.tolist() == [[False] * 2, [False] * 2, [True] * 2]
    # A network of NaN calls everything a zero: a tenth of the balanced sample.
    np.testing.assert_allclose(curve.test_accuracy[2], 0.1, atol=0.03)
    assert "LeNet: rate 1e+09 diverged with seed 0, 1" in screen.out
    summary = json.loads((out / "sweep.json").read_text())
    assert summary["curves"][0]["rates"][2]["diverged_seeds"] == [0, 1]


# Choosing


def curve_of(validation, test=None, rates=(0.0, 0.3, 0.6), layers="drop6", variant="LeNet"):
    """A curve with the given accuracies ``[rates, seeds]``, of a thousand test images."""
    validation = np.asarray(validation, np.float64)
    test = validation if test is None else np.asarray(test, np.float64)
    return RateCurve(
        Candidates(variant, layers, rates, 0.01),
        tuple(range(validation.shape[1])),
        train_accuracy=np.minimum(validation + 0.01, 1),
        validation_accuracy=validation,
        right=np.arange(1000) < np.round(1000 * test)[..., None],
        diverged=np.zeros(validation.shape, bool),
    )


VALIDATION = [[0.970, 0.974, 0.972], [0.976, 0.972, 0.980], [0.960, 0.962, 0.961]]


def test_the_mean_validation_accuracy_over_the_seeds_chooses():
    curve = curve_of(VALIDATION)  # means 0.972, 0.976, 0.961
    assert (curve.chosen, curve.chosen_rate) == (1, 0.3)


def test_of_equal_rates_the_lowest_is_chosen_whatever_the_order_of_the_seeds():
    tenths = np.array([0.1, 0.2, 0.3, 0.7, 0.6, 0.9, 0.5])
    for order in (tenths, tenths[::-1], np.roll(tenths, 3)):
        assert choose(np.stack([tenths, order])) == 0
        assert choose(np.stack([order, tenths])) == 0


def test_test_accuracy_has_no_say_in_the_choice():
    draws = np.random.default_rng(0)
    for _ in range(20):
        curve = curve_of(VALIDATION, test=draws.random((3, 3)))
        assert curve.chosen_rate == 0.3
        assert replace(curve, train_accuracy=draws.random((3, 3))).chosen_rate == 0.3


def test_the_gain_is_that_of_the_rate_that_the_other_seeds_choose_paired_by_seed():
    test = [[0.970, 0.960, 0.980], [0.972, 0.963, 0.981], [0.999, 0.999, 0.999]]
    # Without the last seed the means are 0.972 and 0.974, without the first 0.973 and 0.976; but
    # without the second, 0.971 and 0.978: all choose the second rate.
    curve = curve_of(VALIDATION, test)
    np.testing.assert_allclose(curve.test_differences.mean(1), [0.002, 0.003, 0.001])
    gain = curve.test_gain
    assert gain is not None
    assert (gain.estimate, gain.n) == (pytest.approx(0.002), 3)
    assert gain.method == "bootstrap of seeds and images"
    assert gain == two_way_interval(curve.test_differences)


def test_test_images_are_left_out_of_a_curve():
    curve = curve_of(VALIDATION)
    last = np.arange(1000) >= 900  # nobody has one of them right
    np.testing.assert_allclose(curve.without(last).test_accuracy, np.minimum(VALIDATION, 0.9) / 0.9)
    np.testing.assert_array_equal(curve.without(last).validation_accuracy, VALIDATION)


def test_a_seed_has_no_say_in_the_rate_that_it_is_compared_at():
    # The last seed alone prefers the second rate, and all choose it together.
    validation = [[0.97, 0.97, 0.90], [0.96, 0.96, 0.99], [0.90, 0.90, 0.90]]
    curve = curve_of(validation, test=[[0.9] * 3, [0.8, 0.8, 0.95], [0.7] * 3])
    assert curve.chosen == 1
    np.testing.assert_allclose(curve.test_differences.mean(1), [-0.1, -0.1, 0.0])
    # Where the choices differ, Nadeau and Bengio's variance: s^2 (1/3 + 1/2), not s^2 / 3.
    assert curve.test_gain == two_way_interval(curve.test_differences, seed_factor=2.5)


def test_where_the_baseline_is_chosen_there_is_no_gain_to_report():
    curve = curve_of(VALIDATION[::-1], rates=(0.0, 0.3, 0.6))
    assert curve_of([[0.9], [0.8], [0.7]]).test_gain is None
    assert summarize([curve_of([[0.9], [0.8], [0.7]])])["curves"][0]["test_gain"] is None
    assert curve.test_gain is not None


@pytest.mark.parametrize(
    ("layers", "chosen", "at_end"),
    [
        ("drop6", 0, False),
        ("drop6", 1, False),
        ("drop6", 2, True),
        (None, 0, True),
        (None, 1, False),
    ],
)
def test_a_choice_at_the_end_of_the_rates_is_told(layers, chosen, at_end):
    validation = np.full((3, 2), 0.9)
    validation[chosen] = 0.95
    curve = curve_of(
        validation, rates=(0.0, 0.3, 0.6) if layers else (0.003, 0.01, 0.03), layers=layers
    )
    assert curve.at_end == at_end
    text = io.StringIO()
    say_curves(Console(file=text, width=120), [curve])
    assert ("is the last rate tried" in text.getvalue()) == at_end


# Reading


def changed(finished, tmp_path, name, edit):
    """A copy of the finished folder with one file edited."""
    for file in ("config.json", "sweep.csv", "predictions.npz"):
        (tmp_path / file).write_bytes((finished[0] / file).read_bytes())
    (tmp_path / name).write_text(edit((finished[0] / name).read_text()))
    return tmp_path


def without_last_line(text):
    return "".join(text.splitlines(keepends=True)[:-1])


def with_last_line_twice(text):
    return text + text.splitlines(keepends=True)[-1]


def with_accuracy(value):
    def edit(text):
        *kept, last = text.splitlines()
        cells = last.split(",")
        cells[SweepRow._fields.index("test_accuracy")] = value
        return "\n".join([*kept, ",".join(cells)])

    return edit


DAMAGE = [
    ("sweep.csv", without_last_line, "sweep.csv: expected 6 finished runs, 1 are missing"),
    ("sweep.csv", with_last_line_twice, "sweep.csv: line 8 has a run that an earlier line has"),
    ("sweep.csv", with_accuracy("nan"), "sweep.csv: line 7: expected test_accuracy from 0 to 1"),
    ("sweep.csv", with_accuracy("97.5"), "sweep.csv: line 7: expected test_accuracy from 0 to 1"),
    ("sweep.csv", with_accuracy("x"), "sweep.csv: line 7 is not batch_norm,drop6"),
    ("sweep.csv", lambda text: "a,b\n", "sweep.csv: expected the columns batch_norm,drop6"),
    ("config.json", lambda text: "{", "config.json: expected JSON"),
    (
        "config.json",
        lambda text: "[]",
        "config.json: expected JSON, an object",
    ),
    (
        "config.json",
        lambda text: text.replace('"experiments.sweep"', '"experiments.ablate"'),
        "config.json: expected the config.json of experiments.sweep",
    ),
    (
        "config.json",
        lambda text: text.replace('"candidates"', '"others"'),
        "config.json: expected the config.json of experiments.sweep",
    ),
    (
        "config.json",
        lambda text: text.replace('"LeNet"', '"AlexNet"'),
        "config.json: expected the config.json of experiments.sweep",
    ),
]


@pytest.mark.parametrize(("name", "edit", "message"), DAMAGE)
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(
    finished, tmp_path, name, edit, message
):
    with pytest.raises(cli.UserError) as caught:
        read(changed(finished, tmp_path, name, edit))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(cli.UserError, match=r"cannot read .*nowhere/config\.json"):
        read(tmp_path / "nowhere")


# The screen and the chart


def test_a_terminal_shows_the_mean_validation_accuracy_by_rate_and_the_time_left():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    candidates = [Candidates("LeNet", "drop6", (0.0, 0.5), 0.01)]
    with Display(console, candidates, seeds=2, epochs=3) as display:
        display.now("LeNet: run 1")
        for seed, accuracy in ((0, 0.9), (1, 0.8)):
            display.epoch(1)
            display.add([SweepRow(0, 0.5, 0.0, 0.01, seed, 0.3, 0.9, accuracy, 0.7, 0, 1.0)])
    screen = text.getvalue()
    for part in ("no BN, drop6", "85.00% (2)", "LeNet: run 1", "2/12", "left"):
        assert part in screen


def figure_of(curves):
    return sweep_figure.build(curves, title="Accuracy", subtitle="seeds 0-2")


def test_a_panel_shows_the_means_and_intervals_of_three_sets_and_the_choice():
    curve = curve_of(VALIDATION)
    (panel,) = figure_of([curve]).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in panel.lines}
    np.testing.assert_allclose(lines["validation"], np.mean(VALIDATION, 1))
    np.testing.assert_allclose(lines["training"], np.mean(VALIDATION, 1) + 0.01)
    np.testing.assert_allclose(lines["test"], np.mean(VALIDATION, 1))
    expected = [stats.t.interval(0.95, 2, np.mean(v), stats.sem(v)) for v in VALIDATION]
    assert len(panel.collections) == 3
    band = np.asarray(panel.collections[1].get_paths()[0].vertices)[:, 1]
    for end in np.ravel(expected):
        assert np.abs(band - end).min() < 1e-9
    mark = next(line for line in panel.lines if line.get_label() == "rate chosen on validation")
    assert list(mark.get_xdata()) == [0.3, 0.3]
    assert "chosen: 0.3; gain in test +0.40" in panel.texts[0].get_text()


def test_panels_are_in_order_with_the_same_accuracy_axis_and_learning_rates_by_ratio():
    curves = [
        curve_of(np.array(VALIDATION) - 0.05 * i, layers=layers, variant=variant)
        for i, variant in enumerate(("LeNet", "LeNet_BN_noDropout"))
        for layers in ("drop6", "drop7", "both")
    ]
    panels = figure_of(curves).axes
    titles = [panel.get_title(loc="left") for panel in panels]
    assert titles[1] == "no batch norm: drop7 alone"
    assert titles[5] == "batch norm: both layers"
    assert len({panel.get_ylim() for panel in panels}) == 1
    learning = curve_of(VALIDATION, rates=(0.003, 0.01, 0.03), layers=None)
    assert [panel.get_xscale() for panel in figure_of([learning, learning]).axes] == ["log"] * 2


def test_one_seed_has_no_band_and_accuracy_1_has_a_place():
    curve = curve_of([[0.9], [1.0], [0.95]])
    (panel,) = figure_of([curve]).axes
    assert not panel.collections
    low, high = panel.get_ylim()
    assert low < 0.9
    assert high > 0.9998
    assert sweep_figure.draw([curve], title="t", subtitle="s") == sweep_figure.draw(
        [curve], title="t", subtitle="s"
    )
