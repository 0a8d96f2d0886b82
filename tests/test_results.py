import errno
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import StorageError, UserError
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow
from tests.faults import FaultyDisk, crashes, faulty, names

ROW = Row(
    "LeNet", 3, 1, np.float32(2.3), np.float32(0.1), np.float32(2.25), np.float32(0.9768), 1.5
)


@pytest.fixture
def folder(tmp_path):
    return ResultsFolder.create(tmp_path / "out", overwrite=False)


def test_results_csv_has_the_contracts_columns_and_the_shortest_digits(folder):
    folder.write_results([ROW])
    header, line = (folder.path / "results.csv").read_text().splitlines()
    assert header == (
        "variant,seed,epoch,train_loss,train_accuracy,test_loss,test_accuracy,seconds"
    )
    assert line == "LeNet,3,1,2.3,0.1,2.25,0.9768,1.5"


def test_rows_are_read_back_as_written_and_nan_stays_nan(folder):
    diverged = ROW._replace(seed=4, train_loss=np.float32("nan"), test_loss=np.float32("inf"))
    folder.write_results([ROW, diverged])
    first, second = folder.read_results()
    assert np.float32(first.test_accuracy) == ROW.test_accuracy
    assert first._replace(train_loss=0, train_accuracy=0, test_loss=0, test_accuracy=0) == (
        "LeNet",
        3,
        1,
        0,
        0,
        0,
        0,
        1.5,
    )
    assert np.isnan(second.train_loss)
    assert second.test_loss == np.inf


def test_timing_is_read_back_as_written(folder):
    rows = [TimingRow("LeNet", 1, 0.25, 0.125)]
    folder.write_timing(rows)
    assert folder.read_timing() == rows


def test_predictions_are_one_array_per_variant(folder):
    folder.write_predictions({"LeNet": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    with np.load(folder.path / "predictions.npz", allow_pickle=False) as stored:
        assert stored["LeNet"].dtype == np.uint8
        np.testing.assert_array_equal(stored["LeNet"], [[0, 1, 2], [3, 4, 5]])


def test_predictions_and_test_set_are_read_back_as_written(folder):
    predictions = {"LeNet": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    images = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    test_set = LabelledImages(images, np.uint8([7, 0, 9]), np.array([False, True, False]))
    folder.write_predictions(predictions)
    folder.write_test_set(test_set)
    assert folder.has("test_set.npz")
    np.testing.assert_array_equal(folder.read_predictions()["LeNet"], predictions["LeNet"])
    for found, written in zip(folder.read_test_set(), test_set, strict=True):
        assert found.dtype == written.dtype
        np.testing.assert_array_equal(found, written)


def test_no_temporary_file_is_left(folder):
    folder.write_results([ROW])
    folder.write_config({"a": 1})
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "results.csv"]


def test_nan_never_reaches_a_json_file(folder):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_summary({"accuracy": float("nan")})
    assert not (folder.path / "summary.json").exists()


def test_the_page_is_written_whatever_names_it_shows(folder):
    folder.write_report("<p>±, and a path that is no text: \udcff</p>")
    assert (folder.path / "report.html").read_text("utf-8") == (
        "<p>±, and a path that is no text: ?</p>"
    )


IMAGES, LABELS, WRONG = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8), np.zeros(3, bool)
WRITES = [
    ("config.json", lambda folder: folder.write_config({"a": 1})),
    ("results.csv", lambda folder: folder.write_results([ROW])),
    ("timing.csv", lambda folder: folder.write_timing([])),
    ("predictions.npz", lambda folder: folder.write_predictions({})),
    ("test_set.npz", lambda folder: folder.write_test_set(LabelledImages(IMAGES, LABELS, WRONG))),
    ("summary.json", lambda folder: folder.write_summary({})),
    ("report.html", lambda folder: folder.write_report("")),
]


@pytest.mark.parametrize(("name", "write"), WRITES)
def test_every_file_is_written_so_that_a_crash_leaves_the_old_one_or_the_new(folder, name, write):
    write(folder)
    (path,) = folder.path.rglob(name)
    new = path.read_bytes()
    with faulty(FaultyDisk()) as whole:
        write(folder)
    assert ("replace", name) in whole.operations
    for disk in crashes(len(whole.operations)):
        path.write_bytes(b"old")
        with faulty(disk):
            write(folder)
        assert path.read_bytes() in (b"old", new)
        ResultsFolder.create(folder.path, overwrite=True)
        assert names(folder.path) == []  # no leftover of any moment stays
        write(folder)


@pytest.mark.parametrize(("name", "write"), WRITES)
def test_a_full_disk_is_named_with_the_file(folder, name, write):
    write(folder)
    with faulty(FaultyDisk()) as disk:
        write(folder)
    number = disk.operations.index(("replace", name)) - 2
    full = FaultyDisk(number, fault=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with faulty(full), pytest.raises(StorageError, match=f"{name}: No space left on device"):
        write(folder)


def test_a_folder_with_results_is_refused(folder):
    folder.write_results([ROW])
    with pytest.raises(UserError, match=r"already holds results\.csv; give --overwrite"):
        ResultsFolder.create(folder.path, overwrite=False)
    assert folder.read_results()


def test_a_users_own_files_are_never_removed_without_being_asked(tmp_path):
    (tmp_path / "figure1.png").write_text("mine")
    with pytest.raises(UserError, match=r"already holds figure1\.png"):
        ResultsFolder.create(tmp_path, overwrite=False)
    assert (tmp_path / "figure1.png").read_text() == "mine"


def test_overwrite_removes_the_programs_files_and_no_others(folder):
    folder.write_results([ROW])
    (folder.path / "notes.txt").write_text("mine")
    ResultsFolder.create(folder.path, overwrite=True)
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_a_study_is_gone_on_with_where_its_config_or_its_runs_are(folder):
    folder.write_config({"a": 1})
    folder.write_results([ROW])
    (folder.path / ".results.csv.123.tmp").touch()
    (folder.path / "runs").mkdir()
    for name in (".LeNet.seeds-0.npz.123.tmp", "LeNet.seeds-0.npz"):
        (folder.path / "runs" / name).touch()
    assert ResultsFolder.open(folder.path, overwrite=False) == folder
    assert names(folder.path) == ["config.json", "results.csv", "runs"]
    assert names(folder.path / "runs") == ["LeNet.seeds-0.npz"]
    (folder.path / "config.json").unlink()
    assert ResultsFolder.open(folder.path, overwrite=False) == folder


def test_files_that_nothing_says_the_meaning_of_are_not_gone_on_with(folder):
    folder.write_results([ROW])
    with pytest.raises(UserError, match=r"already holds results\.csv; give --overwrite"):
        ResultsFolder.open(folder.path, overwrite=False)
    ResultsFolder.open(folder.path, overwrite=True)
    assert names(folder.path) == ["results.csv"]  # until nothing refuses the start
    folder.clear()
    assert names(folder.path) == []


def test_a_folder_is_opened_where_there_is_none(tmp_path):
    folder = ResultsFolder.open(tmp_path / "a" / "b", overwrite=False)
    folder.write_config({"a": 1})
    assert folder.read_config() == {"a": 1}


def test_to_overwrite_removes_the_runs_too_and_the_config_last(folder):
    folder.write_config({"a": 1})
    folder.write_results([ROW])
    (folder.path / "runs").mkdir()
    (folder.path / "runs" / "LeNet.seeds-0.npz").touch()
    (folder.path / "runs" / "LeNet.seeds-0.npz.damaged-1").touch()
    with faulty(FaultyDisk()) as disk:
        folder.clear()
    removed = [operation.name for operation in disk.operations if operation.kind == "unlink"]
    assert removed == ["LeNet.seeds-0.npz", "results.csv", "config.json"]
    assert names(folder.path / "runs") == ["LeNet.seeds-0.npz.damaged-1"]


def test_to_overwrite_removes_nothing_that_only_looks_like_ours(folder):
    theirs = ["runs/my.seeds-x.npz", "runs/LeNet.seeds-0.npz.npz", "sweeps/2026-notes/config.json"]
    for name in (*theirs, "sweeps/1/config.json", "runs/LeNet.seeds-0-2.npz"):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).touch()
    folder.clear()
    left = [path for path in folder.path.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(folder.path)) for path in left) == sorted(theirs)


