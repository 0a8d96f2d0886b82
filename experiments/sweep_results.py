"""A sweep's folder: its files, their schema, and which rate they show to be best.

    config.json      every setting, versions, device, data source with sizes and SHA-256
    sweep.csv        one row per run, as it stands after its last epoch: `SweepRow`
    predictions.npz  the class that each run gives each test image, and the right one
    begun.npz        the runs in training, see `experiments.sweep_store`; gone when finished
    sweep.json       per model and layers: accuracy by rate, the rate chosen, its gain
    sweep.png        accuracy by rate

The validation images, which no run trains on, choose the rate; the test images have no say in it
and tell what the choice is worth. A run that diverged counts with the accuracy that it ends with,
about that of guessing: whoever picks its rate gets that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.cli import UserError
from experiments.results import CONFIG, PREDICTIONS, ResultsFolder, agree, are_classes
from jax_lenet.leave_one_out import best_by_others, choice_factor
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import Interval, t_interval
from jax_lenet.two_way import two_way_interval

PROGRAM = "experiments.sweep"
#: Which layers have the rate; None where it is a learning rate.
LAYERS = (None, "drop6", "drop7", "both")
ROWS = "sweep.csv"
BEGUN = "begun.npz"
SUMMARY = "sweep.json"
FIGURE = "sweep.png"
FILES = (CONFIG, ROWS, PREDICTIONS, BEGUN, SUMMARY, FIGURE)


class Point(NamedTuple):
    """What a run is trained with, but for its seed.

    Attributes:
        batch_norm: 1 with bn1, bn3 and bn5, else 0.
        drop6: rate of the dropout behind f6.
        drop7: rate of the dropout behind f7.
        learning_rate: of plain SGD.
    """

    batch_norm: int
    drop6: float
    drop7: float
    learning_rate: float


class Run(NamedTuple):
    """A run: what it is trained with, and its seed."""

    point: Point
    seed: int


class SweepRow(NamedTuple):
    """One run after its last epoch, a line of sweep.csv.

    Attributes:
        batch_norm: as in `Point`, with the three rates that follow.
        drop6: see there.
        drop7: see there.
        learning_rate: see there.
        seed: of the run.
        train_loss: mean loss of the last epoch as minimized, dropout on.
        train_accuracy: fraction of the first 10,000 training images, in evaluation mode.
        validation_accuracy: fraction of the validation images.
        test_accuracy: fraction of the test images.
        diverged: 1 if the loss was ever NaN or infinite, else 0.
        seconds: the whole run, training, keeping and testing, wall clock of the group / its runs.
    """

    batch_norm: int
    drop6: float
    drop7: float
    learning_rate: float
    seed: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    diverged: int
    seconds: float

    @property
    def run(self) -> Run:
        """Whose row it is."""
        return Run(Point(*self[:4]), self.seed)


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


@dataclass(frozen=True)
class Candidates:
    """The rates among which one is chosen, for one model.

    Attributes:
        variant: the model's name. A dropout sweep starts from one without dropout.
        layers: which layers have the rate: ``"drop6"``, ``"drop7"`` or ``"both"``; None where the
            rates are learning rates.
        rates: different, in rising order, the baseline among them.
        learning_rate: of a dropout sweep's runs; of a learning-rate sweep, the baseline.
    """

    variant: str
    layers: str | None
    rates: tuple[float, ...]
    learning_rate: float

    @property
    def baseline(self) -> float:
        """The rate that the others are compared with: no dropout, or the report's learning rate."""
        return self.learning_rate if self.layers is None else 0.0

    def point(self, rate: float) -> Point:
        """Return what the runs of one rate are trained with.

        >>> Candidates("LeNet", "drop7", (0.0, 0.5), 0.01).point(0.5)
        Point(batch_norm=0, drop6=0.0, drop7=0.5, learning_rate=0.01)
        """
        model = VARIANTS[self.variant]
        if self.layers is None:
            drop6, drop7 = (float(own) for own in model.dropout)
            return Point(int(model.batch_norm), drop6, drop7, rate)
        drop6 = 0.0 if self.layers == "drop7" else rate
        drop7 = 0.0 if self.layers == "drop6" else rate
        return Point(int(model.batch_norm), drop6, drop7, self.learning_rate)


