import json

import numpy as np
import pytest

from experiments.cli import UserError
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow

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


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["predictions.npz", "test_set.npz"])
def test_arrays_that_cannot_be_read_are_named(folder, name, content):
    (folder.path / name).write_bytes(content)
    read = folder.read_predictions if name == "predictions.npz" else folder.read_test_set
    with pytest.raises(UserError, match=rf"cannot read .*{name}: not NumPy's format"):
        read()


def test_arrays_of_another_shape_are_refused(folder):
    folder.write_predictions({"LeNet": np.zeros(3, np.uint8)})
    with pytest.raises(UserError, match=r"expected uint8 \[seeds, images\] by variant"):
        folder.read_predictions()
    three = LabelledImages(np.zeros((3, 28, 28), np.uint8), np.zeros(2, np.uint8), np.zeros(3))
    folder.write_test_set(three)
    with pytest.raises(UserError, match=r"test_set.npz: expected images \[N, 28, 28\]"):
        folder.read_test_set()


def test_arrays_that_are_not_there_are_named(folder):
    assert not folder.has("predictions.npz")
    with pytest.raises(UserError, match=r"cannot read .*predictions.npz: No such file"):
        folder.read_predictions()


def test_kept_sweeps_are_replaced_as_a_whole_and_go_when_results_are_overwritten(folder):
    files = [{"config.json": b"1", "sweep.csv": b"2"}, {"config.json": b"3", "sweep.csv": b"4"}]
    folder.write_sweeps(files)
    assert (folder.path / "sweeps" / "2" / "sweep.csv").read_bytes() == b"4"
    folder.write_sweeps(files[1:])
    assert [path.name for path in (folder.path / "sweeps").iterdir()] == ["1"]
    assert (folder.path / "sweeps" / "1" / "config.json").read_bytes() == b"3"
    ResultsFolder.create(folder.path, overwrite=True)
    assert not list((folder.path / "sweeps").glob("*"))


def test_no_temporary_file_is_left(folder):
    folder.write_results([ROW])
    folder.write_config({"a": 1})
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "results.csv"]


def test_nan_never_reaches_a_json_file(folder):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_summary({"accuracy": float("nan")})
    assert not (folder.path / "summary.json").exists()


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


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"--out: cannot write to .*out"):
        ResultsFolder.create(tmp_path / "out", overwrite=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns variant,seed"),
        ("a,b\n", "expected the columns variant,seed"),
        (
            "variant,seed,epoch,train_loss,train_accuracy,test_loss,test_accuracy,seconds\nLeNet,1\n",
            "line 2 is not variant,seed",
        ),
        (
            "variant,seed,epoch,train_loss,train_accuracy,test_loss,test_accuracy,seconds\n"
            "LeNet,x,1,1,1,1,1,1\n",
            "line 2 is not variant,seed",
        ),
    ],
)
def test_a_broken_results_csv_is_named_with_its_line(folder, content, message):
    (folder.path / "results.csv").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        folder.read_results()
    assert "results.csv" in str(caught.value)


def test_a_missing_or_broken_config_is_named(folder):
    with pytest.raises(UserError, match=r"cannot read .*config\.json: No such file"):
        folder.read_config()
    (folder.path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: expected JSON"):
        folder.read_config()
    (folder.path / "config.json").write_text(json.dumps({"a": 1}))
    assert folder.read_config() == {"a": 1}