def test_to_overwrite_removes_nothing_of_a_sweep_that_a_link_shows(folder, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "config.json").touch()
    (folder.path / "sweeps").mkdir()
    (folder.path / "sweeps" / "1").symlink_to(tmp_path / "sweep")
    folder.clear()
    assert (folder.path / "sweeps" / "1" / "config.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    "name", ["config.json", "results.csv", "report.html", "runs/LeNet.seeds-0.npz"]
)
def test_what_has_a_files_name_but_is_none_is_refused_and_stays(folder, name, kind, overwrite):
    (folder.path / "runs").mkdir()
    folder.write_timing([])
    kind(folder.path / name)
    with pytest.raises(UserError, match=f"expected a file of ours or nothing at .*{name};"):
        ResultsFolder.open(folder.path, overwrite)
    assert (folder.path / name).exists()
    assert folder.has("timing.csv")


@pytest.mark.parametrize("name", ["runs", "sweeps"])
@pytest.mark.parametrize("target", ["gone", "there"])
def test_of_links_in_the_place_of_a_folder_only_one_to_runs_that_are_there_is_taken(
    folder, tmp_path, name, target
):
    (tmp_path / "there").mkdir()
    (folder.path / name).symlink_to(tmp_path / target)
    if (name, target) == ("runs", "there"):
        ResultsFolder.open(folder.path, overwrite=True)
        return
    ours = "a folder, no link," if name == "sweeps" else "a file of ours"
    with pytest.raises(UserError, match=f"expected {ours} or nothing at .*/{name};"):
        ResultsFolder.open(folder.path, overwrite=True)


def test_a_file_in_the_place_of_a_folder_of_the_folder_is_refused(folder):
    (folder.path / "runs").write_text("mine")
    with pytest.raises(UserError, match=r"expected a file of ours or nothing at .*/runs;"):
        ResultsFolder.open(folder.path, overwrite=False)


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"--out: cannot write to .*out"):
        ResultsFolder.create(tmp_path / "out", overwrite=False)
