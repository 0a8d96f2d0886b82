"""Where MNIST's arrays come from: a folder of IDX files, a tensorflow_datasets directory, a sample.

Each reader returns checked arrays and the fingerprint of every file that it read, or raises a
DataError. None needs tensorflow, and nothing in a file decides which code runs. A
tensorflow_datasets directory holds one PNG per digit, whose decoding takes seconds, so the decoded
arrays are kept under the SHA-256 of those files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import reprlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jax_lenet.idx import DataError, fingerprint, read_idx, reading, require_file

if TYPE_CHECKING:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

Files = dict[str, dict[str, int | str]]

TRAIN_SIZE = 60_000  # MNIST's official numbers of images
TEST_SIZE = 10_000
IMAGE_SHAPE = (28, 28)
CLASSES = 10

# What the four arrays are called in the files' own names; the dash may also be a dot.
_IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", (TRAIN_SIZE, *IMAGE_SHAPE)),
    "train_labels": ("train-labels-idx1-ubyte", (TRAIN_SIZE,)),
    "test_images": ("t10k-images-idx3-ubyte", (TEST_SIZE, *IMAGE_SHAPE)),
    "test_labels": ("t10k-labels-idx1-ubyte", (TEST_SIZE,)),
}
_SPLITS = {"train": TRAIN_SIZE, "test": TEST_SIZE}
_DESCRIPTION_BYTES = 1 << 20  # MNIST's dataset_info.json has a thousand
# Records are compressed, and may stand for gigabytes: so many are in memory at once. With fewer,
# reading takes longer.
_RECORDS_AT_ONCE = 256
_RECORD_BYTES = 1 << 16  # MNIST's have 459 at most


@dataclass(frozen=True)
class Digits:
    """Both halves of a set of digits, in the source's order.

    Attributes:
        train_images: uint8 [N, 28, 28], 0 is background.
        train_labels: int32 [N], 0 to 9.
        test_images: uint8 [M, 28, 28].
        test_labels: int32 [M].
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def check(arrays: dict[str, np.ndarray], train_size: int, test_size: int, origin: str) -> Digits:
    """Checks four arrays and names them.

    Args:
        arrays: `train_images`, `train_labels`, `test_images`, `test_labels`; images uint8
            [N, 28, 28], labels of any integer type [N].
        train_size: the number of training digits that there must be.
        test_size: the number of test digits that there must be.
        origin: what messages call the source.

    Raises:
        DataError: an array has another shape or type, or a label is not in 0..9.

    Example:
        >>> image, label = np.zeros([1, 28, 28], np.uint8), np.array([12])
        >>> arrays = {"train_images": image, "train_labels": label,
        ...           "test_images": image, "test_labels": label}
        >>> check(arrays, 1, 1, "mine.npz")
        Traceback (most recent call last):
        jax_lenet.idx.DataError: mine.npz: expected labels from 0 to 9, train_labels[0] is 12
    """
    for half, size in (("train", train_size), ("test", test_size)):
        images, labels = arrays[f"{half}_images"], arrays[f"{half}_labels"]
        if images.shape != (size, *IMAGE_SHAPE) or images.dtype != np.uint8:
            raise DataError(
                f"{origin}: expected {half}_images uint8 {[size, *IMAGE_SHAPE]}, "
                f"found {images.dtype} {list(images.shape)}"
            )
        if labels.shape != (size,) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{origin}: expected {half}_labels to be {size} integers, "
                f"found {labels.dtype} {list(labels.shape)}"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
        if wrong.size:
            first = int(wrong[0])
            raise DataError(
                f"{origin}: expected labels from 0 to 9, {half}_labels[{first}] is {labels[first]}"
            )
    return Digits(
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"].astype(np.int32),
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"].astype(np.int32),
    )


def sample() -> tuple[Digits, Path, Files]:
    """Returns the embedded sample (4,000 and 1,000 digits), its path and its fingerprint."""
    resource = resources.files("jax_lenet").joinpath("sample", "mnist_5k.npz")
    content = resource.read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        digits = check(dict(archive), 4_000, 1_000, resource.name)
    sha256 = hashlib.sha256(content).hexdigest()
    return digits, Path(str(resource)), {resource.name: {"sha256": sha256, "bytes": len(content)}}


