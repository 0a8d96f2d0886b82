"""Files of a results folder with any bytes in them: read as what they say, or refused in a line."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import npz
from experiments.cli import UserError
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow

ROW = Row("LeNet", 3, 1, 2.3, 0.1, 2.25, 0.9768, 1.5)


@pytest.fixture
def folder(tmp_path):
    return ResultsFolder(tmp_path)


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
    folder.write_predictions({"LeNet": np.full((1, 3), 10, np.uint8)})
    with pytest.raises(UserError, match=r"expected uint8 \[seeds, images\] by variant"):
        folder.read_predictions()


IMAGES, LABELS, WRONG = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8), np.zeros(3, bool)


@pytest.mark.parametrize(
    "test_set",
    [
        LabelledImages(IMAGES[:2], LABELS, WRONG),
        LabelledImages(IMAGES, LABELS[:2], WRONG),
        LabelledImages(IMAGES, LABELS, WRONG[:2]),
        LabelledImages(IMAGES[:, 0], LABELS, WRONG),
        LabelledImages(IMAGES, LABELS[0], WRONG),
        LabelledImages(IMAGES.astype(np.float32), LABELS, WRONG),
        LabelledImages(IMAGES, LABELS.astype(np.int64), WRONG),
        LabelledImages(IMAGES, LABELS + np.uint8(10), WRONG),
        LabelledImages(IMAGES, LABELS, WRONG.astype(np.float64)),
    ],
)
def test_a_test_set_of_other_shapes_dtypes_or_classes_is_refused(folder, test_set):
    folder.write_test_set(test_set)
    with pytest.raises(UserError, match=r"test_set.npz: expected images \[N, 28, 28\]"):
        folder.read_test_set()


def test_arrays_that_are_not_there_are_named(folder):
    assert not folder.has("predictions.npz")
    with pytest.raises(UserError, match=r"cannot read .*predictions.npz: No such file"):
        folder.read_predictions()


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


HEADER = "variant,seed,epoch,train_loss,train_accuracy,test_loss,test_accuracy,seconds\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("LeNet,-1,1,1,1,1,1,1\n", "line 2: expected seed from 0 to 4.29497e+09, not -1"),
        ("LeNet,0,1,1,1,1,1,1\nLeNet,0,0,1,1,1,1,1\n", "line 3: expected epoch from 1"),
        ("LeNet,0,1,1,1.5,1,1,1\n", "expected train_accuracy from 0 to 1, not 1.5"),
        ("LeNet,0,1,1,1,1,nan,1\n", "expected test_accuracy from 0 to 1, not nan"),
        ("LeNet,0,1,1,1,1,1,-1\n", "expected seconds from 0 to 1e+09, not -1.0"),
        ("LeNet,0,1,1,1,1,1,inf\n", "expected seconds from 0 to 1e+09, not inf"),
        ("LeNet,7,1,1,1,1,1,1\n" * 2, "expected each epoch of LeNet seed 7 once"),
        ("LeNet,7,2,1,1,1,1,1\n", "expected each epoch of LeNet seed 7 once"),
        ("LeNet,0," + "9" * 5000 + ",1,1,1,1,1\n", "line 2 is not variant,seed"),
        ("x" * 200_000, "expected the columns variant,seed"),  # beyond what csv takes as a field
        ("LeNet\0,0", "line 2 is not variant,seed"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_line(folder, lines, message):
    (folder.path / "results.csv").write_text(HEADER + lines)
    with pytest.raises(UserError) as caught:
        folder.read_results()
    assert message in str(caught.value)


def test_a_missing_or_broken_config_is_named(folder):
    with pytest.raises(UserError, match=r"cannot read .*config\.json: No such file"):
        folder.read_config()
    (folder.path / "config.json").write_text(json.dumps({"a": 1}))
    assert folder.read_config() == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "1", "null", '"a"', '{"a": NaN}', '{"a": Infinity}', '{"a": 1} x'),
        "\ufeff{}",
        "[" * 100_000,  # deeper than Python's stack
        '{"a": ' + "9" * 5000 + "}",  # more digits than Python reads
    ],
)
def test_a_config_that_is_no_json_object_is_refused(folder, content):
    (folder.path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: expected JSON, an object"):
        folder.read_config()


def test_what_is_no_plain_file_or_too_large_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(npz, "LARGEST", 100)
    path = folder.path / "config.json"
    path.write_bytes(b" " * 101)
    with pytest.raises(UserError, match="not a file of at most 100 bytes"):
        folder.read_config()
    path.unlink()
    os.mkfifo(path)  # to read it would wait for ever
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        folder.read_config()
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        folder.read_config()


READERS = {
    "config.json": ResultsFolder.read_config,
    "results.csv": ResultsFolder.read_results,
    "timing.csv": ResultsFolder.read_timing,
    "predictions.npz": ResultsFolder.read_predictions,
    "test_set.npz": ResultsFolder.read_test_set,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with one small file of each kind, and their bytes."""
    folder = ResultsFolder(tmp_path_factory.mktemp("whole"))
    folder.write_config({"title": "é", "settings": {"epochs": 1, "rate": 0.01}, "list": [1, None]})
    folder.write_results([ROW, ROW._replace(epoch=2), ROW._replace(seed=4)])
    folder.write_timing([TimingRow("LeNet", repeat, 0.25, 0.125) for repeat in (1, 2)])
    folder.write_predictions({"LeNet": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    folder.write_test_set(LabelledImages(IMAGES, LABELS, WRONG))
    return folder, {name: (folder.path / name).read_bytes() for name in READERS}


def read_damaged(folder, name, content):
    """What a reader makes of damaged bytes: its answer, or None after a UserError of one line."""
    (folder.path / name).write_bytes(content)
    try:
        return READERS[name](folder)
    except UserError as error:
        text = str(error)
    assert name in text
    assert "\n" not in text
    return None


@given(name=st.sampled_from(sorted(READERS)), data=st.data())
def test_a_file_cut_anywhere_is_read_as_its_whole_lines_or_refused(whole, name, data):
    folder, contents = whole
    content = contents[name][: data.draw(st.integers(0, len(contents[name]) - 1), label="left")]
    found = read_damaged(folder, name, content)
    if name.endswith(".csv") and content.endswith(b"\n"):
        (folder.path / name).write_bytes(contents[name])
        assert found == READERS[name](folder)[: content.count(b"\n") - 1]
    elif name.endswith(".json"):  # an end of line more or less is none of JSON's
        assert found is None or content == contents[name][:-1]
    else:
        assert found is None


@given(name=st.sampled_from(sorted(READERS)), data=st.data())
def test_changed_bytes_are_refused_or_read_as_what_they_say(whole, name, data):
    folder, contents = whole
    content = bytearray(contents[name])
    for _ in range(data.draw(st.integers(1, 5), label="changes")):
        at = data.draw(st.integers(0, len(content) - 1), label="at")
        content[at] = data.draw(st.integers(0, 255), label="byte")
    read_damaged(folder, name, bytes(content))


@given(name=st.sampled_from(sorted(READERS)), data=st.data(), garbage=st.binary(max_size=50))
def test_garbage_in_any_place_is_refused_or_read_as_what_it_says(whole, name, data, garbage):
    folder, contents = whole
    start = data.draw(st.integers(0, len(contents[name])), label="start")
    end = data.draw(st.integers(start, len(contents[name])), label="end")
    read_damaged(folder, name, contents[name][:start] + garbage + contents[name][end:])


@given(name=st.sampled_from(sorted(READERS)), content=st.binary(max_size=200))
def test_any_bytes_are_refused(whole, name, content):
    folder, _ = whole
    assert read_damaged(folder, name, content) is None


@given(name=st.sampled_from(["results.csv", "timing.csv"]), lines=st.text(max_size=100))
def test_any_text_after_a_good_header_is_refused_or_a_table(whole, name, lines):
    folder, contents = whole
    header = contents[name].split(b"\n")[0] + b"\n"
    read_damaged(folder, name, header + lines.encode(errors="surrogatepass"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_no_file_is_left_open(whole):
    def open_files():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    folder, contents = whole
    before = open_files()
    for name, content in contents.items():
        for damaged in (content, content[:-1], content[: len(content) // 2], b""):
            read_damaged(folder, name, damaged)
    assert open_files() == before
