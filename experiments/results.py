"""The results folder: its files, their schema, writing and reading.

    config.json      every setting, versions, device, data source with sizes and SHA-256
    results.csv      one row per variant, seed and epoch: `Row`
    timing.csv       one run alone, variants in turn within each repeat: `TimingRow`
    predictions.npz  per variant, the class each finished run gives each test image
    test_set.npz     the test images with their labels: `LabelledImages`
    sweeps/          runs of `experiments.sweep` that the conclusions also draw on, if any
    summary.json     per variant: total time, first and last accuracy, with intervals; the verdicts
    figure1.png, figure2.png
    report.html      everything on one page

Files are written whole under a temporary name and renamed, so that a reader never sees half of one.
"""

import contextlib
import csv
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.cli import UserError

CONFIG = "config.json"
RESULTS = "results.csv"
TIMING = "timing.csv"
PREDICTIONS = "predictions.npz"
TEST_SET = "test_set.npz"
SWEEPS = "sweeps"
SUMMARY = "summary.json"
FIGURES = ("figure1.png", "figure2.png")
REPORT = "report.html"
FILES = (CONFIG, RESULTS, TIMING, PREDICTIONS, TEST_SET, SUMMARY, *FIGURES, REPORT)


class Row(NamedTuple):
    """One epoch of one run, a line of results.csv.

    Attributes:
        variant: the model's name.
        seed: of the run.
        epoch: counted from 1.
        train_loss: mean loss as minimized, dropout on.
        train_accuracy: fraction of the first 10,000 training images, in evaluation mode.
        test_loss: mean loss on the test images, in evaluation mode.
        test_accuracy: fraction of the test images.
        seconds: the epoch's training plus testing, wall clock of the group / its runs.
    """

    variant: str
    seed: int
    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float


class TimingRow(NamedTuple):
    """One epoch of one run alone, a line of timing.csv.

    Attributes:
        variant: the model's name.
        repeat: counted from 1.
        train_seconds: wall clock of training for one epoch.
        test_seconds: wall clock of one pass over the test images.
    """

    variant: str
    repeat: int
    train_seconds: float
    test_seconds: float


