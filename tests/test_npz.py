"""Arrays in bytes: what was written is read back, and nothing else is ever taken for it."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from numpy.lib import format as npy

from experiments.npz import LARGEST, decode, encode

DTYPES = st.sampled_from(["?", "u1", "<i4", ">i8", "<u4", "f4", "f8", "S3", "<U5"])
ARRAYS = DTYPES.flatmap(lambda dtype: some.arrays(dtype, some.array_shapes(min_dims=0)))
FILES = st.dictionaries(st.sampled_from(["seeds", "params/c1/kernel", "é", "0"]), ARRAYS)


def assert_same(found, written):
    assert list(found) == list(written)
    for name, array in written.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


@given(written=FILES, compressed=st.booleans())
def test_what_was_written_is_read_back_by_us_and_by_numpy(written, compressed):
    content = encode(written, compressed)
    assert_same(decode(content), written)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert_same(dict(archive), written)


@given(written=FILES)
def test_the_same_arrays_give_the_same_bytes(written):
    assert encode(written) == encode({name: array.copy() for name, array in written.items()})


def test_arrays_without_values_and_by_columns_are_read_back():
    arrays = {"none": np.zeros((3, 0), np.float32), "f": np.arange(6).reshape(2, 3).T}
    assert_same(decode(encode(arrays)), arrays)
    assert decode(encode({})) == {}


def test_what_is_read_can_be_changed_and_holds_no_other_memory():
    array = decode(encode({"a": np.zeros(3)}))["a"]
    array[:] = 1
    assert array.base is None


SAMPLE = {"seeds": np.arange(5, dtype=np.uint32), "loss": np.linspace(0, 1, 6).reshape(2, 3)}


@given(data=st.data(), compressed=st.booleans())
def test_a_file_cut_anywhere_is_refused(data, compressed):
    content = encode(SAMPLE, compressed)
    with pytest.raises(ValueError, match=r"^not NumPy's format"):
        decode(content[: data.draw(st.integers(0, len(content) - 1))])


@given(data=st.data(), compressed=st.booleans())
def test_a_changed_byte_is_refused_or_harmless(data, compressed):
    # Harmless are a member's time stamp and the like; the values have a checksum.
    content = bytearray(encode(SAMPLE, compressed))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(content))
    except ValueError:
        return
    assert_same(found, SAMPLE)


def test_every_changed_byte_of_a_file_is_refused_or_harmless():
    """All that a byte can become where no array's content is; one of them hid the second array."""
    written = encode(SAMPLE)
    directory = written.index(b"PK\1\2")
    for at in range(directory, len(written)):
        for change in range(1, 256):
            content = bytearray(written)
            content[at] ^= change
            try:
                found = decode(bytes(content))
            except ValueError:
                continue
            assert_same(found, SAMPLE)


@given(data=st.data(), garbage=st.binary(max_size=60))
def test_garbage_in_the_middle_is_refused_or_harmless(data, garbage):
    content = encode(SAMPLE)
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    try:
        found = decode(content[:start] + garbage + content[end:])
    except ValueError:
        return
    assert_same(found, SAMPLE)


@given(content=st.binary(max_size=100))
def test_any_bytes_are_refused(content):
    with pytest.raises(ValueError, match=r"^not NumPy's format"):
        decode(content)


def archive_of(*members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def member(shape, dtype="|u1", values=b"", version=1):
    """An .npy file whose header says whatever it is told to."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    return npy.magic(version, 0) + len(header).to_bytes(2 * version, "little") + header + values


def test_the_made_up_member_is_right_where_it_says_the_truth():
    for version in (1, 2):
        found = decode(archive_of(("a.npy", member((2,), values=b"\1\2", version=version))))
        assert_same(found, {"a": np.uint8([1, 2])})


LIES = [
    member((10**13,)),  # ten terabytes
    member((10**9, 10**9, 10**9, 10**9), values=b"\0"),
    member((3,), values=b"\1\2"),
    member((1,), values=b"\1\2"),  # np.load reads the first and never sees the checksum
    member((-1, -2), values=b"\1\2"),
    member((-1,), values=b"\1"),
    member((True,), values=b"\1"),
    member("2", values=b"\1\2"),
    member((1,), dtype="|O", values=b"\x80\x04N."),
    member((1,), dtype="|V1", values=b"\1"),
    member((1,), dtype="<M8[s]", values=bytes(8)),
    member((1,), dtype="nonsense", values=b"\1"),
    member((1,), version=3, values=b"\1"),
    member((1,), values=b"\1")[:9],
    b"",
    b"no array",
]


@pytest.mark.parametrize("content", LIES)
def test_a_member_that_is_not_what_it_says_is_refused(content):
    with pytest.raises(ValueError, match=r"^not NumPy's format"):
        decode(archive_of(("a.npy", content)))


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked():
    content = bytearray(archive_of(("a.npy", bytes(1000)), method=zipfile.ZIP_DEFLATED))
    directory = content.rindex(b"PK\1\2")
    content[directory + 24 : directory + 28] = (LARGEST + 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="more than 2,147,483,648 bytes"):
        decode(bytes(content))


def test_two_arrays_of_one_name_are_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = archive_of(("a.npy", member((0,))), ("a.npy", member((0,))))
    with pytest.raises(ValueError, match="two arrays have one name"):
        decode(content)


def test_python_objects_are_neither_written_nor_read():
    objects = {"a": np.array([None, {}], dtype=object)}
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        encode(objects)
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **objects)
    with pytest.raises(ValueError, match=r"'a\.npy' has the dtype object"):
        decode(file.getvalue())
