"""The programs as a user runs them: command lines in, exit codes, files and screens out."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.lock import one_writer
from jax_lenet import VARIANTS

ROOT = Path(__file__).parents[1]
COMMAND = ("--dataset", "mnist_sample", "--train-size", 1000, "--seeds", 2, "--epochs", 2)
COMMAND += ("--timing-repeats", 1)


def run(module, *arguments, cwd=ROOT, **environment):
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Every variant from two seeds for two epochs, on part of the embedded sample."""
    out = tmp_path_factory.mktemp("study") / "results"
    done = run("experiments.ablate", *COMMAND, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_variant_seed_and_epoch_has_one_row(finished):
    rows = rows_of(finished[0] / "results.csv")
    found = sorted((row["variant"], int(row["seed"]), int(row["epoch"])) for row in rows)
    assert found == sorted((v, s, e) for v in VARIANTS for s in (0, 1) for e in (1, 2))
    for row in rows:
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert 0 < float(row["seconds"]) < 60
        assert np.isfinite(float(row["train_loss"]))


def test_the_first_seed_of_every_variant_comes_first_and_the_table_is_by_variant(finished):
    out, done = finished
    lines = [line.split() for line in done.stdout.splitlines()]
    seeds = [line[1] for line in lines if line and line[0] in VARIANTS and line[1] in "01"]
    assert seeds == ["0"] * 12 + ["1"] * 12
    rows = [(row["variant"], row["seed"], row["epoch"]) for row in rows_of(out / "results.csv")]
    assert rows == [(v, s, e) for v in VARIANTS for s in "01" for e in "12"]


@pytest.mark.parametrize(
    ("name", "epoch"), [("first_predictions.npz", "1"), ("predictions.npz", "2")]
)
def test_predictions_agree_with_their_epochs_accuracy(finished, name, epoch):
    from jax_lenet import load

    labels = load("mnist_sample").test_labels
    rows = [row for row in rows_of(finished[0] / "results.csv") if row["epoch"] == epoch]
    with np.load(finished[0] / name, allow_pickle=False) as predictions:
        assert sorted(predictions) == sorted(VARIANTS)
        for row in rows:
            right = (predictions[row["variant"]][int(row["seed"])] == labels).mean()
            assert right == pytest.approx(float(row["test_accuracy"]), abs=1e-6)
    assert len(rows) == 2 * len(VARIANTS)


def test_the_summary_is_that_of_the_rows(finished):
    summary = json.loads((finished[0] / "summary.json").read_text())["variants"]
    rows = rows_of(finished[0] / "results.csv")
    for variant in VARIANTS:
        mine = [row for row in rows if row["variant"] == variant]
        last = [float(row["test_accuracy"]) for row in mine if row["epoch"] == "2"]
        assert summary[variant]["last_accuracy"]["estimate"] == pytest.approx(np.mean(last))
        total = sum(float(row["seconds"]) for row in mine) / 2
        assert summary[variant]["total_seconds"]["estimate"] == pytest.approx(total)


def test_the_test_set_lies_beside_the_predictions(finished):
    from jax_lenet import load

    data = load("mnist_sample")
    with np.load(finished[0] / "test_set.npz", allow_pickle=False) as test_set:
        np.testing.assert_array_equal(test_set["images"], data.test_images)
        np.testing.assert_array_equal(test_set["labels"], data.test_labels)
        assert not test_set["wrong"].any()  # of the fifteen the sample has none


def test_the_five_conclusions_are_answered_in_the_summary_and_on_the_screen(finished):
    out, done = finished
    verdicts = json.loads((out / "summary.json").read_text())["verdicts"]
    assert [verdict["verdict"] for verdict in verdicts] == ["undecided"] * 5  # two seeds
    assert all("2 seeds cannot decide" in verdict["sentence"] for verdict in verdicts[1:])
    assert "1 repeat cannot decide" in verdicts[0]["sentence"]
    assert done.stdout.count("Undecided: ") == 5
    last = {row["variant"]: 0.0 for row in rows_of(out / "results.csv")}
    for row in rows_of(out / "results.csv"):
        last[row["variant"]] += float(row["test_accuracy"]) / 2 if row["epoch"] == "2" else 0
    gain = 100 * (last["LeNet_BN_noDropout"] - last["LeNet"])
    assert verdicts[1]["parts"][0]["estimate"] == pytest.approx(gain)


def test_timing_has_each_variant_once_a_repeat(finished):
    rows = rows_of(finished[0] / "timing.csv")
    assert [row["variant"] for row in rows] == list(VARIANTS)
    assert all(float(row["train_seconds"]) > 0 < float(row["test_seconds"]) for row in rows)


def test_the_config_tells_the_settings_the_versions_and_the_datas_checksums(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["settings"]["train_size"] == 1000
    assert config["settings"]["variants"] == list(VARIANTS)
    assert config["data"]["kind"] == "sample"
    assert config["data"]["sizes"] == {"train": 1000, "validation": 1000, "test": 1000}
    assert all(len(file["sha256"]) == 64 for file in config["data"]["files"].values())
    assert set(config["versions"]) >= {"python", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert config["device"]["platform"] == "cpu"
    assert 200e6 < config["peak_rss_bytes"] < 8e9  # to import JAX takes more than the least


def test_both_figures_are_pictures(finished):
    for name in ("figure1.png", "figure2.png"):
        with Image.open(finished[0] / name) as picture:
            picture.verify()


def test_without_a_terminal_the_screen_has_one_plain_line_per_epoch_and_a_closing_table(finished):
    out, done = finished
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert (
        sum(line.startswith("LeNet") and line.endswith(tuple("0123456789")) for line in lines) == 24
    )
    assert lines[-1] == f"Results: {out}"
    assert any("last epoch" in line for line in lines)


def test_the_same_command_again_trains_nothing_and_makes_the_same_files(finished):
    out, _ = finished
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    again = run("experiments.ablate", *COMMAND, "--out", out)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"Nothing is left to train in {out}: it is drawn again\n")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_another_command_is_refused_and_loses_nothing(finished):
    out, _ = finished
    before = (out / "results.csv").read_bytes()
    again = run("experiments.ablate", "--dataset", "mnist_sample", "--out", out)
    assert again.returncode == 2
    assert "--train-size: the folder has 1000, not 4000; " in again.stderr
    assert again.stderr.count("\n") == 1
    assert (out / "results.csv").read_bytes() == before


def test_report_leaves_a_folder_alone_that_a_study_writes(finished):
    with one_writer(finished[0]):
        done = run("experiments.report", finished[0])
    assert done.returncode == 2
    assert f"FOLDER: {finished[0]} is being written by process {os.getpid()}" in done.stderr


def test_report_draws_the_same_again_from_the_files_alone(finished):
    out, _ = finished
    names = ("summary.json", "figure1.png", "report.html")
    before = {name: (out / name).read_bytes() for name in names}
    for name in before:
        (out / name).unlink()
    assert run("experiments.report", out).returncode == 0
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_diverging_study_ends_well_and_says_so_in_words(tmp_path):
    done = run(
        "experiments.ablate",
        *("--dataset", "mnist_sample", "--train-size", 256, "--seeds", 1, "--epochs", 1),
        *("--variants", "LeNet", "--learning-rate", 1e9, "--timing-repeats", 0),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "timing.csv").exists()  # --timing-repeats 0
    assert "LeNet seed 0 diverged: its loss was NaN or infinite in epoch 1" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["variants"]["LeNet"]["diverged"] == [{"seed": 0, "epoch": 1}]


def test_seeds_in_groups_are_the_seeds_and_a_short_last_group_counts(tmp_path):
    common = ("--dataset", "mnist_sample", "--train-size", 512, "--epochs", 1)
    common += ("--variants", "LeNet", "--seeds", 4, "--timing-repeats", 0)
    found = {}
    for width in (1, 2):  # of 4 seeds: the first, two, one
        out = tmp_path / str(width)
        done = run("experiments.ablate", *common, "--seeds-at-once", width, "--out", out)
        assert done.returncode == 0, done.stderr
        found[width] = rows_of(out / "results.csv")
    assert [int(row["seed"]) for row in found[2]] == list(range(4))
    for alone, together in zip(found[1], found[2], strict=True):
        # Rounding, after four steps.
        assert float(alone["train_loss"]) == pytest.approx(float(together["train_loss"]), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "expected the config.json of a study"),
        ("[]", "expected JSON, an object"),
        (None, "expected finished runs, found none"),
    ],
)
def test_report_says_what_a_folder_lacks(finished, tmp_path, config, message):
    (tmp_path / "config.json").write_text(config or (finished[0] / "config.json").read_text())
    header = (finished[0] / "results.csv").read_text().splitlines()[0]
    (tmp_path / "results.csv").write_text(f"{header}\n")
    done = run("experiments.report", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_screen_that_lacks_a_letter_and_a_forced_colour_end_no_study(finished, tmp_path):
    done = run(
        "experiments.ablate",
        *("--dataset", "mnist_sample", "--train-size", 256, "--seeds", 1, "--epochs", 1),
        *("--variants", "LeNet", "--timing-repeats", 0, "--out", tmp_path / "out"),
        PYTHONIOENCODING="ascii",
        FORCE_COLOR="1",
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout


def test_help_names_every_setting():
    done = run("experiments.ablate", "--help", COLUMNS="100")
    assert done.returncode == 0
    for flag in (
        "--dataset",
        "--data-dir",
        "--train-size",
        "--epochs",
        "--seeds",
        "--first-seed",
        "--batch-size",
        "--learning-rate",
        "--variants",
        "--out",
        "--overwrite",
        "--timing-repeats",
        "--accuracy-margin",
        "--time-margin",
        "--sweep",
    ):
        assert flag in done.stdout


def test_importing_the_library_imports_no_torch_tensorflow_or_matplotlib():
    code = (
        "import sys, jax_lenet;"
        "print([m for m in ('torch', 'tensorflow', 'tensorflow_datasets', 'matplotlib')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_study_imports_no_torch_and_no_tensorflow():
    code = (
        "import sys, experiments.ablate, experiments.figures;"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
