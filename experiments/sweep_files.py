"""A sweep's folder: its files and their schema.

config.json      every setting, versions, device, data source with sizes and SHA-256
sweep.csv        one row per run, as it stands after its last epoch: `SweepRow`
predictions.npz  the class that each run gives each test image, and the right one
begun.npz        the runs in training, see `experiments.sweep_store`; gone when finished
sweep.json       per model and layers: accuracy by rate, the rate chosen, its gain
sweep.png        accuracy by rate
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import study_config
from experiments.cli import UserError
from experiments.results import CONFIG, PREDICTIONS, ResultsFolder, agree, are_classes
from experiments.sweep_results import (
    LAYERS,
    PROGRAM,
    Candidates,
    Point,
    RateCurve,
    Run,
    Sweep,
    SweepRow,
)

ROWS = "sweep.csv"
BEGUN = "begun.npz"
SUMMARY = "sweep.json"
FIGURE = "sweep.png"
FILES = (CONFIG, ROWS, PREDICTIONS, BEGUN, SUMMARY, FIGURE)


class Outcome(NamedTuple):
    """What a finished run leaves.

    Attributes:
        row: its line of sweep.csv.
        predictions: the class that it gives each test image, uint8 ``[images]``.
    """

    row: SweepRow
    predictions: np.ndarray


class Answers(NamedTuple):
    """What runs take the test images for, the arrays of predictions.npz.

    Attributes:
        labels: as the data set gives them, uint8 ``[images]``.
        predictions: by run, uint8 ``[images]``.
    """

    labels: np.ndarray
    predictions: Mapping[Run, np.ndarray]


class SweepFolder(ResultsFolder):
    """A folder of a sweep; the methods write or read one file each."""

    files = FILES

    def knows_itself(self) -> bool:
        """Tell whether a file other than config.json says whose results these are."""
        return self.has(BEGUN) and not self.has(ROWS)

    def write_outcomes(self, outcomes: Sequence[Outcome], labels: np.ndarray) -> None:
        """Write predictions.npz, then sweep.csv: a run that has a row has predictions.

        Args:
            outcomes: of finished runs.
            labels: of the test images, uint8 ``[images]``.
        """
        runs = [(*outcome.row.run.point, outcome.row.seed) for outcome in outcomes]
        arrays = {
            "labels": labels,
            "runs": np.array(runs, np.float64),
            "predictions": np.array([outcome.predictions for outcome in outcomes], np.uint8),
        }
        self._write_arrays(PREDICTIONS, arrays)
        self.write_sweep_rows(outcome.row for outcome in outcomes)

    def write_sweep_rows(self, rows: Iterable[SweepRow]) -> None:
        """Write sweep.csv."""
        self._write_rows(ROWS, SweepRow._fields, rows)

    def write_sweep_summary(self, summary: dict) -> None:
        """Write sweep.json."""
        self._write_json(SUMMARY, summary)

    def write_figure(self, png: bytes) -> None:
        """Write sweep.png."""
        self._write(FIGURE, png)

    def read_sweep_rows(self) -> list[SweepRow]:
        """Read sweep.csv.

        Raises:
            UserError: if it is missing, or a line is not a `SweepRow`.
        """
        return self._read_rows(ROWS, SweepRow)

    def read_runs(self) -> dict[Run, SweepRow]:
        """Read sweep.csv by run.

        Raises:
            UserError: if it is missing, or a line is not that of a run of its own.
        """
        return _runs(self.read_sweep_rows(), self.path / ROWS)

    def read_answers(self, runs: Mapping[Run, SweepRow]) -> Answers:
        """Read predictions.npz.

        Args:
            runs: of sweep.csv. Those that have predictions must have their accuracy.

        Raises:
            UserError: if it is missing, not the arrays of a sweep, or of other runs.
        """
        path, arrays = self.path / PREDICTIONS, self._read_arrays(PREDICTIONS)
        images = arrays["labels"].size if "labels" in arrays else 0
        count = len(np.atleast_1d(arrays["runs"])) if "runs" in arrays else 0
        expected = {
            "labels": (np.dtype("u1"), (images,)),
            "runs": (np.dtype("f8"), (count, len(Point._fields) + 1)),
            "predictions": (np.dtype("u1"), (count, images)),
        }
        if (
            not images
            or {name: (array.dtype, array.shape) for name, array in arrays.items()} != expected
            or not _are_runs(arrays["runs"])
            or not (are_classes(arrays["labels"]) and are_classes(arrays["predictions"]))
        ):
            raise UserError(f"{path}: expected labels [N], runs [R, 5] and predictions [R, N]")
        labels = arrays["labels"]
        by_run = {
            Run(Point(int(norm), *rates), int(seed)): of_images
            for (norm, *rates, seed), of_images in zip(
                arrays["runs"].tolist(), arrays["predictions"], strict=True
            )
        }
        both = [run for run in by_run if run in runs]
        right = np.array([by_run[run] == labels for run in both]).reshape(len(both), labels.size)
        if not agree(right, np.array([runs[run].test_accuracy for run in both])):
            raise UserError(f"{path}: expected the predictions of the runs in {ROWS}")
        return Answers(labels, by_run)


def read(folder: Path) -> Sweep:
    """Read a finished sweep.

    Args:
        folder: what ``python -m experiments.sweep --out FOLDER`` wrote.

    Raises:
        UserError: if it is another program's folder, unfinished or damaged; in one line.
    """
    files = SweepFolder(folder)
    config = files.read_config()
    candidates, seeds = _plan(config, folder / CONFIG)
    runs = files.read_runs()
    points = {c.point(rate) for c in candidates for rate in c.rates}
    wanted = len(points) * len(seeds)
    missing = wanted - sum(point in points and seed in seeds for point, seed in runs)
    if missing:
        raise UserError(f"{folder / ROWS}: expected {wanted} finished runs, {missing} are missing")
    if not files.has(PREDICTIONS):
        raise UserError(
            f"{folder / PREDICTIONS}: expected the predictions of the sweep's runs; its command,"
            " given again, trains those that have none"
        )
    answers = files.read_answers(runs)
    if not runs.keys() <= answers.predictions.keys():
        raise UserError(f"{folder / PREDICTIONS}: expected the predictions of all runs in {ROWS}")
    curves = tuple(_curve(c, tuple(seeds), runs, answers) for c in candidates)
    return Sweep(curves, config, answers.labels)


def _plan(config: dict, path: Path) -> tuple[list[Candidates], range]:
    """Return what config.json says was to be run, and from which seeds: so many may be no list."""
    expected = UserError(f"{path}: expected the config.json of {PROGRAM}")
    if config.get("program") != PROGRAM:
        raise expected
    study_config.check_sweep(config, path)
    first, count = config["settings"]["first_seed"], config["settings"]["seeds"]
    try:
        candidates = [Candidates(**{**c, "rates": tuple(c["rates"])}) for c in config["candidates"]]
        for c in candidates:
            c.rates.index(c.baseline)
            c.point(c.baseline)
            if c.layers not in LAYERS:
                raise ValueError(c)
    except (KeyError, TypeError, ValueError):
        raise expected from None
    if len({(c.variant, c.layers) for c in candidates}) != max(len(candidates), 1):
        raise expected
    return candidates, range(first, first + min(count, 2**32))


def _runs(rows: Sequence[SweepRow], path: Path) -> dict[Run, SweepRow]:
    """Return the rows by run, or say which line cannot be right."""
    runs = {}
    for number, row in enumerate(rows, start=2):
        key = row.run
        if key in runs:
            raise UserError(f"{path}: line {number} has a run that an earlier line has")
        runs[key] = row
    return runs


def _are_runs(runs: np.ndarray) -> bool:
    """Tell whether rows are different runs: batch norm or not, three rates, a seed."""
    whole = np.isfinite(runs).all() and np.isin(runs[:, 0], (0, 1)).all()
    return bool(whole and (runs[:, 4] % 1 == 0).all() and len(np.unique(runs, axis=0)) == len(runs))


def _curve(
    candidates: Candidates,
    seeds: tuple[int, ...],
    rows: Mapping[Run, SweepRow],
    answers: Answers,
) -> RateCurve:
    points = map(candidates.point, candidates.rates)
    runs = [[Run(point, seed) for seed in seeds] for point in points]

    def of_each(column: str) -> np.ndarray:
        return np.array([[getattr(rows[run], column) for run in of_rate] for of_rate in runs])

    return RateCurve(
        candidates,
        seeds,
        train_accuracy=of_each("train_accuracy"),
        validation_accuracy=of_each("validation_accuracy"),
        right=np.array(
            [[answers.predictions[run] == answers.labels for run in of_rate] for of_rate in runs]
        ),
        diverged=of_each("diverged") == 1,
    )
