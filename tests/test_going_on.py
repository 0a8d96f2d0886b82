"""Going on: a study that was stopped, grown or damaged ends with the bits of an undisturbed one."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import jax
import pytest

from experiments import ablate, cli, environment, figures, page, run_store, study
from experiments.ablate_settings import Settings
from experiments.kept_state import state_arrays
from experiments.progress import Display
from experiments.results import FIRST_PREDICTIONS, PREDICTIONS, ResultsFolder
from experiments.settings import StudySettings
from jax_lenet.ensemble import compile_programs

ROOT = Path(__file__).parents[1]
SMALL = (
    *("--dataset", "mnist_sample", "--train-size", "256", "--batch-size", "32"),
    *("--learning-rate", "0.1", "--timing-repeats", "0"),
    *("--compilation-cache", "off", "--devices", "2"),
)
STUDY = ("--variants", "LeNet", "LeNet_BN_Dropout", "--seeds", "2", "--epochs", "2")
EPOCHS = 8


class StopError(Exception):
    """What a test throws into a study."""


@pytest.fixture(scope="module")
def compiled():
    return {}


def be_quick(monkeypatch, compiled):
    """Compile each program once for all tests, and draw nothing."""

    def compile_once(model, train, test, **options):
        key = model, jax.tree.structure(train), len(train.labels), tuple(options.items())
        if key not in compiled:
            compiled[key] = compile_programs(model, train, test, **options, warm_up=False)
        return compiled[key]

    monkeypatch.setattr(study, "compile_programs", compile_once)
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: None)
    monkeypatch.setattr(page, "write", lambda *args: None)


@pytest.fixture(autouse=True)
def quick(monkeypatch, compiled, as_for_users):
    be_quick(monkeypatch, compiled)


def run(out, *arguments):
    """Run the program in this process; of a flag given twice the last counts."""
    line = [*SMALL, *map(str, arguments), "--out", str(out)]
    return cli.run(ablate.main, Settings, "ablate", line)


def numbers(out):
    """Everything of a study that may not depend on how it came about."""
    with (out / "results.csv").open() as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    summary = json.loads((out / "summary.json").read_text())["variants"]
    accuracies = {name: {**of, "total_seconds": None} for name, of in summary.items()}
    predictions = [(out / name).read_bytes() for name in (FIRST_PREDICTIONS, PREDICTIONS)]
    return rows, predictions, accuracies


@pytest.fixture
def trained(monkeypatch):
    """A list that gets every epoch as it is finished: variant, seed and epoch."""
    seen = []
    add = Display.add

    def watched(display, rows):
        add(display, rows)
        seen.extend((row.variant, row.seed, row.epoch) for row in rows)

    monkeypatch.setattr(Display, "add", watched)
    return seen


def stop_after(monkeypatch, epochs, error):
    """Throw into a study after so many epochs."""
    add = Display.add
    left = [epochs]

    def stopping(display, rows):
        add(display, rows)
        left[0] -= 1
        if not left[0]:
            error()

    monkeypatch.setattr(Display, "add", stopping)


def raise_stop():
    raise StopError


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, as_for_users):
    """The study in a process of its own, with nothing shared and everything drawn."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ablate", *SMALL, *STUDY, "--out", str(out)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished study."""
    return Path(shutil.copytree(undisturbed, tmp_path / "finished"))


# Interruptions


def test_two_undisturbed_studies_are_the_same_to_the_last_bit(undisturbed, tmp_path):
    assert run(tmp_path / "again", *STUDY) == 0
    assert numbers(tmp_path / "again") == numbers(undisturbed)
    for path in run_store.files(undisturbed):
        one, other = (run_store.read(x) for x in (path, tmp_path / "again" / "runs" / path.name))
        leaves = [leaf.tobytes() for leaf in state_arrays(one.fit.state).values()]
        assert leaves == [leaf.tobytes() for leaf in state_arrays(other.fit.state).values()]


@pytest.mark.parametrize("epochs", range(1, EPOCHS + 1))
def test_a_study_stopped_after_an_epoch_goes_on_to_the_same_bits(
    epochs, undisturbed, tmp_path, monkeypatch, trained
):
    with monkeypatch.context() as patch:
        stop_after(patch, epochs, raise_stop)
        with pytest.raises(StopError):
            run(tmp_path, *STUDY)
    assert run(tmp_path, *STUDY) == 0
    assert len(trained) == len(set(trained)) == EPOCHS  # no epoch twice
    assert numbers(tmp_path) == numbers(undisturbed)


def test_a_study_stopped_after_every_epoch_ends_with_the_same_bits(
    undisturbed, tmp_path, monkeypatch, trained
):
    for _ in range(EPOCHS):
        with monkeypatch.context() as patch:
            stop_after(patch, 1, raise_stop)
            with pytest.raises(StopError):
                run(tmp_path, *STUDY)
    assert run(tmp_path, *STUDY) == 0
    assert len(trained) == EPOCHS
    assert numbers(tmp_path) == numbers(undisturbed)


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_study_after_the_epoch_with_its_files_written(
    kind, undisturbed, tmp_path, monkeypatch, capsys, trained
):
    number = signal.Signals[kind]
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), number))
        assert run(tmp_path, *STUDY) == 128 + number
    assert len(ResultsFolder(tmp_path).read_results()) == len(trained) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "to go on: python -m experiments.ablate " in line
    assert run(tmp_path, *STUDY) == 0
    assert numbers(tmp_path) == numbers(undisturbed)


def test_what_a_killed_program_left_unfinished_is_cleaned(finished, undisturbed):
    for name in ("results.csv", "runs/LeNet.seeds-0.npz"):
        path = finished / name
        path.with_name(f".{path.name}.12345.tmp").write_bytes(b"half of i")
    (finished / ".notes.tmp").write_text("the user's")
    assert run(finished, *STUDY) == 0
    hidden = [path.name for path in finished.rglob(".*")]
    assert hidden == [".notes.tmp"]
    assert numbers(finished) == numbers(undisturbed)


# More of it


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("--epochs", 1), ()),
        (("--seeds", 1), ()),
        (("--seeds", 1, "--first-seed", 1), ()),
        (("--variants", "LeNet_BN_Dropout"), ()),
        (("--variants", "LeNet", "--seeds", 1, "--epochs", 1), ()),
        (("--epochs", 1, "--seeds", 1), ("--seeds", 1)),
        (("--variants", "LeNet_BN_Dropout", "LeNet"), ()),
    ],
)
def test_a_grown_study_trains_what_is_missing_and_is_the_same(
    first, then, undisturbed, tmp_path, trained
):
    assert run(tmp_path, *STUDY, *first) == 0
    if then:
        assert run(tmp_path, *STUDY, *then) == 0
    assert run(tmp_path, *STUDY) == 0
    assert len(trained) == len(set(trained)) == EPOCHS
    assert numbers(tmp_path) == numbers(undisturbed)
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["seeds"] == 2


def test_seeds_that_are_added_to_a_short_group_train_beside_it_to_the_same_bits(tmp_path, trained):
    several = ("--variants", "LeNet", "--epochs", 1, "--seeds-at-once", 2)
    assert run(tmp_path / "at once", *several, "--seeds", 4) == 0
    for seeds in (2, 4):
        assert run(tmp_path / "grown", *several, "--seeds", seeds) == 0
    assert [path.name for path in run_store.files(tmp_path / "grown")] == (
        ["LeNet.seeds-0.npz", "LeNet.seeds-1.npz", "LeNet.seeds-2-3.npz"]
    )
    assert len(trained) == 8
    assert numbers(tmp_path / "grown") == numbers(tmp_path / "at once")


def test_timing_goes_on_after_its_last_whole_repeat_and_begins_again_for_a_new_variant(tmp_path):
    timed = ("--variants", "LeNet", "--seeds", 1, "--epochs", 1, "--timing-repeats")
    folder = ResultsFolder(tmp_path)
    assert run(tmp_path, *timed, 1) == 0
    (first,) = folder.read_timing()
    assert run(tmp_path, *timed, 3) == 0
    rows = folder.read_timing()
    assert rows[0] == first
    assert [row.repeat for row in rows] == [1, 2, 3]
    folder.write_timing(rows[:1] + rows[2:])  # the second is lost, and nobody knows of which two
    assert run(tmp_path, *timed, 2) == 0
    assert folder.read_timing()[0] == first
    both = ("--variants", "LeNet", "LeNet_BN_Dropout")
    assert run(tmp_path, *timed, 2, *both) == 0
    rows = folder.read_timing()
    assert [(row.variant, row.repeat) for row in rows] == [(v, r) for r in (1, 2) for v in both[1:]]
    assert rows[0] != first


# Nothing left


def test_a_finished_folder_is_recognised_at_once_and_only_drawn(
    finished, undisturbed, monkeypatch, capsys
):
    def never(*args, **kwargs):
        raise AssertionError("a finished folder needs none of this")

    monkeypatch.setattr(StudySettings, "load", never)
    monkeypatch.setattr(Settings, "start_jax", never)
    monkeypatch.setattr(study, "compile_programs", never)
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: drawn.append(perf_counter()))
    (finished / "results.csv").unlink()
    start = perf_counter()
    assert run(finished, *STUDY, "--accuracy-margin", 0.2) == 0
    assert "Nothing is left to train" in capsys.readouterr().out
    assert len(drawn) == 2
    assert drawn[0] - start < 2  # tests and verdicts included
    assert numbers(finished) == numbers(undisturbed)
    config = json.loads((finished / "config.json").read_text())
    before = json.loads((undisturbed / "config.json").read_text())
    assert config["settings"].pop("accuracy_margin") == 0.2
    assert before["settings"].pop("accuracy_margin") == 0.1
    assert config["settings"].pop("out") != before["settings"].pop("out")
    assert config == before


def test_a_finished_folder_is_drawn_again_with_other_versions_installed(finished, monkeypatch):
    monkeypatch.setattr(environment, "versions", lambda *args: {"jax": "99"})
    before = json.loads((finished / "config.json").read_text())["versions"]
    assert run(finished, *STUDY) == 0
    assert run(finished, *STUDY, "--data-dir", ROOT, "--epochs", 2) == 2  # the sample has none
    assert json.loads((finished / "config.json").read_text())["versions"] == before


def test_overwrite_starts_anew_with_other_settings(finished, trained):
    (finished / "notes.txt").write_text("the user's")
    arguments = ("--variants", "LeNet", "--seeds", 1, "--epochs", 1, "--batch-size", 16)
    assert run(finished, *arguments, "--overwrite") == 0
    assert trained == [("LeNet", 0, 1)]
    assert [path.name for path in run_store.files(finished)] == ["LeNet.seeds-0.npz"]
    assert (finished / "notes.txt").read_text() == "the user's"
