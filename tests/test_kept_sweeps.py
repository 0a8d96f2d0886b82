"""Sweeps that a study keeps: on its very data with its settings, and none is ever lost."""

import copy
import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments import merge
from experiments.cli import StorageError, UserError
from experiments.going_on import set_aside
from experiments.kept_sweeps import check_outside, folders, keep, load, read_all, sound
from experiments.results import LabelledImages, ResultsFolder
from tests.faults import FaultyDisk, crashes, faulty, names
from tests.simulated import CONFIG, DROPOUT_RATES, LEARNING_RATES, write_sweep

KEPT = ("config.json", "sweep.csv", "predictions.npz")
FILES = {"train-images": {"sha256": "ab" * 32, "bytes": 9}, "test-images": {"sha256": "cd" * 32}}
OTHER = {"train-images": {"sha256": "ef" * 32, "bytes": 9}, "test-images": {"sha256": "cd" * 32}}


@pytest.fixture
def study():
    """The config.json of a study."""
    config = copy.deepcopy(CONFIG)
    config["data"]["files"] = FILES
    return config


def sweep_at(path, **changes):
    source = {"files": FILES} | changes.pop("source", {})
    return write_sweep(path / "s", LEARNING_RATES, lambda point: 0.9, 2, source=source, **changes)


def test_a_sweep_on_the_same_data_is_taken_as_it_is_wherever_its_files_lay(tmp_path, study):
    path = sweep_at(tmp_path, source={"path": "elsewhere", "files": dict(reversed(FILES.items()))})
    (files,) = load([path], study)
    assert files == {name: (path / name).read_bytes() for name in KEPT}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"files": OTHER}}, "the files of .* have other contents"),
        ({"source": {"files": {}}}, "the files of .* have other contents"),
        (
            {"source": {"kind": "tensorflow_datasets"}},
            "the study's kind of data, idx, but .* has tensorflow_datasets",
        ),
        ({"precision": "default"}, "the study's precision, highest, but .* has default"),
        ({"data": {"train": 4_000}}, "the study's train images, 50000, but .* has 4000"),
        ({"batch_size": 64}, "the study's batch size, 128, but .* has 64"),
    ],
)
def test_a_sweep_on_other_data_or_with_other_settings_is_refused(tmp_path, study, changes, message):
    with pytest.raises(UserError, match=message):
        load([sweep_at(tmp_path, **changes)], study)


def test_a_study_by_pytorch_which_knows_no_precision_is_one_in_full_float32(tmp_path, study):
    del study["settings"]["precision"]
    assert load([sweep_at(tmp_path)], study)


def test_a_study_that_does_not_say_how_it_ran_takes_none(tmp_path, study):
    study["data"]["files"] = {"train-images": None}
    with pytest.raises(UserError, match=r"expected .* to say how they ran"):
        load([sweep_at(tmp_path)], study)


def test_two_sweeps_that_answer_the_same_question_are_refused(tmp_path, study):
    one, other = (sweep_at(tmp_path / name, out=name) for name in "ab")
    with pytest.raises(UserError) as error:
        load([one, other], study)
    assert str(error.value) == (
        f"--sweep: expected one sweep with learning rates of LeNet, but both {one} and {other} have"
        " them"
    )


def test_a_sweep_that_is_named_twice_or_copied_counts_once(tmp_path, study):
    one, copied = (sweep_at(tmp_path / name) for name in ("a", "b"))
    assert load([one, copied, one], study) == load([one], study)


# In the study's folder


@pytest.fixture
def folder(tmp_path):
    """A results folder."""
    return ResultsFolder.create(tmp_path / "out", overwrite=False)


def files_of(path):
    return {name: (path / name).read_bytes() for name in KEPT}


def sweep_of(path, candidates, accuracy=0.9):
    """A sweep of 20 test images."""
    return write_sweep(path, candidates, lambda point: accuracy, 2, data={"test": 20})


@pytest.fixture
def old(tmp_path):
    """A sweep of learning rates of two models."""
    return sweep_of(tmp_path / "old", LEARNING_RATES)


@pytest.fixture
def new(tmp_path):
    """Another one of the same, and of a third model."""
    third = replace(LEARNING_RATES[0], variant="LeNet_BN_Dropout")
    return sweep_of(tmp_path / "new", (*LEARNING_RATES, third), 0.8)