# A folder of the four IDX files


def find_idx(folder: Path) -> dict[str, Path | None]:
    """Returns the path of each of the four files, None for one that `folder` lacks.

    Each may be plain or gzip-compressed, and spelled `-idx3-ubyte` or `.idx3-ubyte`.
    """
    found: dict[str, Path | None] = {}
    for array, (name, _) in _IDX_FILES.items():
        spellings = (name, f"{name}.gz", name.replace("-idx", ".idx"))
        candidates = (folder / spelling for spelling in (*spellings, f"{spellings[-1]}.gz"))
        found[array] = next((path for path in candidates if path.exists()), None)
    return found


def read_idx_folder(folder: Path) -> tuple[Digits, Files]:
    """Reads the four IDX files of `folder`; see `find_idx` for their names.

    Raises:
        DataError: a file is missing or broken, or holds another number of digits than MNIST.
    """
    arrays: dict[str, np.ndarray] = {}
    files: Files = {}
    for array, path in find_idx(folder).items():
        name, shape = _IDX_FILES[array]
        if path is None:
            raise DataError(f"{folder / name}: the file is missing (plain or .gz)")
        arrays[array] = read_idx(path, shape)
        files[path.name] = fingerprint(path)
    return check(arrays, TRAIN_SIZE, TEST_SIZE, str(folder)), files


# A directory that tensorflow_datasets prepared


