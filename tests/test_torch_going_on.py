"""The report's program in PyTorch, stopped and killed: it goes on from its last finished epoch."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import environment, npz, torch_baseline
from experiments.torch_baseline import Settings
from experiments.torch_folder import BEGUN
from tests.faults import FaultyDisk, faulty, names
from tests.test_torch_baseline import SMALL, program, rows_of, without_seconds

STUDY = ("--variants", "LeNet", "LeNet_BN_Dropout", "--seeds", 2)
ONE = ("--variants", "LeNet_BN_Dropout", "--seeds", 1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert program(out, *STUDY) == 0
    return out


@pytest.fixture
def copied(undisturbed, tmp_path):
    return Path(shutil.copytree(undisturbed, tmp_path / "copied"))


def after(monkeypatch, epochs, act):
    """Do something once so many epochs are finished."""
    add = torch_baseline.Display.add
    left = [epochs]

    def counting(display, rows):
        add(display, rows)
        left[0] -= 1
        if not left[0]:
            act()

    monkeypatch.setattr(torch_baseline.Display, "add", counting)


def stop_after(monkeypatch, epochs):
    """Send this process a signal once so many epochs are finished."""
    after(monkeypatch, epochs, lambda: os.kill(os.getpid(), signal.SIGTERM))


@pytest.fixture
def trained(monkeypatch):
    """A list that gets every epoch that is trained: variant, seed, epoch."""
    seen = []
    run_of = torch_baseline.run_of

    def watched(*args):
        for row, state in run_of(*args):
            seen.append((row.variant, row.seed, row.epoch))
            yield row, state

    monkeypatch.setattr(torch_baseline, "run_of", watched)
    return seen


def assert_same(out, other):
    """Nothing may differ but the seconds, and nothing is left but what is finished."""
    assert without_seconds(rows_of(out)) == without_seconds(rows_of(other))
    assert not (out / BEGUN).exists()


@pytest.mark.parametrize("epochs", range(1, 9))
def test_a_study_stopped_after_an_epoch_goes_on_from_it_to_the_same_bits(
    epochs, undisturbed, tmp_path, monkeypatch, trained, capsys
):
    with monkeypatch.context() as patch:
        stop_after(patch, epochs)
        assert program(tmp_path, *STUDY) == 143
    assert "to go on: python -m experiments.torch_baseline" in capsys.readouterr().err
    assert (tmp_path / BEGUN).exists() == (epochs % 2 == 1)
    assert program(tmp_path, *STUDY) == 0
    assert len(trained) == len(set(trained)) == 8
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("loader", ["memory", "dataloader"])
def test_a_run_that_is_stopped_after_every_epoch_has_the_same_bits(loader, tmp_path, monkeypatch):
    longer = ("--variants", "LeNet_BN_Dropout", "--seeds", 1, "--epochs", 4, "--loader", loader)
    assert program(tmp_path / "undisturbed", *longer) == 0
    with monkeypatch.context() as patch:
        for _ in range(4):
            stop_after(patch, 1)
            assert program(tmp_path / "out", *longer) == 143
            patch.undo()
    assert program(tmp_path / "out", *longer) == 0
    assert_same(tmp_path / "out", tmp_path / "undisturbed")


@pytest.mark.crash
@pytest.mark.parametrize("unsynced", ["lost", "torn", "kept"])
def test_a_crash_before_or_after_anything_that_is_written_loses_no_epoch_but_the_one_in_training(
    unsynced, undisturbed, tmp_path, trained
):
    with faulty(FaultyDisk()) as disk:
        assert program(tmp_path / "counted", *ONE) == 0
    for number, when in itertools.product(range(len(disk.operations)), ("before", "after")):
        trained.clear()
        out = tmp_path / f"{number}-{when}"
        with faulty(FaultyDisk(number, when, unsynced=unsynced)):
            program(out, *ONE)
        assert program(out, *ONE) == 0
        assert len(trained) <= 2 + 1, disk.operations[number]
        assert names(out) == ["config.json", "results.csv"]
        assert without_seconds(rows_of(out)) == without_seconds(rows_of(undisturbed)[4:6])


def test_a_process_that_is_killed_in_a_run_goes_on_from_its_last_epoch_to_the_same_bits(tmp_path):
    longer = ("--variants", "LeNet_BN_Dropout", "--seeds", 1, "--epochs", 12)
    assert program(tmp_path / "undisturbed", *longer) == 0
    line = map(str, (*SMALL, "--learning-rate", 0.1, *longer, "--out", tmp_path / "out"))
    command = [sys.executable, "-m", "experiments.torch_baseline", *line]

    def epochs(count=None):
        """Return the epochs that a process says it has finished, and kill it after so many."""
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = (line.split() for line in process.stdout)
            found = (int(words[2]) for words in said if words[:1] == ["LeNet_BN_Dropout"])
            seen = list(itertools.islice(found, count))
            if count is not None:
                process.kill()
        assert process.returncode == (0 if count is None else -signal.SIGKILL)
        return seen

    first, second, last = epochs(2), epochs(3), epochs()
    assert first == [1, 2]
    assert second[0] > first[-1]
    assert last[0] > second[-1]
    assert_same(tmp_path / "out", tmp_path / "undisturbed")


def test_a_folder_that_vanishes_ends_the_study_with_one_line(
    undisturbed, tmp_path, capsys, monkeypatch, trained
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        after(patch, 3, lambda: out.rename(tmp_path / "elsewhere"))
        assert program(out, *STUDY) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"torch_baseline: cannot write {out}")
    assert f"the folder {out} is gone; to go on: python -m experiments.torch_baseline" in said
    assert not out.exists()
    (tmp_path / "elsewhere").rename(out)
    assert program(out, *STUDY) == 0
    assert len(trained) == 9  # the fourth epoch had nowhere to be kept
    assert_same(out, undisturbed)


# A file that can't be trusted


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A study in whose first run one epoch is finished."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        assert program(out, *STUDY) == 143
    return out


def about(**changes):
    """Change the description in begun.npz."""

    def change(arrays):
        said = json.loads(str(arrays["about"])) | changes
        return arrays | {"about": np.array(json.dumps(said))}

    return change


def array(name, change):
    """Change one array in begun.npz."""
    return lambda arrays: arrays | {name: change(arrays[name])}


WEIGHT = "model/fc.f7.weight"
DAMAGES = {
    "another seed": about(seed=7),
    "no seed": about(seed="0"),
    "another variant": about(variant="LeNet_BN_Dropout"),
    "an unknown variant": about(variant="AlexNet"),
    "another study": about(identity={"settings": {"--epochs": 2}, "environment": {}}),
    "no identity": about(identity=3),
    "too many epochs": array("rows", lambda rows: np.repeat(rows, 2, 0)),
    "no epoch": array("rows", lambda rows: rows[:0]),
    "no rows": array("rows", lambda rows: rows[0, 0]),
    "an accuracy of 2": array("rows", lambda rows: np.full_like(rows, 2)),
    "a NaN of seconds": array("rows", lambda rows: np.full_like(rows, np.nan)),
    "another shape": array(WEIGHT, lambda weight: weight.T),
    "another type": array(WEIGHT, lambda weight: weight.astype(np.float64)),
    "an array less": lambda arrays: {n: a for n, a in arrays.items() if n != WEIGHT},
    "an array more": lambda arrays: arrays | {"more": np.zeros(3)},
    "bytes that are no generator's": array("masks", lambda masks: np.full_like(masks, 255)),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "cut short", "not ours"])
def test_a_damaged_file_is_named_and_set_aside_and_its_run_comes_again(
    damage, stopped, undisturbed, tmp_path, capsys, trained
):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    content = (out / BEGUN).read_bytes()
    if damage in DAMAGES:
        content = npz.encode(DAMAGES[damage](npz.decode(content)))
    else:
        content = content[:-1] if damage == "cut short" else b"notes"
    (out / BEGUN).write_bytes(content)
    assert program(out, *STUDY) == 0
    assert f"{out / BEGUN} cannot be used (" in capsys.readouterr().out
    assert (out / f"{BEGUN}.damaged-1").read_bytes() == content
    assert len(trained) == 8
    assert_same(out, undisturbed)


def test_another_version_is_refused_before_anything_is_set_aside(
    stopped, tmp_path, capsys, monkeypatch
):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    for name in (BEGUN, "results.csv"):
        (out / name).write_bytes((out / name).read_bytes()[:-20])
    versions = environment.versions(("jax-lenet", "torch", "numpy"))
    monkeypatch.setattr(environment, "versions", lambda names: versions | {"torch": "99"})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert program(out, *STUDY) == 2
    screen = capsys.readouterr()
    assert f"torch: the folder has {versions['torch']}, not 99;" in screen.err
    assert "damaged" not in screen.out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_file_of_another_version_is_refused_and_stays(stopped, tmp_path, capsys):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    content = npz.encode(about(format=2)(npz.decode((out / BEGUN).read_bytes())))
    (out / BEGUN).write_bytes(content)
    assert program(out, *STUDY) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{out / BEGUN}: expected format 1, but another version wrote format 2" in error
    assert (out / BEGUN).read_bytes() == content
    assert program(out, *STUDY, "--overwrite") == 0
    assert names(out) == ["config.json", "results.csv"]


def test_a_run_that_has_begun_goes_on_before_what_is_added(
    undisturbed, tmp_path, monkeypatch, trained
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert program(tmp_path, *ONE, "--first-seed", 1) == 143
    assert program(tmp_path, *STUDY) == 0
    assert trained[:2] == [("LeNet_BN_Dropout", 1, 1), ("LeNet_BN_Dropout", 1, 2)]
    assert len(trained) == 8
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "less", [("--seeds", 1), ("--seeds", 1, "--first-seed", 1), ("--variants", "LeNet_BN_Dropout")]
)
def test_seeds_and_variants_are_added_to_a_finished_study(less, undisturbed, tmp_path, trained):
    assert program(tmp_path, *STUDY, *less) == 0
    assert program(tmp_path, *STUDY) == 0
    assert len(trained) == len(set(trained)) == 8
    assert without_seconds(rows_of(tmp_path)) == without_seconds(rows_of(undisturbed))


def test_a_finished_study_is_recognised_without_its_data(copied, undisturbed, monkeypatch, capsys):
    def never(self):
        raise AssertionError("a finished folder needs no data")

    monkeypatch.setattr(Settings, "load", never)
    assert program(copied, *STUDY) == 0
    screen = capsys.readouterr().out
    assert "Nothing is left to train" in screen
    assert "last epoch" in screen
    assert (copied / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", 16), "--batch-size: the folder has 32, not 16;"),
        (("--learning-rate", 0.2), "--learning-rate: the folder has 0.1, not 0.2;"),
        (("--train-size", 200), "--train-size: the folder has 300, not 200;"),
        (("--loader", "dataloader"), "--loader: the folder has memory, not dataloader;"),
        (("--epochs", 3), "--epochs: the folder has 2, not 3;"),
        (("--epochs", 1), "--epochs: the folder has 2, not 1"),
        (("--seeds", 1), "--seeds: the folder has 2, not 1 (more can be added);"),
        (
            ("--variants", "LeNet"),
            "--variants: the folder has LeNet LeNet_BN_Dropout, not LeNet (more can be added);",
        ),
    ],
)
def test_other_settings_are_refused_by_name_with_both_values(
    undisturbed, capsys, arguments, message
):
    before = (undisturbed / "results.csv").read_bytes()
    assert program(undisturbed, *STUDY, *arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert (undisturbed / "results.csv").read_bytes() == before