@pytest.fixture
def dropout(tmp_path):
    """A sweep that answers something else."""
    return sweep_of(tmp_path / "dropout", DROPOUT_RATES)


def keep_these(folder, *paths):
    """Keep sweeps as a program does; return what it said."""
    said = []
    keep(folder, load(paths, None, read_all(folder)), said.append)
    return said


def counting(folder):
    """The content of the sweeps that count."""
    return [files_of(kept.path) for kept in read_all(folder)]


def test_a_sweep_stays_beside_one_that_answers_something_else(folder, old, dropout):
    for path in (old, dropout):
        assert keep_these(folder, path) == []
    assert counting(folder) == [files_of(old), files_of(dropout)]


def test_a_sweep_takes_the_place_of_one_all_of_whose_questions_it_answers(
    folder, old, new, dropout
):
    keep_these(folder, old, dropout)
    sweeps = folder.path / "sweeps"
    assert keep_these(folder, new) == [
        f"{sweeps / '3'} takes the place of the sweep in {sweeps / '1'}: both have learning rates"
        " of LeNet, learning rates of LeNet_BN_noDropout"
    ]
    assert counting(folder) == [files_of(dropout), files_of(new)]
    assert names(sweeps) == ["2", "3"]


def test_a_sweep_that_answers_only_some_of_one_s_questions_is_refused(folder, old, new):
    keep_these(folder, new)
    with pytest.raises(UserError, match=r"^--sweep: expected one sweep with learning rates of Le"):
        load([old], None, read_all(folder))
    assert counting(folder) == [files_of(new)]


def test_a_kept_sweep_can_be_named_with_a_new_one(folder, old, new, dropout):
    keep_these(folder, old)
    kept = folder.path / "sweeps" / "1"
    assert keep_these(folder, dropout, kept) == []
    assert counting(folder) == [files_of(old), files_of(dropout)]
    with pytest.raises(UserError, match=f"but both {new} and {kept} have them"):
        load([new, kept], None, read_all(folder))


def test_sweeps_are_told_apart_by_their_numbers_and_of_equals_the_latest_counts(folder, old, new):
    sweeps = folder.path / "sweeps"
    sweep_of(sweeps / "9", LEARNING_RATES, 0.7)
    sweep_of(sweeps / "10", LEARNING_RATES, 0.6)
    sweep_of(sweeps / "1 (copy)", LEARNING_RATES, 0.5)
    assert [path.name for path in folders(folder)] == ["9", "10"]
    assert counting(folder) == [files_of(sweeps / "10")]
    assert len(keep_these(folder, sweeps / "9")) == 2
    assert names(sweeps) == ["1 (copy)", "11"]


def test_a_sweep_that_is_there_already_is_not_written_again(folder, old, dropout):
    keep_these(folder, old, dropout)
    with faulty(FaultyDisk()) as disk:
        assert keep_these(folder, old, dropout) == []
    assert disk.operations == []


def test_a_damaged_sweep_is_to_be_set_aside_and_the_others_count(folder, old, dropout):
    keep_these(folder, old, dropout)
    path = folder.path / "sweeps" / "1"
    (path / "predictions.npz").write_bytes(b"torn")
    kept, damaged = sound(folder)
    assert [each.path.name for each in kept] == ["2"]
    assert {each.path for each in damaged} == {path / name for name in KEPT}
    said = []
    set_aside(damaged, said.append)
    assert "predictions.npz is now predictions.npz.damaged-1, and counts no more" in "".join(said)
    assert counting(folder) == [files_of(dropout)]
    assert keep_these(folder, old) == []
    assert counting(folder) == [files_of(dropout), files_of(old)]
    assert names(path) == [f"{name}.damaged-1" for name in sorted(KEPT)]


def test_what_is_not_a_sweeps_stays_where_one_goes_or_all_are_overwritten(folder, old, new):
    keep_these(folder, old)
    (folder.path / "sweeps" / "1" / "notes.txt").write_text("mine")
    keep_these(folder, new)
    assert names(folder.path / "sweeps" / "1") == ["notes.txt"]
    assert keep_these(folder, new) == []
    ResultsFolder.create(folder.path, overwrite=True)
    assert names(folder.path / "sweeps") == ["1"]
    assert names(folder.path / "sweeps" / "1") == ["notes.txt"]