def find_tfds(folder: Path) -> Path | None:
    """Returns the newest prepared version of MNIST that `folder` is or holds, None without one.

    `folder` may be the data directory (which holds `mnist/3.0.1`), `mnist`, or the version itself.
    """
    if (folder / "dataset_info.json").exists():
        return folder
    versions = [
        info.parent
        for pattern in ("*/dataset_info.json", "mnist/*/dataset_info.json")
        for info in folder.glob(pattern)
        # tensorflow_datasets calls a version that it is still preparing 3.0.1.incompleteABC.
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def read_tfds(folder: Path, cache: Path | None) -> tuple[Digits, Files]:
    """Reads a version that tensorflow_datasets prepared as array_record, in the records' order.

    Args:
        folder: the directory of the version, such as `mnist/3.0.1`.
        cache: where decoded arrays are kept and looked for; None keeps none.

    Raises:
        DataError: another data set or format, a file missing, or damaged records.
    """
    records = _record_names(folder)
    names = ["dataset_info.json", "features.json", *records["train"], *records["test"]]
    for name in names:
        require_file(folder / name)
    files = {name: fingerprint(folder / name) for name in names}
    content = "".join(f"{name} {files[name]['sha256']}\n" for name in names)
    key = hashlib.sha256(content.encode()).hexdigest()
    kept = None if cache is None else cache / f"mnist-{key[:32]}.npz"
    digits = None if kept is None else _read_kept(kept)
    if digits is None:
        digits = _decode(folder, records)
        if kept is not None:
            _keep(kept, digits)
    return digits, files


def _record_names(folder: Path) -> dict[str, list[str]]:
    """Returns by split the record files that dataset_info.json announces, having checked it."""
    path = folder / "dataset_info.json"
    require_file(path)
    with reading(path), path.open("rb") as stream:
        text = stream.read(_DESCRIPTION_BYTES)  # what is longer is cut, and no JSON any more
    try:
        info = json.loads(text)
        dataset, form = info["name"], info.get("fileFormat", "tfrecord")
        shards = {half["name"]: _shard_lengths(half) for half in info["splits"]}
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
        raise DataError(f"{path}: expected tensorflow_datasets' JSON description") from e
    if dataset != "mnist":
        raise DataError(f"{path}: expected the data set 'mnist', found {reprlib.repr(dataset)}")
    if form != "array_record":
        raise DataError(
            f"{folder}: expected array_record files, found {reprlib.repr(form)}, which only"
            " tensorflow reads; prepare the data set with"
            " tfds.builder('mnist', file_format='array_record')"
        )
    counts = {name: sum(shards.get(name, [])) for name in _SPLITS}
    if counts != _SPLITS:
        raise DataError(f"{path}: expected the splits {_SPLITS}, found {counts}")
    return {
        split: [
            f"mnist-{split}.array_record-{shard:05d}-of-{len(shards[split]):05d}"
            for shard in range(len(shards[split]))
        ]
        for split in _SPLITS
    }


def _shard_lengths(split: dict) -> list[int]:
    lengths = [int(length) for length in split["shardLengths"]]
    if not all(0 < length <= TRAIN_SIZE for length in lengths):
        raise ValueError
    return lengths


def _decode(folder: Path, records: dict[str, list[str]]) -> Digits:
    """Decodes all records: 4 seconds for 70,000, of which Pillow takes 2.

    By the record's own format: tensorflow_datasets would import whatever module features.json
    names, and look for the records wherever dataset_info.json says.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    arrays: dict[str, np.ndarray] = {}
    try:
        for split, size in _SPLITS.items():
            with ArrayRecordDataSource([folder / name for name in records[split]]) as source:
                if len(source) != size:
                    raise ValueError(f"expected {size} in {split}, found {len(source)}")
                images, labels = np.empty([size, *IMAGE_SHAPE], np.uint8), np.empty(size, np.int64)
                for i, record in enumerate(_records(source, size)):
                    images[i], labels[i] = _digit(record)
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
    except Exception as error:  # damage shows as RuntimeError, KeyError, OSError, SyntaxError, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{folder}: its records cannot be read ({reason})") from error
    return check(arrays, TRAIN_SIZE, TEST_SIZE, str(folder))


def _records(source: ArrayRecordDataSource, size: int) -> Iterator[bytes]:
    """Yields the first `size` records in their order, with few of them in memory at a time."""
    for start in range(0, size, _RECORDS_AT_ONCE):
        batch = range(start, min(start + _RECORDS_AT_ONCE, size))
        for number, record in zip(batch, source.__getitems__(batch), strict=True):
            if len(record) > _RECORD_BYTES:
                raise ValueError(
                    f"expected records of at most {_RECORD_BYTES:,} bytes, number {number} has"
                    f" {len(record):,}"
                )
            yield record


def _digit(record: bytes) -> tuple[np.ndarray, int]:
    """Decodes a record, the protocol buffer tf.train.Example with a PNG and a label."""
    from PIL import Image, UnidentifiedImageError
    from tensorflow_datasets.proto import tf_example_pb2

    # Made at import time, which a type checker does not see.
    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
    features = example.features.feature
    images, labels = features["image"].bytes_list.value, features["label"].int64_list.value
    if (len(images), len(labels)) != (1, 1):
        raise ValueError("expected an image and a label in each record")
    try:
        # No other format: for some of those that Pillow knows it starts programs.
        with Image.open(io.BytesIO(images[0]), formats=["PNG"]) as image:
            # Looked at first: a PNG of a kilobyte may stand for gigabytes.
            if image.size != IMAGE_SHAPE or image.mode != "L":
                raise ValueError(f"expected 28 x 28 grey pixels, found {image.size} {image.mode}")
            return np.asarray(image), labels[0]
    except UnidentifiedImageError:
        raise ValueError("expected each image to be a PNG") from None


def _read_kept(path: Path) -> Digits | None:
    """Reads kept arrays; None where there are none, or damaged ones (the archive has CRC-32s)."""
    try:
        # Opened here, because np.load leaves a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return check(dict(archive), TRAIN_SIZE, TEST_SIZE, str(path))
    except Exception:  # a damaged archive may raise nearly anything, and it is only a copy
        return None


def _keep(path: Path, digits: Digits) -> None:
    """Writes the arrays in one step, so that no reader meets half a file; failing is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="mnist-") as scratch:
            written = Path(scratch) / path.name
            np.savez(written, **vars(digits))
            written.replace(path)
