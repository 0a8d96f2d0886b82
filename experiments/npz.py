"""Named arrays as bytes, in NumPy's .npz format, and back: nothing that is read back is trusted."""

import io
import math
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.lib import format as npy

#: Larger arrays, in bytes, are no study's: what a damaged or hostile file may at most take.
LARGEST = 1 << 31
#: Kinds of dtypes that are read: bool, integers, floats, and text of bytes or of code points.
KINDS = "biufSU"


def encode(arrays: Mapping[str, np.ndarray], compressed: bool = False) -> bytes:
    """Return arrays as the content of an .npz file; the same arrays give the same bytes.

    Args:
        arrays: of any shapes and of the dtypes in `KINDS`.
        compressed: whether to spend time on fewer bytes.

    >>> decode(encode({"seeds": np.arange(3)}))
    {'seeds': array([0, 1, 2])}
    """
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, in the order in which they were written.

    Unlike `np.load`, which leaves the end of an array that is longer than its header says unread
    and its checksum unchecked, and makes room for whatever size a header announces.

    Raises:
        ValueError: if a byte is missing or changed, a size is not that of the bytes that are there,
            or an array holds Python objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings():
            warnings.simplefilter("error")
            if len(archive.infolist()) != _count(content):
                raise ValueError("not all arrays that it says it has are there")
            return _arrays(archive)
    except Exception as error:  # zipfile and NumPy raise whatever a changed byte leads them to
        raise ValueError(f"not NumPy's format: {error}") from None


def _count(content: bytes) -> int:
    """Return how many members the archive says it has, at its end, which zipfile does not compare.

    One whose comment were, by a changed byte, as long as the next one's entry would hide that.
    """
    end = content.rfind(b"PK\5\6")  # of the record at the end; its bytes 10 and 11 have the number
    return int.from_bytes(content[end + 10 : end + 12], "little")


def _arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if sum(member.file_size for member in members) > LARGEST:
        raise ValueError(f"it says that it holds more than {LARGEST:,} bytes")
    arrays = {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    if len(arrays) < len(members):
        raise ValueError("two arrays have one name")
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Return one array; reading the member to its end compares its checksum."""
    file = io.BytesIO(archive.read(member))
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, by_columns, dtype = read_header[npy.read_magic(file)](file)
    if dtype.kind not in KINDS:
        raise ValueError(f"{member.filename!r} has the dtype {dtype}")
    values = np.frombuffer(file.read(), dtype)
    if len(values) != math.prod(shape):
        raise ValueError(f"{member.filename!r} has {len(values)} values for the shape {shape}")
    return values.reshape(shape, order="F" if by_columns else "C").copy(order="K")
