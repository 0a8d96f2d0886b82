"""Data sets by name, as checked arrays in host memory.

    >>> from jax_lenet.data import load, normalize
    >>> sample = load("mnist_sample", train_size=3_000)
    >>> sample.train_images.shape, sample.validation_images.shape, sample.test_images.shape
    ((3000, 28, 28), (1000, 28, 28), (1000, 28, 28))
    >>> normalize(sample.train_images[:2]).shape
    (2, 28, 28, 1)

MNIST itself is looked for in this order, the first hit wins: the folder that the user names; the
cache of an earlier download; a download; and, so that everything also runs without a network, 5,000
of its digits that ship with the package. The last is never silent (`Source.notice`), and a folder
that the user names but that cannot be used is an error.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_lenet import sources
from jax_lenet.download import download as download_files
from jax_lenet.idx import DataError, read_idx, reading
from jax_lenet.sources import Digits, Files

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Source",
    "cache_folder",
    "load",
    "normalize",
    "read_idx",
]

DATASETS = ("mnist", "mnist_sample")

# The training pixels' mean and standard deviation, as PyTorch's MNIST examples round them.
MEAN = 0.1307
STANDARD_DEVIATION = 0.3081

# By data set: digits to train on unless told otherwise, and the most that are kept for validation.
_DEFAULT_TRAIN_SIZE = {"mnist": 50_000, "mnist_sample": 4_000}
_VALIDATION_SIZE = {"mnist": 10_000, "mnist_sample": 1_000}


@dataclass(frozen=True)
class Source:
    """Where a data set was read, in plain JSON types.

    Attributes:
        kind: "tensorflow_datasets", "idx", "cache", "download" or "sample".
        path: the folder, file or address it was read from.
        files: by file name `{"bytes": size, "sha256": digest}`.
        notice: one line for the user where this is not what was asked for and why, else None.
    """

    kind: str
    path: str
    files: Files
    notice: str | None


@dataclass(frozen=True)
class Dataset:
    """Images and labels of three sets, in the source's order.

    Attributes:
        name: "mnist" or "mnist_sample": what was read, not what was asked for.
        train_images: uint8 [N, 28, 28], 0 is background.
        train_labels: int32 [N], 0 to 9.
        validation_images: uint8 [V, 28, 28]; V may be 0.
        validation_labels: int32 [V].
        test_images: uint8 [M, 28, 28].
        test_labels: int32 [M].
        source: where it was read.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: Source


def load(
    name: str = "mnist",
    data_dir: Path | None = None,
    train_size: int | None = None,
    *,
    cache_dir: Path | None = None,
    download: bool = True,
) -> Dataset:
    """Loads a data set and splits it into training, validation and test set.

    Training is on the first `train_size` digits in the source's order; validation has the last of
    the digits that this leaves, at most 10,000 (of the sample, 1,000).

    Args:
        name: "mnist", or "mnist_sample" for the 5,000 digits that ship with the package.
        data_dir: a tensorflow_datasets directory (the one that holds `mnist/3.0.1`, or `mnist`, or
            the version itself), or a folder of MNIST's four IDX files, plain or `.gz`. None looks
            in the cache, then downloads, then takes the sample.
        train_size: digits to train on; None is 50,000 of MNIST's 60,000, all 4,000 of the sample.
        cache_dir: where downloads and decoded images are kept; None is `cache_folder()`.
        download: whether a download may be tried.

    Raises:
        DataError: an unknown name, a `data_dir` that cannot be used, or a `train_size` that is
            more than the data set has.

    Example:
        >>> load("minst")
        Traceback (most recent call last):
        jax_lenet.idx.DataError: expected a data set of mnist, mnist_sample, found 'minst'; ...
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"expected a data set of {', '.join(DATASETS)}, found {name!r}{hint}")
    if train_size is not None and train_size < 1:
        raise DataError(f"expected a train size of at least 1, found {train_size}")
    cache = cache_folder() if cache_dir is None else Path(cache_dir)
    if name == "mnist_sample":
        if data_dir is not None:
            raise DataError(f"{data_dir}: mnist_sample is part of the package and reads no folder")
        digits, source = _sample(notice=None)
    elif data_dir is not None:
        digits, source = _from_folder(Path(data_dir), cache)
    else:
        digits, source = _from_cache_or_network(cache, download)
    return _split(digits, source, train_size)


def normalize(images: np.ndarray) -> np.ndarray:
    """Returns (value / 255 - 0.1307) / 0.3081, computed in float32 as torchvision computes it.

    Args:
        images: uint8 [N, 28, 28].

    Returns:
        float32 [N, 28, 28, 1].

    Raises:
        ValueError: `images` has another type or number of dimensions.

    Example:
        >>> normalize(np.full([1, 28, 28], 255, np.uint8))[0, 0, 0]
        array([2.8214867], dtype=float32)
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(
            f"expected images uint8 [N, 28, 28], found {images.dtype} {list(images.shape)}"
        )
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    table = (values - np.float32(MEAN)) / np.float32(STANDARD_DEVIATION)
    return table[images][..., np.newaxis]  # 256 divisions instead of 47 million