def test_a_linked_folder_is_the_users_own_and_nothing_in_it_changes(folder, old, new):
    sweeps = folder.path / "sweeps"
    sweeps.mkdir()
    (sweeps / "1").symlink_to(old)
    before = files_of(old)
    assert keep_these(folder, new) == []
    assert counting(folder) == [files_of(new)]
    assert names(sweeps) == ["1", "2"]
    assert files_of(old) == before
    (old / "predictions.npz").write_bytes(b"torn")
    (old / ".sweep.csv.12345.tmp").write_bytes(b"half of i")  # its program may be alive
    assert sound(folder)[1] == []
    keep_these(folder, new)
    assert ".sweep.csv.12345.tmp" in names(old)
    (old / "config.json").unlink()
    keep_these(folder, new)
    assert (old / "predictions.npz").read_bytes() == b"torn"


@pytest.mark.parametrize("name", ["predictions.npz", "sweep.csv"])
def test_without_config_json_only_what_a_sweep_leaves_is_removed(folder, old, dropout, name):
    keep_these(folder, old)
    sweeps = folder.path / "sweeps"
    for number in "78":
        shutil.copytree(sweeps / "1", sweeps / number)
        (sweeps / number / "config.json").unlink()
    (sweeps / "7" / name).write_bytes(b"the user's")
    keep_these(folder, dropout)
    assert names(sweeps) == ["1", "7", "9"]
    assert names(sweeps / "7") == ["predictions.npz", "sweep.csv"]


def test_a_sweep_of_other_test_images_is_to_be_set_aside(folder, old, dropout):
    keep_these(folder, old, dropout)
    labels = read_all(folder)[0].sweep.labels
    assert sound(folder, lambda of: np.array_equal(of, labels))[1] == []
    kept, damaged = sound(folder, lambda of: False)
    assert kept == []
    assert len(damaged) == 2 * len(KEPT)
    assert "predictions.npz: expected the labels of test_set.npz: " in damaged[0].why


def test_a_sweep_in_a_folder_that_is_about_to_be_emptied_is_refused(folder, old):
    keep_these(folder, old)
    check_outside([old], folder)
    with pytest.raises(UserError, match=r"which --overwrite empties, not .*sweeps/1$"):
        check_outside([old, folder.path / "sweeps" / "1"], folder)


def failing(operations):
    """Yield a disk for every crash, and for an error, at each of so many operations."""
    yield from crashes(operations)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    yield from (FaultyDisk(number, fault=full) for number in range(operations))


@pytest.mark.parametrize("beside", [False, True])
def test_whatever_operation_fails_a_sweep_counts_that_is_whole_and_the_command_ends_it(
    folder, old, new, dropout, beside, monkeypatch
):
    """At every moment the old one is there, or the one that takes its place."""
    monkeypatch.setattr(os, "fsync", lambda number: None)  # what is lost, the faulty disk decides
    named = (dropout, folder.path / "sweeps" / "1") if beside else (new,)
    after = [files_of(path) for path in ((old, dropout) if beside else (new,))]

    def begin():
        shutil.rmtree(folder.path / "sweeps", ignore_errors=True)
        shutil.copytree(old, folder.path / "sweeps" / "1")

    def command():
        keep_these(folder, *named)

    begin()
    with faulty(FaultyDisk()) as disk:
        command()
    for fault in failing(len(disk.operations)):
        begin()
        try:
            with faulty(fault):
                command()
        except StorageError:
            pass
        assert counting(folder) in ([files_of(old)], after), fault.operations
        command()
        assert counting(folder) == after
        left = [path.name for path in folder.path.rglob("*") if path.is_file()]
        assert sorted(left) == sorted(KEPT * len(after))


def test_folders_that_are_joined_give_each_sweep_once_and_no_two_with_the_same_answers(
    tmp_path, old, new, dropout
):
    parts = []
    for name, sweeps in (("a", (old,)), ("b", (old, dropout)), ("c", (new,))):
        folder = ResultsFolder.create(tmp_path / name, overwrite=False)
        keep_these(folder, *sweeps)
        parts.append(merge.Part(folder, {}, {}, 0, LabelledImages(*[np.empty(0)] * 3), []))
    assert merge.sweeps_of(parts[:2]) == [files_of(old), files_of(dropout)]
    with pytest.raises(UserError, match=r"expected one .*a/sweeps/1 and .*c/sweeps/1 have"):
        merge.sweeps_of(parts)
