"""Records of tensorflow_datasets that are damaged, or that tensorflow_datasets did not write."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_lenet import sources
from jax_lenet.data import load
from tests.mnist_files import REAL, linked, message, needs_mnist


@needs_mnist
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "flipped"])
def test_damaged_records_are_an_error(tmp_path, damage):
    folder = linked(REAL / "tensorflow_datasets" / "mnist" / "3.0.1", tmp_path)
    record = folder / "mnist-train.array_record-00000-of-00001"
    content = bytearray(record.read_bytes())
    record.unlink()
    content[70_000] ^= 1
    record.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "garbage": np.random.default_rng(0).bytes(len(content)),
            "flipped": content,
        }[damage]
    )
    text = message(lambda: load("mnist", folder, cache_dir=tmp_path))
    assert text.startswith(f"{folder}: its records cannot be read (")


DIGITS = np.random.default_rng(3).integers(0, 256, [5, 28, 28]).astype(np.uint8)


def picture(pixels, form="PNG", mode=None):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, form)
    return content.getvalue()


def large_png(side):
    """A PNG that announces side x side grey pixels, and holds none of them."""
    chunks = (
        (b"IHDR", struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def varint(number):
    """An integer in protocol buffers: seven bits a byte, the lowest first."""
    number %= 1 << 64
    digits = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([128 | digit for digit in digits[:-1]] + digits[-1:])


def field(number, *parts):
    """Parts of a protocol buffer, as one of its fields."""
    content = b"".join(parts)
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def example(image, label, names=("image", "label")):
    """A record as tensorflow_datasets writes it: the protocol buffer tf.train.Example."""
    floats, integers = 2, 3
    if isinstance(label, float):
        number = field(floats, field(1, struct.pack("<f", label)))
    else:
        number = field(integers, field(1, varint(label)))
    features = field(1, field(1, image)), number
    entries = zip(names, features, strict=True)
    return field(1, *(field(1, field(1, key.encode()), field(2, of)) for key, of in entries))


INTACT = [example(picture(pixels), label) for label, pixels in enumerate(DIGITS)]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Return a function that writes a directory of three training and two test digits.

    It takes a record to put in the second one's place, and what features.json holds.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    monkeypatch.setattr(sources, "_SPLITS", {"train": 3, "test": 2})
    monkeypatch.setattr(sources, "TRAIN_SIZE", 3)
    monkeypatch.setattr(sources, "TEST_SIZE", 2)
    monkeypatch.setattr(sources, "_read_kept", lambda path: None)

    def write(second=INTACT[1], features="{}", count=3):
        train = {"name": "train", "shardLengths": [2, 1], "filepathTemplate": "/dev/zero"}
        splits = [train, {"name": "test", "shardLengths": ["2"]}]
        info = {"name": "mnist", "fileFormat": "array_record", "splits": splits}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        (tmp_path / "features.json").write_text(features)
        records = [INTACT[0], second, *INTACT[2:]]
        for name, some in (
            ("train.array_record-00000-of-00002", records[:2]),
            ("train.array_record-00001-of-00002", records[2:count]),
            ("test.array_record-00000-of-00001", records[3:]),
        ):
            writer = ArrayRecordWriter(str(tmp_path / f"mnist-{name}"), "group_size:1")
            for record in some:
                writer.write(record)
            writer.close()
        return tmp_path

    return write


def test_records_are_read_in_their_order_from_all_files(prepared):
    digits, files = sources.read_tfds(prepared(), None)
    np.testing.assert_array_equal(digits.train_images, DIGITS[:3], strict=True)
    np.testing.assert_array_equal(digits.test_images, DIGITS[3:], strict=True)
    assert digits.train_labels.tolist() == [0, 1, 2]
    assert digits.test_labels.tolist() == [3, 4]
    assert len(files) == 5


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (b"", "expected an image and a label in each record"),
        (b"no example", "parsing"),
        (example(picture(DIGITS[1]), 10), "expected labels from 0 to 9, train_labels[1] is 10"),
        (example(picture(DIGITS[1]), -1), "expected labels from 0 to 9, train_labels[1] is -1"),
        (example(picture(DIGITS[1]), 1.5), "expected an image and a label in each"),
        (example(picture(DIGITS[1]), 1, ("image", "class")), "expected an image and a label"),
        (example(picture(DIGITS[1]), 1, ("picture", "label")), "expected an image and a label"),
        (example(b"", 1), "expected each image to be a PNG"),
        (example(picture(DIGITS[1])[:-60], 1), "truncated"),
        (example(picture(DIGITS[1], "JPEG"), 1), "expected each image to be a PNG"),
        # Pillow starts Ghostscript for these, which runs what they hold.
        (example(picture(DIGITS[1], "EPS"), 1), "expected each image to be a PNG"),
        (example(picture(DIGITS[1][1:]), 1), "28 x 28 grey pixels, found (28, 27) L"),
        (example(picture(DIGITS[1], mode="RGB"), 1), "28 x 28 grey pixels, found (28, 28) RGB"),
        (example(picture(DIGITS[1], mode="P"), 1), "28 x 28 grey pixels, found (28, 28) P"),
        # 81 megabytes: below what Pillow itself warns of.
        (example(large_png(9_000), 1), "28 x 28 grey pixels, found (9000, 9000) L"),
        (example(large_png(2**31 - 1), 1), "exceeds limit"),
        # A file of a megabyte may hold 60,000 of these.
        (bytes(400_000), "expected records of at most 65,536 bytes, number 1 has 400,000"),
    ],
)
def test_a_foreign_record_is_an_error(prepared, second, expected):
    folder = prepared(second)
    text = message(lambda: sources.read_tfds(folder, None))
    assert text.startswith(f"{folder}: ")
    assert expected in text


def test_few_records_are_in_memory_at_a_time(prepared, monkeypatch):
    from array_record.python.array_record_data_source import ArrayRecordDataSource as Source

    read, batches = Source.__getitems__, []

    def noted(source, numbers):
        batches.append(list(numbers))
        return read(source, numbers)

    monkeypatch.setattr(Source, "__getitems__", noted)
    monkeypatch.setattr(sources, "_RECORDS_AT_ONCE", 2)
    digits, _ = sources.read_tfds(prepared(), None)
    assert batches == [[0, 1], [2], [0, 1]]
    np.testing.assert_array_equal(digits.train_images, DIGITS[:3], strict=True)


def test_fewer_records_than_announced_are_an_error(prepared):
    folder = prepared(count=2)
    expected = f"{folder}: its records cannot be read (expected 3 in train, found 2)"
    assert message(lambda: sources.read_tfds(folder, None)) == expected


def test_a_directory_cannot_have_a_module_imported(prepared, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    features = {"pythonClassName": "trap.Features", "featuresDict": {"features": {}}}
    digits, _ = sources.read_tfds(prepared(features=json.dumps(features)), None)
    assert digits.train_labels.tolist() == [0, 1, 2]
