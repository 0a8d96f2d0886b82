"""The cache and the download of MNIST, and what is done without a network."""

import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from jax_lenet import data, download
from jax_lenet.data import cache_folder, load
from tests.mnist_files import (
    IMAGES,
    LABELS,
    TEST_IMAGES,
    TEST_LABELS,
    made_up_arrays,
    message,
    sha256,
    write_compressed,
)


@pytest.fixture(scope="module")
def gz_folder(tmp_path_factory):
    return write_compressed(tmp_path_factory.mktemp("gz"))


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
    server, tmp_path, capfd, monkeypatch
):
    address, files = server
    first = load(cache_dir=tmp_path)
    assert (first.name, first.source.kind, first.source.notice) == ("mnist", "download", None)
    assert first.source.path == address
    np.testing.assert_array_equal(first.train_images, made_up_arrays()[IMAGES][:50_000])
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


def test_a_download_needs_no_cache_that_can_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    dataset = load(cache_dir=tmp_path / "file" / "cache")
    assert dataset.source.kind == "download"
    np.testing.assert_array_equal(dataset.test_labels, made_up_arrays()[TEST_LABELS])


def through_proxy(monkeypatch, files, proxy):
    """Puts the files on a host that does not exist, behind a proxy that the environment names."""
    for name, file in files.items():
        files[name] = file._replace(url=f"http://mnist.invalid/{name}")
    monkeypatch.setenv("http_proxy", proxy)


def test_a_download_goes_through_the_environments_proxy(server, tmp_path, monkeypatch):
    address, files = server
    through_proxy(monkeypatch, files, address)
    dataset = load(cache_dir=tmp_path)
    assert (dataset.source.kind, dataset.source.path) == ("download", "http://mnist.invalid")
    np.testing.assert_array_equal(dataset.test_labels, made_up_arrays()[TEST_LABELS])


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


def test_a_user_without_a_home_has_no_cache_but_data(monkeypatch, server):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None
    assert load().source.kind == "download"
