"""A sweep that was stopped, grown or damaged ends with the bits of an undisturbed one."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from experiments import cli, durable, npz, sweep, sweep_store
from experiments.settings import StudySettings
from experiments.sweep_files import BEGUN, SweepFolder
from experiments.sweep_settings import Settings
from tests.faults import FaultyDisk, crashes, faulty
from tests.small_sweep import GROUPS, RUNS, finished, numbers, quick, run, undisturbed

# Fixtures.
__all__ = ["finished", "quick", "undisturbed"]


@pytest.fixture
def trained(monkeypatch):
    """A list that gets every run that is trained to its end."""
    seen = []
    train_group = sweep.train_group

    def watched(programs, placed, data, group, *args):
        rows = train_group(programs, placed, data, group, *args)
        seen.extend(group)
        return rows

    monkeypatch.setattr(sweep, "train_group", watched)
    return seen


def stop_after(monkeypatch, epochs, number):
    """Send this process a signal once so many epochs of groups are finished."""
    count = sweep.Display.epoch
    left = [epochs]

    def stopping(display, runs):
        count(display, runs)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(sweep.Display, "epoch", stopping)


@pytest.fixture
def epochs_trained(monkeypatch):
    """A list that gets the runs of every epoch as it is kept."""
    seen = []
    write = sweep_store.write

    def watched(folder, begun):
        write(folder, begun)
        seen.extend((run, len(begun.progress.losses)) for run in begun.runs)

    monkeypatch.setattr(sweep_store, "write", watched)
    return seen


@pytest.mark.parametrize("epochs", range(1, 2 * GROUPS + 1))
def test_a_sweep_stopped_after_an_epoch_goes_on_after_it_to_the_same_bits(
    epochs, undisturbed, tmp_path, monkeypatch, trained, epochs_trained, capsys
):
    with monkeypatch.context() as patch:
        stop_after(patch, epochs, signal.SIGTERM)
        assert run(tmp_path) == 143
    assert "to go on: python -m experiments.sweep" in capsys.readouterr().err
    assert len(epochs_trained) == 2 * epochs
    assert len(trained) == 2 * ((epochs - 1) // 2)  # a group that is not tested yet is not there
    assert (tmp_path / BEGUN).exists()
    if trained:
        assert len(SweepFolder(tmp_path).read_runs()) == len(trained)
    assert run(tmp_path) == 0
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert len(trained) == len(set(trained)) == RUNS
    assert not (tmp_path / BEGUN).exists()
    assert numbers(tmp_path) == numbers(undisturbed)


def test_runs_in_training_are_finished_first_whatever_was_added(
    undisturbed, tmp_path, monkeypatch, epochs_trained
):
    # Of one seed: the group that was in training is not one that three seeds would make.
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        assert run(tmp_path, {"--seeds": [1], "--first-seed": [2]}) == 143
    (first, _), (second, _) = epochs_trained
    assert run(tmp_path) == 0
    assert epochs_trained[2:4] == [(first, 2), (second, 2)]
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert numbers(tmp_path) == numbers(undisturbed)


def test_a_kill_between_the_table_and_the_runs_in_training_trains_nothing_again(
    undisturbed, tmp_path, monkeypatch, epochs_trained
):
    with monkeypatch.context() as patch:
        patch.setattr(sweep_store, "remove", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
        assert run(tmp_path) == 143
    assert (tmp_path / BEGUN).exists()
    assert len(SweepFolder(tmp_path).read_runs()) == 2
    assert run(tmp_path) == 0
    assert not (tmp_path / BEGUN).exists()
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert numbers(tmp_path) == numbers(undisturbed)


def test_a_kill_between_the_predictions_and_the_table_trains_nothing_again(
    undisturbed, tmp_path, monkeypatch, epochs_trained
):
    with monkeypatch.context() as patch:

        def dies(folder, rows):
            raise KeyboardInterrupt

        patch.setattr(SweepFolder, "write_sweep_rows", dies)
        assert run(tmp_path) == 130
    assert (tmp_path / BEGUN).exists()
    assert (tmp_path / "predictions.npz").exists()
    assert not (tmp_path / "sweep.csv").exists()
    assert run(tmp_path) == 0
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert numbers(tmp_path) == numbers(undisturbed)


def test_runs_in_training_go_on_together_where_fewer_would_begin(
    undisturbed, tmp_path, monkeypatch, epochs_trained
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        assert run(tmp_path) == 143
    widths = []
    with monkeypatch.context() as patch:  # as on another GPU, or with less memory
        together, compile_for = Settings.together, sweep.compile_for
        patch.setattr(Settings, "together", lambda *args: together(*args)._replace(runs=1))
        patch.setattr(
            sweep, "compile_for", lambda *args: widths.append(args[3]) or compile_for(*args)
        )
        assert run(tmp_path) == 0
    assert widths == [2, 1]  # and alone again, once they are finished
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert len(numbers(tmp_path)[0]) == RUNS


TWO = {"--variants": ["LeNet", "LeNet_BN_noDropout"], "--seeds": [2], "--dropout-rates": [0.5]}


def test_what_is_in_training_of_another_model_comes_first(tmp_path, monkeypatch, epochs_trained):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, signal.SIGTERM)  # the first model has one group of two epochs
        assert run(tmp_path / "out", TWO | {"--seeds": [1]}) == 143
    assert run(tmp_path / "other", TWO) == 0
    expected = numbers(tmp_path / "other")
    epochs_trained.clear()
    assert run(tmp_path / "out", TWO) == 0
    # The last epoch of two runs, then the other seed of each model.
    assert [run.point.batch_norm for run, _ in epochs_trained] == [1] * 2 + [0] * 4 + [1] * 4
    assert numbers(tmp_path / "out") == expected


@pytest.mark.parametrize("content", ["{", None])
def test_runs_in_training_say_whose_they_are_where_config_json_cannot(
    content, undisturbed, tmp_path, monkeypatch, epochs_trained, capsys
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        assert run(tmp_path) == 143
    if content is None:
        (tmp_path / "config.json").unlink()
    else:
        (tmp_path / "config.json").write_text(content)
    assert run(tmp_path) == 0
    assert len(epochs_trained) == len(set(epochs_trained)) == 2 * RUNS
    assert numbers(tmp_path) == numbers(undisturbed)


def crash_and_go_on(disks, undisturbed, out, epochs_trained):
    """Let the machine crash as each disk says, and the sweep go on from what the disk kept."""
    for disk in disks:
        epochs_trained.clear()
        with faulty(disk):
            run(out)
            pytest.fail("no crash")
        done, again = set(epochs_trained), len(epochs_trained)
        assert run(out) == 0
        assert not done & set(epochs_trained[again:])
        assert numbers(out) == numbers(undisturbed)
        assert [path.name for path in out.iterdir() if ".damaged-" in path.name] == []
        shutil.rmtree(out)


@pytest.fixture
def operations(tmp_path):
    """What a sweep asks of the disk."""
    with faulty(FaultyDisk()) as disk:
        assert run(tmp_path / "counted") == 0
    return len(disk.operations)


def test_a_crash_at_some_of_the_operations_of_a_sweep_loses_nothing(
    operations, undisturbed, tmp_path, epochs_trained
):
    some = np.random.default_rng(0).choice(list(crashes(operations)), 6, replace=False)
    crash_and_go_on(some, undisturbed, tmp_path / "out", epochs_trained)


@pytest.mark.crash
def test_a_crash_at_every_operation_of_a_sweep_loses_nothing(
    operations, undisturbed, tmp_path, epochs_trained
):
    crash_and_go_on(crashes(operations), undisturbed, tmp_path / "out", epochs_trained)


def test_too_small_a_disk_is_said_before_training(tmp_path, monkeypatch, epochs_trained, capsys):
    monkeypatch.setattr(durable.disk, "free", lambda folder: 1_000_000)
    assert run(tmp_path / "out") == 2
    assert "of free space for" in capsys.readouterr().err
    assert epochs_trained == []


def test_a_folder_that_vanishes_before_it_is_drawn_is_no_mistake_of_the_users(
    undisturbed, tmp_path, monkeypatch, capsys
):
    remake, out = sweep.remake, tmp_path / "out"

    def gone(folder):
        out.rename(tmp_path / "elsewhere")
        return remake(folder)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "remake", gone)
        assert run(out) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"sweep: cannot write {out / 'sweep.png'}: its files are gone;")
    (tmp_path / "elsewhere").rename(out)
    assert run(out) == 0
    assert numbers(out) == numbers(undisturbed)


def test_runs_in_training_that_cannot_be_used_are_named_set_aside_and_trained_again(
    undisturbed, tmp_path, monkeypatch, epochs_trained, capsys
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        assert run(tmp_path) == 143
    torn = (tmp_path / BEGUN).read_bytes()[:-1]
    (tmp_path / BEGUN).write_bytes(torn)
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{BEGUN} cannot be used (it is cut short or changed, or another program's): it" in said
    assert (tmp_path / f"{BEGUN}.damaged-1").read_bytes() == torn
    assert len(epochs_trained) == 2 * RUNS + 2
    assert numbers(tmp_path) == numbers(undisturbed)


@pytest.mark.parametrize(
    "less", [{"--seeds": [1]}, {"--seeds": [1], "--first-seed": [2]}, {"--dropout-rates": [0.0]}]
)
def test_a_grown_sweep_trains_what_is_missing_and_is_the_same(less, undisturbed, tmp_path, trained):
    assert run(tmp_path, less) == 0
    assert run(tmp_path) == 0
    assert len(trained) == len(set(trained)) == RUNS
    assert numbers(tmp_path) == numbers(undisturbed)


def test_layers_are_added_to_a_finished_sweep(finished, undisturbed, trained):
    assert run(finished, {"--layers": ["drop7", "drop6"]}) == 0
    assert [run.point.drop7 for run in trained] == [0.5] * 3
    curves = json.loads((finished / "sweep.json").read_text())["curves"]
    before = json.loads((undisturbed / "sweep.json").read_text())["curves"]
    assert [curve["layers"] for curve in curves] == ["drop7", "drop6"]
    assert curves[1:] == before


def test_a_finished_sweep_is_recognised_and_only_drawn(finished, undisturbed, monkeypatch, capsys):
    def never(*args, **kwargs):
        raise AssertionError("a finished folder needs none of this")

    monkeypatch.setattr(StudySettings, "load", never)
    monkeypatch.setattr(Settings, "start_jax", never)
    (finished / "sweep.json").unlink()
    assert run(finished) == 0
    assert "Nothing is left to train" in capsys.readouterr().out
    assert numbers(finished) == numbers(undisturbed)


def cut_last_line(text):
    return text[:-20]


def of_another_sweep(text):
    return text.replace(",0.1,", ",0.2,")


def twice(text):
    return text + text.splitlines(keepends=True)[-1]


def of_fewer_runs(content):
    arrays = npz.decode(content)
    fewer = {name: arrays[name][:-2] for name in ("runs", "predictions")}
    return npz.encode(arrays | fewer, compressed=True)


def of_other_predictions(content):
    arrays = npz.decode(content)
    return npz.encode(arrays | {"predictions": arrays["predictions"][::-1]}, compressed=True)


@pytest.mark.parametrize(
    ("damage", "again", "words"),
    [
        (lambda content: content[:-1], RUNS, "the file is now predictions.npz.damaged-1"),
        (of_other_predictions, RUNS, "expected the predictions of the runs in sweep.csv"),
        (of_fewer_runs, 2, "2 of the 6 runs in"),
        (None, RUNS, "6 of the 6 runs in"),
    ],
)
def test_runs_whose_predictions_are_lost_are_named_and_trained_again(
    damage, again, words, finished, undisturbed, trained, capsys
):
    path = finished / "predictions.npz"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    assert run(finished) == 0
    assert words in capsys.readouterr().out
    assert len(trained) == again
    assert numbers(finished) == numbers(undisturbed)


@pytest.mark.parametrize("damage", [cut_last_line, of_another_sweep, twice])
def test_a_damaged_table_is_named_set_aside_and_trained_again(
    damage, finished, undisturbed, trained, capsys
):
    torn = damage((finished / "sweep.csv").read_text())
    (finished / "sweep.csv").write_text(torn)
    assert run(finished) == 0
    assert "is now sweep.csv.damaged-1" in capsys.readouterr().out
    assert (finished / "sweep.csv.damaged-1").read_text() == torn
    assert len(trained) == RUNS
    assert numbers(finished) == numbers(undisturbed)


def test_without_config_json_nothing_is_believed(finished, undisturbed, trained, capsys):
    (finished / "config.json").write_text("{")
    assert run(finished) == 0
    said = capsys.readouterr().out
    assert "config.json is now config.json.damaged-1" in said
    assert "sweep.csv is now sweep.csv.damaged-1" in said
    assert len(trained) == RUNS
    assert numbers(finished) == numbers(undisturbed)


def test_the_display_goes_on_from_what_is_there(finished):
    rows = SweepFolder(finished).read_sweep_rows()
    settings = Settings(
        dropout_rates=(0.5,), layers=("drop6",), variants=("LeNet",), epochs=2, seeds=3,
        learning_rate=0.1,
    )  # fmt: skip
    display = sweep.Display(cli.console(), settings.candidates, 3, 2, rows[:4])
    (task,) = display._bar.tasks
    assert (task.completed, task.total) == (8, 12)


@pytest.mark.parametrize(
    ("place", "name"),
    [("data", "kind"), ("data", "sizes"), ("settings", "learning_rate"), (None, "title")],
)
def test_a_config_json_that_cannot_be_drawn_is_set_aside_and_the_runs_come_again(
    place, name, finished, undisturbed, trained, capsys
):
    path = finished / "config.json"
    config = json.loads(path.read_text())
    del (config if place is None else config[place])[name]
    path.write_text(json.dumps(config))
    assert run(finished) == 0
    assert f"{path} is damaged: config.json is now config.json.damaged-1" in capsys.readouterr().out
    assert len(trained) == RUNS
    assert numbers(finished) == numbers(undisturbed)
