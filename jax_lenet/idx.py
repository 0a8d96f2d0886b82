"""IDX, the file format of the original MNIST: big-endian header, then unsigned bytes.

A header is a 32-bit magic number (0x08 for unsigned bytes, then the number of dimensions) and one
32-bit size per dimension. MNIST has two kinds: labels (magic 2049, one dimension) and images (magic
2051, three dimensions). Nothing in a file is trusted: what the header announces is compared with
what can be there before memory is taken for it.

Source: the format's description in LeCun, Cortes and Burges, "The MNIST database of handwritten
digits".
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_KINDS = {1: "labels (magic number 2049)", 3: "images (magic number 2051)"}
_MAGIC = 0x0800  # unsigned bytes; the number of dimensions is added
_DEFLATE_LIMIT = 1032  # the most bytes that one byte of a gzip file can stand for (zlib's manual)
_MOST_VALUES = 1 << 30  # where no shape is asked for; EMNIST, the largest of the kin, has half
_CHUNK_BYTES = 1 << 20


class DataError(ValueError):
    """Data that cannot be used: one line that names the file and says what was expected.

    Example:
        >>> raise DataError("labels.gz: the file is missing")
        Traceback (most recent call last):
        jax_lenet.idx.DataError: labels.gz: the file is missing
    """


def read_idx(path: str | os.PathLike[str], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Reads the labels or images of one IDX file, plain or gzip-compressed (a name in `.gz`).

    Args:
        path: the file.
        shape: the shape that the file must have, such as `(60000, 28, 28)`; it is compared with the
            header before anything else is read. None takes what the header announces, up to 2^30
            values: a gzip file of a megabyte may stand for a gigabyte.

    Returns:
        uint8 [N] for a file of labels, uint8 [N, rows, columns] for a file of images.

    Raises:
        DataError: the file is missing, unreadable, empty, cut, too long or too large, no IDX file
            of these two kinds, not of the given shape, or not the gzip file that its name says.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "three-labels"
        >>> file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([5, 0, 4]))
        11
        >>> read_idx(file)
        array([5, 0, 4], dtype=uint8)
    """
    path = Path(path)
    with reading(path):
        require_file(path)
        with gzip.open(path) if _is_compressed(path) else path.open("rb") as stream:
            found = _read_header(path, stream, shape)
            _check_size(path, found, _MOST_VALUES if shape is None else math.prod(shape))
            return _read_pixels(path, stream, found)


def require_file(path: Path) -> None:
    """Raises a DataError unless `path` is a regular file (a pipe or a device could hang a read)."""
    if not path.exists():
        raise DataError(f"{path}: the file is missing")
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found a directory or something else")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the operating system and gzip raise about `path` into a DataError of one line."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a gzip file, found a damaged or other one") from error
    except EOFError as error:
        raise DataError(f"{path}: the gzip file is cut short") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def fingerprint(path: Path) -> dict[str, int | str]:
    """Returns a file's size in bytes and SHA-256: `{"bytes": 11, "sha256": "..."}`."""
    with reading(path), path.open("rb") as stream:
        return {
            "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            "bytes": stream.tell(),
        }


def _read_header(
    path: Path, stream: io.BufferedIOBase, shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Reads magic number and sizes; checks them against `shape` if one is given."""
    expected = " or ".join(_KINDS.values()) if shape is None else _KINDS[len(shape)]
    magic = int.from_bytes(_read_up_to(stream, 4))  # too few bytes make no valid magic number
    dimensions = magic - _MAGIC
    if dimensions not in _KINDS or (shape is not None and dimensions != len(shape)):
        found = _KINDS.get(dimensions, f"magic number {magic}")
        raise DataError(f"{path}: expected an IDX file of {expected}, found {found}")
    header = _read_up_to(stream, 4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: the file ends inside its header")
    found = struct.unpack(f">{dimensions}I", header)
    if shape is not None and found != shape:
        raise DataError(f"{path}: expected {_by(shape)} values, its header announces {_by(found)}")
    if 0 in found:
        raise DataError(f"{path}: expected at least one value, its header announces {_by(found)}")
    return found


def _check_size(path: Path, shape: tuple[int, ...], allowed: int) -> None:
    """Refuses a header that announces more values than the file can hold, or than are allowed."""
    size = path.stat().st_size
    if math.prod(shape) > (size * _DEFLATE_LIMIT if _is_compressed(path) else size):
        raise DataError(f"{_announced(path, shape)}, more than its {size} bytes can hold")
    if math.prod(shape) > allowed:
        raise DataError(f"{_announced(path, shape)}, expected at most {allowed}")


def _read_pixels(path: Path, stream: io.BufferedIOBase, shape: tuple[int, ...]) -> np.ndarray:
    """Reads exactly the bytes of an array of `shape`."""
    expected, announced = math.prod(shape), _announced(path, shape)
    payload = _read_up_to(stream, expected)
    if len(payload) < expected:
        raise DataError(f"{announced}, but the file ends after {len(payload)}")
    # This read also reaches the end of a gzip file, where its checksum is compared.
    if stream.read(1):
        raise DataError(f"{announced}, but more bytes follow")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _read_up_to(stream: io.BufferedIOBase, count: int) -> bytearray:
    """Reads `count` bytes or what there is, taking memory only for bytes that really come."""
    payload = bytearray()  # not bytes: an array over it can be written to, as PyTorch wants
    while len(payload) < count:
        chunk = stream.read(min(_CHUNK_BYTES, count - len(payload)))
        if not chunk:
            break
        payload += chunk
    return payload


def _is_compressed(path: Path) -> bool:
    return path.suffix == ".gz"


def _announced(path: Path, shape: tuple[int, ...]) -> str:
    return f"{path}: its header announces {_by(shape)} = {math.prod(shape)} values"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
