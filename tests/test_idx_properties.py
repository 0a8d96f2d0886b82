"""IDX files of any content: what `read_idx` takes is right, and what it refuses is a DataError."""

import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jax_lenet.data import DataError, read_idx

LABELS = st.integers(1, 20).map(lambda n: (n,))
IMAGES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
ARRAYS = st.one_of(LABELS, IMAGES).flatmap(lambda shape: arrays(np.uint8, shape))


def encode(array):
    """The format's description, written out: 0, 0, 8 (bytes), dimensions, sizes, values."""
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def decode(content):
    """The slow, obvious reader: the array that `content` describes, None if it describes none."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] not in (1, 3):
        return None
    start = 4 + 4 * content[3]
    if len(content) < start:
        return None
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if math.prod(shape) == 0 or math.prod(shape) != len(content) - start:
        return None
    return np.array(list(content[start:]), np.uint8).reshape(shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


def read(folder, content, name="file"):
    """What `read_idx` makes of the content: the array, or None after a DataError of one line."""
    path = folder / name
    path.write_bytes(content)
    try:
        return read_idx(path)
    except DataError as error:
        text = str(error)
    assert str(path) in text
    assert "\n" not in text
    return None


def assert_same(found, expected):
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected, strict=True)


@given(content=st.binary(max_size=40))
def test_any_bytes_are_what_they_describe_or_refused(folder, content):
    assert_same(read(folder, content), decode(content))


@given(kind=st.sampled_from([b"\0\0\x08\x01", b"\0\0\x08\x03"]), rest=st.binary(max_size=40))
def test_any_bytes_after_a_good_magic_number_are_what_they_describe_or_refused(folder, kind, rest):
    assert_same(read(folder, kind + rest), decode(kind + rest))


@given(sizes=st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), payload=st.binary())
def test_a_header_that_announces_anything_is_compared_with_the_file(folder, sizes, payload):
    content = b"\0\0\x08\x03" + struct.pack(">3I", *sizes) + payload
    assert_same(read(folder, content), decode(content))
    assert_same(read(folder, gzip.compress(content, 1), "file.gz"), decode(content))


@given(array=ARRAYS)
def test_what_was_written_is_read_back(folder, array):
    assert_same(read(folder, encode(array)), array)
    assert_same(read(folder, gzip.compress(encode(array)), "file.gz"), array)


@given(array=ARRAYS, shape=st.one_of(LABELS, IMAGES))
def test_only_the_shape_that_was_asked_for_is_read(folder, array, shape):
    path = folder / "file"
    path.write_bytes(encode(array))
    assert_same(read_idx(path, array.shape), array)
    if shape != array.shape:
        with pytest.raises(DataError, match="expected"):
            read_idx(path, shape)


@given(array=ARRAYS, data=st.data())
def test_one_flipped_bit_in_the_header_never_yields_another_array_than_it_says(folder, array, data):
    content = bytearray(encode(array))
    at = data.draw(st.integers(0, 8 * (4 + 4 * array.ndim) - 1), label="bit")
    content[at // 8] ^= 1 << at % 8
    assert_same(read(folder, bytes(content)), decode(content))


@given(array=ARRAYS, data=st.data())
def test_a_file_cut_anywhere_is_refused(folder, array, data):
    content = encode(array)
    cut = data.draw(st.integers(0, len(content) - 1), label="bytes left")
    assert read(folder, content[:cut]) is None
    compressed = gzip.compress(content)
    cut = data.draw(st.integers(0, len(compressed) - 1), label="compressed bytes left")
    assert read(folder, compressed[:cut], "file.gz") is None


@given(array=ARRAYS, tail=st.binary(min_size=1, max_size=10))
def test_bytes_after_the_end_are_refused(folder, array, tail):
    assert read(folder, encode(array) + tail) is None
    assert read(folder, gzip.compress(encode(array) + tail), "file.gz") is None


@given(content=st.binary(max_size=60))
def test_any_bytes_named_gz_are_refused(folder, content):
    # No 60 random bytes are a gzip file of an IDX file: its checksum alone has 32 bits.
    assert read(folder, content, "file.gz") is None


@given(array=ARRAYS, data=st.data())
def test_one_flipped_bit_in_a_gzip_file_is_refused_or_harmless(folder, array, data):
    # Harmless are gzip's own time stamp and the like; the content has a checksum.
    compressed = bytearray(gzip.compress(encode(array)))
    at = data.draw(st.integers(0, 8 * len(compressed) - 1), label="bit")
    compressed[at // 8] ^= 1 << at % 8
    found = read(folder, bytes(compressed), "file.gz")
    if found is not None:
        assert_same(found, array)
