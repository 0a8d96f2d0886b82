"""tensorflow_datasets directories: what is read, what is kept of it, and what is refused."""

import io
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_lenet import sources
from jax_lenet.data import DataError, load
from tests.mnist_files import (
    REAL,
    REPOSITORY,
    made_up_arrays,
    message,
    needs_mnist,
    sha256,
)

INFO = {
    "name": "mnist",
    "fileFormat": "array_record",
    "splits": [
        {"name": "train", "shardLengths": ["60000"]},
        {"name": "test", "shardLengths": ["10000"]},
    ],
}


def lengths(*of_train):
    return INFO | {"splits": [{"name": "train", "shardLengths": of_train}, INFO["splits"][1]]}


# The description


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps(INFO | {"name": "fashion_mnist"}), "found 'fashion_mnist'"),
        (json.dumps(INFO | {"fileFormat": "tfrecord"}), "expected array_record files"),
        (json.dumps({k: v for k, v in INFO.items() if k != "fileFormat"}), "found 'tfrecord'"),
        (json.dumps(INFO | {"fileFormat": "x" * 1000}), "found 'xxxxxxxxxxxx...xxxxxxxxxxxxx', "),
        (json.dumps(INFO | {"splits": INFO["splits"][:1]}), "'test': 0"),
        (json.dumps(lengths(30_000, 29_999)), "found {'train': 59999, 'test': 10000}"),
        (json.dumps(lengths(60_001, -1)), "JSON description"),
        (json.dumps(lengths("9" * 4_000, "9" * 4_000)), "JSON description"),
        (json.dumps(lengths(float("inf"))), "JSON description"),
        (json.dumps(INFO | {"splits": None}), "JSON description"),
        (json.dumps([INFO]), "JSON description"),
        (json.dumps(INFO)[:-1], "JSON description"),
        ("[" * 100_000, "JSON description"),
        ("", "JSON description"),
        ("\0", "JSON description"),
        (json.dumps(INFO | {"description": "x" * (1 << 20)}), "JSON description"),
        (json.dumps(INFO), "features.json: the file is missing"),
    ],
)
def test_a_tfds_directory_of_something_else_is_an_error(tmp_path, content, expected):
    version = tmp_path / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text(content)
    assert expected in message(lambda: load("mnist", tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PLACES = [(), ("name",), ("fileFormat",), ("splits",), ("splits", 0), ("splits", 0, "name")]
PLACES += [("splits", 0, "shardLengths"), ("splits", 1, "shardLengths", 0)]


@given(place=st.sampled_from(PLACES), other=JSON)
def test_any_other_description_is_refused_in_one_line_or_means_the_same(
    tmp_path_factory, place, other
):
    info = {"": json.loads(json.dumps(INFO))}
    *parents, name = ("", *place)
    inner = info
    for parent in parents:
        inner = inner[parent]
    inner[name] = other
    folder = tmp_path_factory.mktemp("any")
    (folder / "dataset_info.json").write_text(json.dumps(info[""]))
    text = ""
    try:
        records = sources._record_names(folder)
    except DataError as error:
        text = str(error)
    assert text.startswith(str(folder)) or list(records) == ["train", "test"]
    assert "\n" not in text


def test_the_newest_finished_version_by_number_is_taken(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9", "3.0.11.incompleteABC", "other"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    for folder in (tmp_path, tmp_path / "mnist", tmp_path / "mnist" / "3.0.10"):
        assert sources.find_tfds(folder) == tmp_path / "mnist" / "3.0.10"


# Real directories


@pytest.fixture(scope="module")
def tfds_cache(tmp_path_factory):
    """A cache with the decoded arrays of the real directory, which takes seconds to decode."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def decoded(tfds_cache):
    return load("mnist", REAL / "tensorflow_datasets", 60_000, cache_dir=tfds_cache)


def counted(images, labels):
    """The multiset of (image, label), as sorted bytes."""
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    return sorted(row.tobytes() for row in rows.astype(np.uint8))


@needs_mnist
def test_mnist_from_tfds_holds_the_same_digits_in_the_records_order(decoded):
    original = load("mnist", REAL / "mnist", 60_000)
    assert decoded.source.kind == "tensorflow_datasets"
    assert not np.array_equal(decoded.train_labels, original.train_labels)
    for half in ("train", "test"):
        images, labels = f"{half}_images", f"{half}_labels"
        assert counted(getattr(decoded, images), getattr(decoded, labels)) == counted(
            getattr(original, images), getattr(original, labels)
        )


@needs_mnist
@pytest.mark.usefixtures("decoded")
@pytest.mark.parametrize("below", ["", "mnist", "mnist/3.0.1"])
def test_a_tfds_directory_may_be_named_at_any_of_its_three_levels(tfds_cache, below):
    root = REAL / "tensorflow_datasets"
    source = load("mnist", root / below, cache_dir=tfds_cache).source
    version = root / "mnist" / "3.0.1"
    assert source.path == str(version)
    assert source.files == {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in version.iterdir()
    }


def refuse_to_decode(folder, records):
    raise AssertionError(f"{folder} was decoded again")


@needs_mnist
def test_decoded_arrays_are_kept_and_read_back_bit_for_bit(decoded, tfds_cache, monkeypatch):
    monkeypatch.setattr(sources, "_decode", refuse_to_decode)
    kept = load("mnist", REAL / "tensorflow_datasets", 60_000, cache_dir=tfds_cache)
    assert kept.source == decoded.source
    for half in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(kept, half), getattr(decoded, half), strict=True)


# The arrays that are kept


@pytest.fixture
def digits():
    names = ["train_images", "train_labels", "test_images", "test_labels"]
    arrays = dict(zip(names, made_up_arrays().values(), strict=True))
    return sources.check(arrays, 60_000, 10_000, "made up")


@pytest.fixture
def fake_records(tmp_path, monkeypatch, digits):
    """A tensorflow_datasets directory whose records are made up; the list counts decodings."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    records = sources._record_names(folder)
    for name in ("features.json", *records["train"], *records["test"]):
        (folder / name).write_text(name)
    decodings = []
    monkeypatch.setattr(sources, "_decode", lambda path, _: decodings.append(path) or digits)
    return folder, decodings


def archive(**changes):
    """Kept arrays of which some are others."""
    names = ["train_images", "train_labels", "test_images", "test_labels"]
    content = io.BytesIO()
    np.savez(content, **dict(zip(names, made_up_arrays().values(), strict=True)) | changes)
    return content.getvalue()


class Trap:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:1_000_000] + b"\xff" + content[1_000_001:],
        lambda content: content[:30] + bytes(60) + content[90:],
        lambda content: b"\x80\x04N.",
        lambda content: archive(train_labels=np.array([Trap()] * 60_000)),
        lambda content: archive(test_labels=np.full(10_000, 10)),
        lambda content: archive(train_images=np.zeros([60_000, 28, 28], np.float32)),
    ],
    ids=["empty", "cut", "pixel", "header", "pickle", "pickled array", "label 10", "floats"],
)
def test_a_damaged_cache_of_decoded_arrays_is_rebuilt(fake_records, tmp_path, damage):
    folder, decodings = fake_records
    read = partial(load, "mnist", folder, cache_dir=tmp_path / "cache")
    labels = read().train_labels
    (kept,) = (tmp_path / "cache").iterdir()
    intact = kept.read_bytes()
    kept.write_bytes(damage(intact))
    np.testing.assert_array_equal(read().train_labels, labels)
    assert len(decodings) == 2
    assert kept.read_bytes() == intact


def test_changed_records_are_decoded_again(fake_records, tmp_path):
    folder, decodings = fake_records
    for content in ("one", "two", "two"):
        (folder / sources._record_names(folder)["train"][0]).write_text(content)
        load("mnist", folder, cache_dir=tmp_path / "cache")
    assert len(decodings) == 2


def test_a_cache_that_cannot_be_written_is_no_error(fake_records, tmp_path):
    folder, decodings = fake_records
    (tmp_path / "file").touch()
    for _ in range(2):
        load("mnist", folder, cache_dir=tmp_path / "file" / "cache")
    assert len(decodings) == 2


@needs_mnist
def test_reading_imports_no_framework(tmp_path):
    program = f"""
import sys
from pathlib import Path
from jax_lenet.data import load
heavy = {{"torch", "tensorflow", "tensorflow_datasets", "matplotlib"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for dataset, folder in ("mnist_sample", None), ("mnist", {str(REAL / "mnist")!r}):
    load(dataset, folder and Path(folder))
assert not heavy & set(sys.modules), heavy & set(sys.modules)
load("mnist", Path({str(REAL / "tensorflow_datasets")!r}), cache_dir=Path({str(tmp_path)!r}))
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("['tensorflow_datasets']\n", 0), done.stderr