class LabelledImages(NamedTuple):
    """What the runs are tested on, the arrays of test_set.npz.

    Attributes:
        images: uint8 ``[N, 28, 28]``, in the order of predictions.npz.
        labels: as the data set gives them, uint8 ``[N]``.
        wrong: whether reviewers found the label wrong, bool ``[N]``; see `label_errors`.
    """

    images: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class ResultsFolder:
    """A folder of results; the methods write or read one file each."""

    path: Path

    @classmethod
    def create(cls, path: Path, overwrite: bool) -> "ResultsFolder":
        """Make the folder ready for a new study.

        Raises:
            UserError: if it cannot be written, or holds results and ``overwrite`` is False.
        """
        cls.check(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
            if overwrite:
                cls(path).write_sweeps([])
            for name in FILES if overwrite else ():
                (path / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"--out: cannot write to {path}: {error.strerror}") from None
        return cls(path)

    @staticmethod
    def check(path: Path, overwrite: bool) -> None:
        """Raise UserError if the folder holds results that may not be replaced.

        Apart from `create`, so that a program says so before it reads the data.
        """
        present = [name for name in FILES if (path / name).exists()]
        if present and not overwrite:
            raise UserError(
                f"--out: {path} already holds {', '.join(present)}; give --overwrite to replace"
                " them, or name another folder"
            )

    def write_config(self, config: dict) -> None:
        """Write config.json."""
        self._write_json(CONFIG, config)

    def write_results(self, rows: Iterable[Row]) -> None:
        """Write results.csv."""
        self._write_rows(RESULTS, Row._fields, rows)

    def write_timing(self, rows: Iterable[TimingRow]) -> None:
        """Write timing.csv."""
        self._write_rows(TIMING, TimingRow._fields, rows)

    def write_predictions(self, predictions: Mapping[str, np.ndarray]) -> None:
        """Write predictions.npz: by variant, uint8 ``[seeds, test images]``."""
        self._write_arrays(PREDICTIONS, predictions)

    def write_test_set(self, test_set: LabelledImages) -> None:
        """Write test_set.npz."""
        self._write_arrays(TEST_SET, test_set._asdict())

    def write_sweeps(self, sweeps: Sequence[Mapping[str, bytes]]) -> None:
        """Replace the sweeps that are kept here.

        Args:
            sweeps: of each the content of its files, by name.
        """
        for old in (self.path / SWEEPS).glob("[0-9]*"):
            for name in (CONFIG, "sweep.csv"):
                (old / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # where a user's own files are, they stay
                old.rmdir()
        for number, files in enumerate(sweeps, 1):
            folder = ResultsFolder(self.path / SWEEPS / str(number))
            folder.path.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                folder._write(name, content)

    def write_summary(self, summary: dict) -> None:
        """Write summary.json."""
        self._write_json(SUMMARY, summary)

    def read_config(self) -> dict:
        """Read config.json.

        Raises:
            UserError: if it is missing or not JSON.
        """
        try:
            return json.loads(self._read(CONFIG))
        except json.JSONDecodeError:
            raise UserError(f"{self.path / CONFIG}: expected JSON") from None

    def read_results(self) -> list[Row]:
        """Read results.csv.

        Raises:
            UserError: if it is missing, or a line is not a `Row`.
        """
        return self._read_rows(RESULTS, Row)

    def read_timing(self) -> list[TimingRow]:
        """Read timing.csv.

        Raises:
            UserError: if it is missing, or a line is not a `TimingRow`.
        """
        return self._read_rows(TIMING, TimingRow)

    def read_predictions(self) -> dict[str, np.ndarray]:
        """Read predictions.npz.

        Raises:
            UserError: if it is missing, or not arrays of classes by seed and image.
        """
        predictions = self._read_arrays(PREDICTIONS)
        if any(array.ndim != 2 or array.dtype != np.uint8 for array in predictions.values()):
            raise UserError(f"{self.path / PREDICTIONS}: expected uint8 [seeds, images] by variant")
        return predictions

    def read_test_set(self) -> LabelledImages:
        """Read test_set.npz.

        Raises:
            UserError: if it is missing, or not the arrays of `LabelledImages`.
        """
        arrays = self._read_arrays(TEST_SET)
        shapes = {name: array.shape for name, array in arrays.items()}
        n = len(arrays.get("labels", ()))
        if shapes != {"images": (n, 28, 28), "labels": (n,), "wrong": (n,)}:
            raise UserError(
                f"{self.path / TEST_SET}: expected images [N, 28, 28], labels [N] and wrong [N]"
            )
        return LabelledImages(**arrays)

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self.path / name).is_file()

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.write_bytes(content)
            temporary.replace(self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        self._write(name, buffer.getvalue())

    def _write_json(self, name: str, content: dict) -> None:
        # NaN is not JSON: whoever puts one here must decide what it means first.
        self._write(name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def _write_rows(self, name: str, columns: Sequence[str], rows: Iterable[tuple]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        self._write(name, text.getvalue().encode())

    def _read(self, name: str) -> str:
        try:
            return self._read_bytes(name).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"cannot read {self.path / name}: not text") from None

    def _read_bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {self.path / name}: {error.strerror}") from None

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        content = self._read_bytes(name)
        try:
            return dict(np.load(io.BytesIO(content), allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
            raise UserError(f"cannot read {self.path / name}: not NumPy's format") from None

    def _read_rows(self, name: str, row_type: type) -> list:
        lines = list(csv.reader(io.StringIO(self._read(name))))
        columns = row_type._fields
        if not lines or tuple(lines[0]) != columns:
            raise UserError(f"{self.path / name}: expected the columns {','.join(columns)}")
        types = [row_type.__annotations__[column] for column in columns]
        rows = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                rows.append(row_type(*(t(v) for t, v in zip(types, line, strict=True))))
            except ValueError:
                raise UserError(
                    f"{self.path / name}: line {number} is not {','.join(columns)}"
                ) from None
        return rows
