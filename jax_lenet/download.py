"""The download of MNIST's four files, by tensorflow_datasets' own addresses and checksums.

Nothing here waits without a limit: a probe of a few seconds tells whether the server answers
(looking up a name can hang where there is no network), and the download itself runs in a process
that is ended when its time is up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from jax_lenet.idx import DataError, reading

PROBE_SECONDS = 2.5
DOWNLOAD_SECONDS = 180.0  # 11.6 MB need 65 kB/s


class RemoteFile(NamedTuple):
    """A file to download, with what it must be."""

    url: str
    bytes: int
    sha256: str


def official_files() -> dict[str, RemoteFile]:
    """Returns the four files of tensorflow_datasets' MNIST builder by name."""
    from tensorflow_datasets.image_classification.mnist import MNIST

    infos = MNIST.url_infos
    assert infos, "tensorflow_datasets ships with MNIST's checksums"
    return {
        url.removeprefix(MNIST.URL): RemoteFile(url, int(info.size), info.checksum)
        for url, info in infos.items()
        if url.startswith(MNIST.URL)
    }


def download(folder: Path) -> str:
    """Downloads the four files of MNIST into `folder`, each whole and verified or not at all.

    Args:
        folder: where the files go; it is made if need be.

    Returns:
        The address of the server's folder.

    Raises:
        DataError: the server does not answer, a file is not what it must be, the time is up, or
            `folder` cannot be written.
    """
    files = official_files()
    first = next(iter(files.values()))
    _probe(first.url)
    with reading(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
            _run(Path(scratch), files)
            for name in files:
                (Path(scratch) / name).replace(folder / name)
    return first.url.rpartition("/")[0]


def _probe(url: str) -> None:
    """Asks for `url`'s headers, through the proxy that the environment names, if it names one."""
    import requests

    outcome: list[str] = []

    def ask() -> None:
        try:
            # Longer than the wait below, which then tells a slow server from a refusing one.
            with requests.head(url, timeout=2 * PROBE_SECONDS, allow_redirects=True) as response:
                response.raise_for_status()
            outcome.append("")
        except Exception as error:  # no name, no route, refused, bad proxy, bad certificate, 404
            outcome.append(type(error).__name__)

    # A thread, because no time limit covers the look-up of a name; a daemon, so that one which
    # hangs does not keep the program from ending.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    host = urlsplit(url).hostname
    if not outcome:
        raise DataError(f"{host} does not answer within {PROBE_SECONDS:g} seconds")
    if outcome[0]:
        raise DataError(f"{host} cannot be reached ({outcome[0]})")


def _run(folder: Path, files: dict[str, RemoteFile]) -> None:
    """Runs `_fetch.py` within the time limit."""
    program = Path(__file__).with_name("_fetch.py")
    # -P: this folder must not be on the path, where statistics.py would hide Python's own.
    command = [sys.executable, "-P", str(program)]
    job = json.dumps({"folder": str(folder), "files": files})
    try:
        done = subprocess.run(
            command,
            input=job,
            capture_output=True,
            text=True,
            errors="replace",  # a server's answer may be part of the error
            timeout=DOWNLOAD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        message = f"the download did not end within {DOWNLOAD_SECONDS:g} seconds"
        raise DataError(message) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise DataError(lines[-1] if lines else f"the download ended with code {done.returncode}")
