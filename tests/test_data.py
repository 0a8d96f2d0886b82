"""`load` and `normalize`: how data are found and cut, and what a pixel becomes."""

from pathlib import Path

import numpy as np
import pytest

from jax_lenet.data import cache_folder, load, normalize
from tests.mnist_files import LABELS, made_up_arrays, message, write_plain


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain"))


# The three sets


@pytest.mark.parametrize(
    ("train_size", "validation"),
    [(None, 10_000), (1, 10_000), (50_000, 10_000), (55_000, 5_000), (60_000, 0)],
)
def test_validation_is_the_end_of_what_training_leaves(plain_folder, train_size, validation):
    labels = made_up_arrays()[LABELS]
    dataset = load("mnist", plain_folder, train_size)
    size = 50_000 if train_size is None else train_size
    np.testing.assert_array_equal(dataset.train_labels, labels[:size])
    expected = labels[60_000 - validation :]
    np.testing.assert_array_equal(dataset.validation_labels, expected)
    assert dataset.validation_images.shape == (validation, 28, 28)


@pytest.mark.parametrize(
    ("name", "train_size", "available"),
    [("mnist", 60_001, 60_000), ("mnist_sample", 4_001, 4_000)],
)
def test_more_training_digits_than_there_are_is_an_error(plain_folder, name, train_size, available):
    folder = plain_folder if name == "mnist" else None
    text = message(lambda: load(name, folder, train_size))
    assert str(train_size) in text
    assert str(available) in text


@pytest.mark.parametrize("train_size", [0, -1])
def test_fewer_than_one_training_digit_is_an_error(train_size):
    assert str(train_size) in message(lambda: load("mnist_sample", train_size=train_size))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("mnist-sample", "mnist_sample"),
        ("sample", "mnist_sample"),
    ],
)
def test_unknown_name_is_an_error_that_suggests_the_nearest(name, nearest):
    assert f"did you mean '{nearest}'" in message(lambda: load(name))


def test_a_name_that_is_like_none_is_an_error_without_a_suggestion():
    assert message(lambda: load("cifar10")).endswith("mnist_sample, found 'cifar10'")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "found nothing"),
        (Path.touch, "found a file"),
        (Path.mkdir, "found neither"),
        (lambda path: path.symlink_to(path), "found nothing"),
    ],
    ids=["missing", "file", "empty", "link to itself"],
)
def test_a_folder_that_cannot_be_used_is_an_error_never_a_substitute(tmp_path, make, expected):
    folder = tmp_path / "data"
    make(folder)
    assert expected in message(lambda: load("mnist", folder))


def test_a_folder_name_that_the_system_refuses_is_an_error(tmp_path):
    message(lambda: load("mnist", tmp_path / ("x" * 5_000)))


def test_cache_folder_follows_the_xdg_rules(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "jax_lenet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the rules say: ignore it
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "jax_lenet"


# Normalized pixels

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(2, axis=0)


def test_normalize_is_within_rounding_of_the_formula():
    expected = (EVERY_VALUE.astype(np.float64) / 255 - 0.1307) / 0.3081
    found = normalize(EVERY_VALUE)
    assert (found.dtype, found.shape) == (np.float32, (2, 16, 16, 1))
    # Three float32 operations on values below 1, the last a division by 0.3: half a unit in the
    # last place (6e-8) each.
    np.testing.assert_allclose(found[..., 0], expected, rtol=0, atol=3 * 6e-8 / 0.3081)


def test_normalize_has_the_bits_of_pytorchs_operations():
    torch = pytest.importorskip("torch")
    # What torchvision's ToTensor and Normalize do, in their order.
    values = torch.from_numpy(EVERY_VALUE.copy()).to(torch.float32).div(255)
    expected = values.sub(torch.tensor(0.1307)).div(torch.tensor(0.3081))
    np.testing.assert_array_equal(normalize(EVERY_VALUE)[..., 0], expected.numpy(), strict=True)


@pytest.mark.parametrize(
    "images", [np.zeros([2, 28, 28]), np.zeros([28, 28], np.uint8), np.zeros([2, 28, 28], np.int64)]
)
def test_normalize_refuses_what_are_no_images(images):
    with pytest.raises(ValueError, match="expected images uint8"):
        normalize(images)
