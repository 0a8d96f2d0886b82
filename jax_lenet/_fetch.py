"""Downloads files with tensorflow_datasets' DownloadManager: the program that `download.py` starts.

It is a process of its own because the DownloadManager has no time limit, waits for its threads when
Python ends, and draws progress bars; a process can be ended and silenced. It must not import
jax_lenet, which would cost it JAX's start and would need the package on its path.

It reads from standard input, as JSON, `{"folder": FOLDER, "files": {NAME: [URL, BYTES, SHA256]}}`,
and leaves the verified files in FOLDER under those names. Exit code 1: it failed, and the last line
of standard error says why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def fetch(folder: Path, files: dict[str, tuple[str, int, str]]) -> None:
    """Downloads and verifies each (url, bytes, sha256), then gives it its name in `folder`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    manager = tfds.download.DownloadManager(
        download_dir=folder / "downloads",
        url_infos={
            url: UrlInfo(size=Size(size), checksum=sha256, filename=name)
            for name, (url, size, sha256) in files.items()
        },
        force_checksums_validation=True,
    )
    paths = manager.download({name: url for name, (url, _, _) in files.items()})
    for name, path in paths.items():
        Path(path).replace(folder / name)


def main() -> int:
    """Does the job on standard input; returns the exit code."""
    job = json.load(sys.stdin)
    try:
        fetch(Path(job["folder"]), job["files"])
    except Exception as error:  # whatever it is, download.py tells the user in one line
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        print(f"\n{reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
