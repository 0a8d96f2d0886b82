"""The results folder: its files, their schema, writing and reading.

    config.json      every setting, versions, device, data source with sizes and SHA-256
    results.csv      one row per variant, seed and epoch: `Row`
    timing.csv       one run alone, variants in turn within each repeat: `TimingRow`
    predictions.npz  per variant, the class each finished run gives each test image
    first_predictions.npz  the same after each run's first epoch
    test_set.npz     the test images with their labels: `LabelledImages`
    sweeps/          runs of `experiments.sweep` that the conclusions also draw on: `kept_sweeps`
    summary.json     per variant: total time, first and last accuracy, with intervals; the verdicts
    figure1.png, figure2.png
    report.html      everything on one page
    runs/            where each group of runs stands, to go on from

Files are written as `durable` does, so that a reader never sees half of one. Reading trusts none:
whatever the bytes are, there comes out what the schema says, or a `UserError`.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn, Self

import numpy as np

from experiments import durable, npz, tables
from experiments.cli import StorageError, UserError, never_overwrite_again
from jax_lenet.models import CLASSES

CONFIG = "config.json"
RESULTS = "results.csv"
TIMING = "timing.csv"
PREDICTIONS, FIRST_PREDICTIONS = "predictions.npz", "first_predictions.npz"
TEST_SET = "test_set.npz"
SWEEPS = "sweeps"
#: Of each sweep; config.json, by which one is found, comes last.
KEPT = (PREDICTIONS, "sweep.csv", CONFIG)
SUMMARY = "summary.json"
FIGURES = ("figure1.png", "figure2.png")
REPORT = "report.html"
RUNS = "runs"
#: What is in a folder has names that are narrower than a pattern can say.
_NAMES = {
    RUNS: re.compile(r"\w+\.seeds-\d+(-\d+)?\.npz", re.ASCII),
    SWEEPS: re.compile(r"\d+/[^/]*", re.ASCII),
}


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
    """A folder of results; the methods write or read one file each.

    Writing raises `StorageError` where the disk is full, the folder gone, and the like.

    Attributes:
        path: the folder.
        files: what a folder of this kind holds: patterns of names, as `Path.glob` takes them.
    """

    path: Path

    files: ClassVar[tuple[str, ...]] = (
        CONFIG,
        RESULTS,
        TIMING,
        PREDICTIONS,
        FIRST_PREDICTIONS,
        TEST_SET,
        SUMMARY,
        *FIGURES,
        REPORT,
        *(f"{SWEEPS}/[0-9]*/{name}" for name in KEPT),
        f"{RUNS}/*.seeds-*.npz",
    )

    @classmethod
    def open(cls, path: Path, overwrite: bool) -> Self:
        """Make the folder ready to go on with the study that it holds, or to begin one.

        For its one writer (see `lock`): what killed programs left behind goes.

        Args:
            path: of the folder; it is made where it is missing.
            overwrite: begin one; what is there stays until `clear`, as the start may be refused.

        Raises:
            UserError: if it cannot be written to, has something else than files under their names,
                or has files but nothing that says what they are, and ``overwrite`` is False.
        """
        folder = cls(path)
        with _writing():
            durable.make_folder(path)
        for other in folder._in_the_way():
            ours = "a folder, no link," if other.name == SWEEPS else "a file of ours"
            raise UserError(
                f"--out: expected {ours} or nothing at {other}; move away what is there, or name"
                " another folder"
            )
        with _writing():
            durable.clean(path, cls.files)
        if not folder.has(CONFIG) and not folder.knows_itself():
            cls.check(path, overwrite)
        return folder

    def _in_the_way(self) -> Iterator[Path]:
        """Yield what has a name of ours but cannot be ours: a folder in a file's place, a pipe."""
        folders = {Path(name).parts[0] for name in self.files if "/" in name}
        for path in (self.path / name for name in sorted(folders)):
            # The runs may lie on another disk; of sweeps, a link may show any that the user has.
            linked = path.name == SWEEPS and path.is_symlink()
            if linked or (os.path.lexists(path) and not path.is_dir()):
                yield path
        for path in self.present():
            if not path.is_file():
                yield path

    def knows_itself(self) -> bool:
        """Tell whether a file other than config.json says whose results these are."""
        return any(path.parent.name == RUNS for path in self.present())

    @classmethod
    def create(cls, path: Path, overwrite: bool) -> Self:
        """Make the folder ready for a new study.

        Raises:
            UserError: if it cannot be written to, or holds results and ``overwrite`` is False.
        """
        cls.check(path, overwrite)
        folder = cls.open(path, overwrite)
        if overwrite:
            folder.clear()
        return folder

    @classmethod
    def check(cls, path: Path, overwrite: bool) -> None:
        """Raise UserError if the folder holds results that may not be replaced.

        Apart from `create`, so that a program says so before it reads the data.
        """
        present = [str(file.relative_to(path)) for file in cls(path).present()]
        if present and not overwrite:
            raise UserError(
                f"--out: {path} already holds {', '.join(present)}; give --overwrite to replace"
                " them, or name another folder"
            )

    def present(self) -> list[Path]:
        """Return which of `files` are there."""
        found = (path for name in self.files for path in sorted(self.path.glob(name)))
        return [path for path in found if _is_ours(path, path.relative_to(self.path))]

    def size(self) -> int:
        """Return how many bytes `files` take."""
        return sum(path.lstat().st_size for path in self.present())

    def clear(self) -> None:
        """Remove what is there of `files`, the last first, and the folders that are then empty.

        Raises:
            UserError: if one cannot be removed.
        """
        present = self.present()
        with _writing():
            for path in reversed(present):
                durable.remove(path)
        never_overwrite_again()
        below = {part for path in present for part in path.relative_to(self.path).parents[:-1]}
        for part in sorted(below, reverse=True):
            with contextlib.suppress(OSError):  # where a user's own files are, they stay
                (self.path / part).rmdir()

    def write_config(self, config: dict) -> None:
        """Write config.json."""
        self._write_json(CONFIG, config)

    def write_results(self, rows: Iterable[Row]) -> None:
        """Write results.csv."""
        self._write_rows(RESULTS, Row._fields, rows)

    def write_timing(self, rows: Iterable[TimingRow]) -> None:
        """Write timing.csv."""
        self._write_rows(TIMING, TimingRow._fields, rows)

    def write_predictions(
        self, predictions: Mapping[str, np.ndarray], name: str = PREDICTIONS
    ) -> None:
        """Write predictions.npz or first_predictions.npz.

        Args:
            predictions: by variant, uint8 ``[seeds, test images]``.
            name: of the file.
        """
        self._write_arrays(name, predictions)

    def write_test_set(self, test_set: LabelledImages) -> None:
        """Write test_set.npz."""
        self._write_arrays(TEST_SET, test_set._asdict())

    def write_summary(self, summary: dict) -> None:
        """Write summary.json."""
        self._write_json(SUMMARY, summary)

    def write_report(self, html: str) -> None:
        """Write report.html."""
        # A name that is no text, as a path may be, does not end a study at its last page.
        self._write(REPORT, html.encode(errors="replace"))

    def read_config(self) -> dict:
        """Read config.json.

        Raises:
            UserError: if it is missing or not a JSON object.
        """
        text = self._read(CONFIG)
        try:
            config = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{self.path / CONFIG}: expected JSON, an object")
        return config

    def read_results(self) -> list[Row]:
        """Read results.csv.

        Raises:
            UserError: if it is missing, a line is not a `Row`, or a run's epochs are not 1, 2, ...
        """
        rows, path = self._read_rows(RESULTS, Row), self.path / RESULTS
        epochs: dict[tuple[str, int], list[int]] = {}
        for row in rows:
            epochs.setdefault((row.variant, row.seed), []).append(row.epoch)
        for (variant, seed), found in epochs.items():
            if sorted(found) != list(range(1, len(found) + 1)):
                raise UserError(f"{path}: expected each epoch of {variant} seed {seed} once")
        return rows

    def read_timing(self) -> list[TimingRow]:
        """Read timing.csv.

        Raises:
            UserError: if it is missing, or a line is not a `TimingRow`.
        """
        return self._read_rows(TIMING, TimingRow)

    def read_predictions(self, name: str = PREDICTIONS) -> dict[str, np.ndarray]:
        """Read predictions.npz or first_predictions.npz.

        Raises:
            UserError: if it is missing, or not arrays of classes by seed and image.
        """
        predictions = self._read_arrays(name)
        if any(array.ndim != 2 or not are_classes(array) for array in predictions.values()):
            raise UserError(f"{self.path / name}: expected uint8 [seeds, images] by variant")
        return predictions

    def read_test_set(self) -> LabelledImages:
        """Read test_set.npz.

        Raises:
            UserError: if it is missing, or not the arrays of `LabelledImages`.
        """
        arrays = self._read_arrays(TEST_SET)
        found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        n = arrays["labels"].size if "labels" in arrays else 0
        shapes = {"images": (n, 28, 28), "labels": (n,), "wrong": (n,)}
        dtypes = {"images": np.uint8, "labels": np.uint8, "wrong": np.bool_}
        expected = {name: (np.dtype(dtypes[name]), shapes[name]) for name in shapes}
        if found != expected or not are_classes(arrays["labels"]):
            raise UserError(
                f"{self.path / TEST_SET}: expected images [N, 28, 28], labels [N] and wrong [N]"
            )
        if arrays["wrong"].all():  # the verdicts are made again without those
            raise UserError(f"{self.path / TEST_SET}: expected an image that is not wrong")
        return LabelledImages(**arrays)

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self.path / name).is_file()

    def _write(self, name: str, content: bytes) -> None:
        durable.write(self.path / name, content)

    def _write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self._write(name, npz.encode(arrays, compressed=True))

    def _write_json(self, name: str, content: dict) -> None:
        # NaN is not JSON: whoever puts one here must decide what it means first.
        self._write(name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def _write_rows(self, name: str, columns: Sequence[str], rows: Iterable[tuple]) -> None:
        self._write(name, tables.encode(columns, rows))

    def _read(self, name: str) -> str:
        try:
            return durable.read(self.path / name).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"cannot read {self.path / name}: not text") from None

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        content = durable.read(self.path / name)
        try:
            return npz.decode(content)
        except ValueError as error:
            raise UserError(f"cannot read {self.path / name}: {error}") from None

    def _read_rows(self, name: str, row_type: type) -> list:
        text = self._read(name)
        try:
            return tables.decode(text, row_type)
        except ValueError as error:
            raise UserError(f"{self.path / name}: {error}") from None


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turn what the operating system refuses into the user's mistake: nothing has begun."""
    try:
        yield
    except StorageError as error:
        raise UserError(f"--out: cannot write to {error.path}: {error.reason}") from None


def _is_ours(path: Path, name: Path) -> bool:
    """Tell whether what a pattern of `ResultsFolder.files` fits is what programs make.

    A name must be one that they give, and no sweep that a link shows is the folder's own.
    """
    folder, *rest = name.parts
    if folder == SWEEPS and path.parent.is_symlink():
        return False
    return folder not in _NAMES or bool(_NAMES[folder].fullmatch("/".join(rest)))


def _refuse(constant: str) -> NoReturn:
    """Raise ValueError for what `json` reads beyond JSON: NaN and the infinities."""
    raise ValueError(f"{constant} is not JSON")


def are_classes(array: np.ndarray) -> bool:
    """Tell whether an array holds digits, uint8."""
    return array.dtype == np.uint8 and bool(np.all(array < CLASSES))


def agree(right: np.ndarray, accuracy: np.ndarray) -> bool:
    """Tell whether runs have these accuracies, those that are not NaN.

    Args:
        right: whether each has an image right, bool ``[runs, images]``.
        accuracy: fraction, ``[runs]``.
    """
    # Far above float32's rounding, far below one image of MNIST's 10,000.
    return bool(np.all(np.isnan(accuracy) | (abs(right.mean(1) - accuracy) < 1e-5)))