def choose(validation_accuracy: np.ndarray) -> int:
    """Return which rate has the highest mean validation accuracy, of equal ones the first.

    Args:
        validation_accuracy: fraction, ``[rates, seeds]``.

    >>> choose(np.array([[0.97, 0.98], [0.98, 0.99], [0.99, 0.98]]))
    1
    """
    means = np.round(validation_accuracy.mean(1), 12)  # without the rounding of the sum
    return int(means.argmax())


@dataclass(frozen=True)
class RateCurve:
    """How well a model does by rate, after the last epoch.

    Attributes:
        candidates: the model and its rates.
        seeds: of the runs, the same for every rate.
        train_accuracy: fraction, in evaluation mode, float64 ``[rates, seeds]``.
        validation_accuracy: the same of the validation images.
        right: whether a run has a test image right, bool ``[rates, seeds, images]``.
        diverged: whether a run's loss was ever NaN or infinite, bool ``[rates, seeds]``.
    """

    candidates: Candidates
    seeds: tuple[int, ...]
    train_accuracy: np.ndarray
    validation_accuracy: np.ndarray
    right: np.ndarray
    diverged: np.ndarray

    @property
    def test_accuracy(self) -> np.ndarray:
        """Fraction of the test images, float64 ``[rates, seeds]``."""
        return self.right.mean(2)

    @property
    def chosen(self) -> int:
        """Index of the rate that the validation images choose."""
        return choose(self.validation_accuracy)

    @property
    def chosen_rate(self) -> float:
        """The rate that the validation images choose."""
        return self.candidates.rates[self.chosen]

    @property
    def baseline(self) -> int:
        """Index of the rate that the others are compared with."""
        return self.candidates.rates.index(self.candidates.baseline)

    @property
    def chosen_by_others(self) -> np.ndarray:
        """Index of the rate that the others choose for each seed, ``[seeds]``."""
        return best_by_others(self.validation_accuracy)

    def right_at(self, rates: np.ndarray) -> np.ndarray:
        """Return which images each seed has right at its rate: 0 or 1, int8 ``[seeds, images]``.

        Args:
            rates: the index of each seed's rate, ``[seeds]``.
        """
        return self.right[rates, np.arange(len(self.seeds))].astype(np.int8)

    @property
    def right_at_baseline(self) -> np.ndarray:
        """The same at the rate that the others are compared with."""
        return self.right[self.baseline].astype(np.int8)

    @property
    def test_differences(self) -> np.ndarray:
        """Right at the rate that the other seeds choose less right at the baseline's.

        ``[seeds, images]``, -1 to 1. Not at `chosen`: a seed's own luck, which shows on the
        validation images and on the test images, would speak for the rate that it helps to choose.
        """
        return self.right_at(self.chosen_by_others) - self.right_at_baseline

    @property
    def test_gain(self) -> Interval | None:
        """Mean of `test_differences`, for other seeds and images; None if the baseline is chosen.

        Its interval allows for what the choices have in common (`jax_lenet.leave_one_out`).
        """
        if self.chosen == self.baseline:
            return None
        factor = choice_factor(self.chosen_by_others)
        return two_way_interval(self.test_differences, seed_factor=factor)

    def without(self, images: np.ndarray) -> "RateCurve":
        """Return the same without some of the test images, bool ``[images]``."""
        return replace(self, right=self.right[..., ~images])

    @property
    def at_end(self) -> bool:
        """Whether the chosen rate is the last one tried in a direction that goes on."""
        lowest = self.chosen == 0 and self.candidates.layers is None
        return lowest or self.chosen == len(self.candidates.rates) - 1


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        curves: one for each model and, in a dropout sweep, choice of layers.
        config: the content of config.json.
        labels: of the test images, as the data set gives them, uint8 ``[images]``.
    """

    curves: tuple[RateCurve, ...]
    config: dict
    labels: np.ndarray

    def without(self, images: np.ndarray) -> "Sweep":
        """Return the same without some of the test images, bool ``[images]``."""
        curves = tuple(curve.without(images) for curve in self.curves)
        return replace(self, curves=curves, labels=self.labels[~images])


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
            {name: (array.dtype, array.shape) for name, array in arrays.items()} != expected
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
    try:
        first, count = config["settings"]["first_seed"], config["settings"]["seeds"]
        candidates = [Candidates(**{**c, "rates": tuple(c["rates"])}) for c in config["candidates"]]
        for c in candidates:
            c.rates.index(c.baseline)
            c.point(c.baseline)
            if c.layers not in LAYERS or not all(isinstance(r, int | float) for r in c.rates):
                raise ValueError(c)
        seeds = range(first, first + min(count, 2**32))
    except (KeyError, TypeError, ValueError):
        raise expected from None
    if not seeds or not candidates:
        raise expected
    return candidates, seeds


def _runs(rows: Sequence[SweepRow], path: Path) -> dict[Run, SweepRow]:
    """Return the rows by run, or say which line cannot be right."""
    runs = {}
    for number, row in enumerate(rows, start=2):
        key = row.run
        if key in runs:
            raise UserError(f"{path}: line {number} has a run that an earlier line has")
        accuracies = row.train_accuracy, row.validation_accuracy, row.test_accuracy
        if not all(0 <= accuracy <= 1 for accuracy in accuracies) or row.diverged not in (0, 1):
            raise UserError(
                f"{path}: line {number}: expected accuracies from 0 to 1 and diverged 0 or 1"
            )
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


def summarize(curves: Sequence[RateCurve]) -> dict:
    """Return the content of sweep.json: intervals over the seeds, and the rate chosen.

    ``test_gain``, the one difference, is for other seeds and other test images; null where the
    baseline itself is chosen.
    """
    return {"curves": [_summary(curve) for curve in curves]}


def _summary(curve: RateCurve) -> dict:
    candidates, gain = curve.candidates, curve.test_gain
    return {
        "variant": candidates.variant,
        "layers": candidates.layers,
        "baseline_rate": candidates.baseline,
        "chosen_rate": curve.chosen_rate,
        "chosen_is_last_tried": curve.at_end,
        "test_accuracy_at_baseline": t_interval(curve.test_accuracy[curve.baseline])._asdict(),
        "test_accuracy_at_chosen": t_interval(curve.test_accuracy[curve.chosen])._asdict(),
        "test_gain": None if gain is None else gain._asdict(),
        "rates": [
            {
                "rate": rate,
                "train_accuracy": t_interval(curve.train_accuracy[k])._asdict(),
                "validation_accuracy": t_interval(curve.validation_accuracy[k])._asdict(),
                "test_accuracy": t_interval(curve.test_accuracy[k])._asdict(),
                "diverged_seeds": [int(s) for s in np.array(curve.seeds)[curve.diverged[k]]],
            }
            for k, rate in enumerate(candidates.rates)
        ],
    }


def in_hundredths(interval: Interval) -> str:
    """Return a mean in percent with half of its interval.

    Args:
        interval: of fractions; symmetric, as Student's is.

    >>> in_hundredths(Interval(0.9812, 0.9802, 0.9822, 8, 0.95, "t"))
    '98.12 ± 0.10'
    """
    mean = f"{100 * interval.estimate:.2f}"
    if interval.high is None:
        return mean
    return f"{mean} ± {100 * (interval.high - interval.estimate):.2f}"


def in_points(interval: Interval) -> str:
    """Return a difference in percentage points with the ends of its interval.

    Args:
        interval: of a difference of fractions.

    >>> in_points(Interval(0.0012, -0.0001, 0.0022, 8, 0.95, "bootstrap of seeds and images"))
    '+0.12 [-0.01, +0.22]'
    """
    ends = [interval.estimate, interval.low, interval.high]
    # + 0.0: never a -0.00
    words = [f"{round(100 * end, 2) + 0.0:+.2f}" for end in ends if end is not None]
    return words[0] if len(words) == 1 else f"{words[0]} [{words[1]}, {words[2]}]"
