"""Folders of IDX files: what is read, and what is said about files that are broken."""

import dataclasses
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jax_lenet.data import load, read_idx
from tests.mnist_files import (
    BROKEN,
    IMAGES,
    LABELS,
    REAL,
    TEST_IMAGES,
    TEST_LABELS,
    bomb,
    break_file,
    header,
    linked,
    made_up_arrays,
    message,
    needs_mnist,
    sha256,
    write_compressed,
    write_plain,
)

# How often each digit occurs in MNIST, as published with it.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def gz_folder(tmp_path_factory):
    return write_compressed(tmp_path_factory.mktemp("gz"))


def test_idx_folder_is_read_whole_and_in_order(plain_folder):
    dataset, arrays = load("mnist", plain_folder), made_up_arrays()
    assert dataset.name == "mnist"
    np.testing.assert_array_equal(dataset.train_images, arrays[IMAGES][:50_000], strict=True)
    np.testing.assert_array_equal(dataset.train_labels, arrays[LABELS][:50_000])
    np.testing.assert_array_equal(dataset.validation_images, arrays[IMAGES][50_000:], strict=True)
    np.testing.assert_array_equal(dataset.validation_labels, arrays[LABELS][50_000:])
    np.testing.assert_array_equal(dataset.test_images, arrays[TEST_IMAGES], strict=True)
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert {dataset.train_labels.dtype, dataset.test_labels.dtype} == {np.dtype(np.int32)}


def test_source_is_json_and_has_each_files_size_and_sha256(gz_folder):
    source = load("mnist", gz_folder).source
    assert json.loads(json.dumps(dataclasses.asdict(source))) == {
        "kind": "idx",
        "path": str(gz_folder),
        "notice": None,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in gz_folder.iterdir()
        },
    }


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_file_names_may_have_a_dot_where_they_have_a_dash(
    plain_folder, gz_folder, tmp_path, suffix
):
    folder, arrays = gz_folder if suffix else plain_folder, made_up_arrays()
    renamed = {f"{name}{suffix}": f"{name.replace('-idx', '.idx')}{suffix}" for name in arrays}
    dataset = load("mnist", linked(folder, tmp_path, **renamed))
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert set(dataset.source.files) == set(renamed.values())


@needs_mnist
def test_mnist_from_idx_files_is_mnist():
    dataset = load("mnist", REAL / "mnist", 60_000)
    assert np.bincount(dataset.train_labels).tolist() == TRAIN_COUNTS
    assert np.bincount(dataset.test_labels).tolist() == TEST_COUNTS
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The constants of `normalize` are this set's, rounded to four places.
    assert dataset.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert dataset.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


# Broken files


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_that_names_it_and_what_was_expected(
    plain_folder, tmp_path, case
):
    folder = linked(plain_folder, tmp_path)
    path, expected = break_file(folder, case)
    text = message(lambda: load("mnist", folder))
    assert expected in text
    if case != "label 10":  # found once all four are read
        assert str(path) in text


def test_swapped_training_and_test_files_are_noticed(plain_folder, tmp_path):
    folder = linked(plain_folder, tmp_path, **{LABELS: TEST_LABELS, TEST_LABELS: LABELS})
    assert "expected 60000 values, its header announces 10000" in message(
        lambda: load("mnist", folder)
    )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_directory_or_a_pipe_in_a_files_place_is_an_error(plain_folder, tmp_path, make):
    folder = linked(plain_folder, tmp_path)
    (folder / LABELS).unlink()
    make(folder / LABELS)
    assert "expected a file" in message(lambda: load("mnist", folder))


def test_an_unreadable_file_is_an_error(plain_folder, monkeypatch):
    # Not by its permissions: they do not stop an administrator, who may run these tests.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in message(lambda: load("mnist", plain_folder))


# Memory is taken only for what is really there


def message_without_memory(path):
    """What is said about a file, having taken two of Python's megabytes at most."""
    tracemalloc.start()
    try:
        text = message(lambda: read_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    return text


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sizes", [(2**32 - 1,), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_header_that_announces_terabytes_takes_no_memory(tmp_path, sizes, suffix):
    path = tmp_path / f"file{suffix}"
    content = header(len(sizes), *sizes) + bytes(100)
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert "bytes can hold" in message_without_memory(path)


def test_a_gzip_bomb_takes_no_more_memory_than_its_header_announces(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(BROKEN["gzip bomb"][1])
    assert "more bytes follow" in message_without_memory(path)


def test_a_gzip_bomb_with_an_honest_header_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(bomb(header(1, 1025 << 20), 1025))
    assert path.stat().st_size < 1_200_000
    assert f"{1025 << 20} values, expected at most {1 << 30}" in message_without_memory(path)


def test_a_file_of_holes_with_an_honest_header_takes_no_memory(tmp_path):
    path = tmp_path / "holes"
    path.write_bytes(header(3, 1 << 12, 1 << 10, 1 << 10))
    os.truncate(path, 16 + (1 << 32))  # a file system keeps nothing for what was never written
    assert f"expected at most {1 << 30}" in message_without_memory(path)
