"""Files of MNIST for the tests: made-up ones, broken ones, and where the real ones are."""

import functools
import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from jax_lenet.data import DataError

REPOSITORY = Path(__file__).parents[1]
SAMPLE = REPOSITORY / "jax_lenet" / "sample" / "mnist_5k.npz"
REAL = Path(os.environ.get("JAX_LENET_DATA", REPOSITORY.parent / "shared" / "data"))
needs_mnist = pytest.mark.skipif(
    not (REAL / "mnist").is_dir() or not (REAL / "tensorflow_datasets").is_dir(),
    reason="needs MNIST: JAX_LENET_DATA must name a folder with mnist/ (the four IDX files) and "
    "tensorflow_datasets/ (the same, prepared as array_record)",
)

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def header(kind, *sizes):
    """The beginning of an IDX file: 1 for labels, 3 for images, and what it announces."""
    return bytes([0, 0, 8, kind]) + struct.pack(f">{len(sizes)}I", *sizes)


def idx(array):
    return header(array.ndim, *array.shape) + bytes(array)


def made_up(size, seed):
    """`size` digits whose first image row is random, the rest empty, so that they compress well."""
    rng = np.random.default_rng(seed)
    images = np.zeros([size, 28, 28], np.uint8)
    images[:, 0] = rng.integers(0, 256, [size, 28])
    return images, rng.integers(0, 10, size).astype(np.uint8)


@functools.cache
def made_up_arrays():
    """Made-up digits, as many as MNIST has, by file name."""
    train, test = made_up(60_000, 1), made_up(10_000, 2)
    return dict(zip([IMAGES, LABELS, TEST_IMAGES, TEST_LABELS], [*train, *test], strict=True))


def write_plain(folder):
    """Write the four files of the made-up digits; return the folder."""
    for name, array in made_up_arrays().items():
        (folder / name).write_bytes(idx(array))
    return folder


def write_compressed(folder):
    """Write the four files, each with `.gz`; return the folder."""
    for name, array in made_up_arrays().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
    return folder


def linked(folder, tmp_path, **renamed):
    """A folder of links to the files in `folder`, under other names where `renamed` has them."""
    copy = tmp_path / "linked"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / renamed.get(path.name, path.name)).symlink_to(path)
    return copy


def message(call):
    """The message of the DataError that `call` raises: one line."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bomb(content, mebibytes):
    """A small gzip file of the content and so many mebibytes of zeros; gzip files may be joined."""
    return gzip.compress(content) + mebibytes * gzip.compress(bytes(1 << 20))


FULL_LABELS = header(1, 60_000) + bytes(60_000)
FLOATS = b"\0\0\x0d\x03" + header(3, 60_000, 28, 28)[4:]
#: The file that is broken, what it holds instead (None for nothing), what is said about it.
BROKEN = {
    "missing": (LABELS, None, "missing"),
    "empty": (LABELS, b"", "expected an IDX file of labels"),
    "two bytes": (LABELS, b"\0\0", "expected an IDX file of labels"),
    "text": (LABELS, b"<html>Not found</html>", "expected an IDX file of labels"),
    "images in a label file": (LABELS, header(3, 60_000, 28, 28), "found images"),
    "labels in an image file": (IMAGES, FULL_LABELS, "found labels"),
    "floats": (IMAGES, FLOATS, "expected an IDX file of images"),
    "little-endian": (LABELS, FULL_LABELS[3::-1] + FULL_LABELS[4:], "expected an IDX file"),
    "header cut": (IMAGES, header(3, 60_000, 28), "header"),
    "too few": (LABELS, header(1, 59_999) + bytes(59_999), "59999"),
    "too many": (LABELS, header(1, 60_001) + bytes(60_001), "60001"),
    "32 x 32": (IMAGES, header(3, 60_000, 32, 32), "60000 x 28 x 28"),
    "terabytes": (IMAGES, header(3, 2**32 - 1, 28, 28), "4294967295"),
    "cut": (LABELS, FULL_LABELS[:-1], "60000"),
    "longer": (LABELS, FULL_LABELS + b"\0", "more bytes follow"),
    "label 10": (LABELS, FULL_LABELS[:-5] + b"\x0a" + bytes(4), "train_labels[59995] is 10"),
    "no gzip file": (f"{LABELS}.gz", FULL_LABELS, "expected a gzip file"),
    "empty gzip file": (f"{LABELS}.gz", b"", "expected an IDX file of labels"),
    "gzip file cut": (f"{LABELS}.gz", gzip.compress(FULL_LABELS)[:-9], "cut short"),
    "gzip checksum": (f"{LABELS}.gz", gzip.compress(FULL_LABELS)[:-5] + b"\0" * 5, "gzip"),
    "gzip payload cut": (f"{LABELS}.gz", gzip.compress(FULL_LABELS[:-1]), "ends after 59999"),
    "gzip bomb": (f"{LABELS}.gz", bomb(FULL_LABELS, 1024), "more bytes follow"),
}


def break_file(folder, case):
    """Break one file of a `linked` folder; return the file and what is said about it."""
    name, content, expected = BROKEN[case]
    (folder / name.removesuffix(".gz")).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder / name, expected