def cache_folder() -> Path | None:
    """Returns the folder for downloads and decoded images, None for a user without a home.

    It is `$XDG_CACHE_HOME/jax_lenet`, or `~/.cache/jax_lenet` where that is unset or relative.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "jax_lenet"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and the user has no entry in the password database
        return None
    return home / ".cache" / "jax_lenet" if home.is_absolute() else None


def _from_folder(folder: Path, cache: Path | None) -> tuple[Digits, Source]:
    """Reads the folder that the user named: that and nothing else."""
    with reading(folder):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise DataError(f"{folder}: expected a folder that holds MNIST, found {found}")
        version = sources.find_tfds(folder)
        if version is not None:
            digits, files = sources.read_tfds(version, cache)
            return digits, Source("tensorflow_datasets", str(version), files, notice=None)
        if any(sources.find_idx(folder).values()):
            digits, files = sources.read_idx_folder(folder)
            return digits, Source("idx", str(folder), files, notice=None)
    raise DataError(
        f"{folder}: expected a tensorflow_datasets directory (with mnist/3.0.1) or the four files "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte, plain or .gz; found neither"
    )


def _from_cache_or_network(cache: Path | None, download: bool) -> tuple[Digits, Source]:
    """Reads an earlier download, else downloads, else falls back to the sample and says why."""
    reasons = []
    kept = None if cache is None else cache / "mnist"
    if kept is not None:
        try:
            with reading(kept):
                if any(sources.find_idx(kept).values()):
                    digits, files = sources.read_idx_folder(kept)
                    return digits, Source("cache", str(kept), files, notice=None)
        except DataError as error:  # a damaged or incomplete cache: a new download replaces it
            reasons.append(str(error))
    if download:
        try:
            return _download(kept)
        except DataError as error:
            reasons.append(str(error))
    else:
        reasons.append("downloading is switched off")
    return _sample(
        f"MNIST itself is not at hand ({'; '.join(reasons)}); this is a sample of 5,000 of its "
        "digits; name a folder that holds all (--data-dir) for the real experiment"
    )


def _download(kept: Path | None) -> tuple[Digits, Source]:
    """Downloads into the cache, or past it where it cannot be written."""
    if kept is not None and _writable(kept):
        address = download_files(kept)
        digits, files = sources.read_idx_folder(kept)
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            address = download_files(Path(scratch))
            digits, files = sources.read_idx_folder(Path(scratch))
    return digits, Source("download", address, files, notice=None)


def _writable(folder: Path) -> bool:
    """Tells by trying: permissions alone know nothing of full or read-only disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _sample(notice: str | None) -> tuple[Digits, Source]:
    digits, path, files = sources.sample()
    return digits, Source("sample", str(path), files, notice)


def _split(digits: Digits, source: Source, train_size: int | None) -> Dataset:
    """Cuts the training half into a training and a validation set."""
    name = "mnist_sample" if source.kind == "sample" else "mnist"
    available = len(digits.train_labels)
    size = _DEFAULT_TRAIN_SIZE[name] if train_size is None else train_size
    if size > available:
        why = f"; {source.notice}" if source.notice else ""
        raise DataError(f"expected a train size from 1 to {available}, found {size}{why}")
    left = min(_VALIDATION_SIZE[name], available - size)
    return Dataset(
        name=name,
        train_images=digits.train_images[:size],
        train_labels=digits.train_labels[:size],
        validation_images=digits.train_images[available - left :],
        validation_labels=digits.train_labels[available - left :],
        test_images=digits.test_images,
        test_labels=digits.test_labels,
        source=source,
    )
