"""A sweep's folder: its files, their schema, and which rate they show to be best.

    config.json  every setting, versions, device, data source with sizes and SHA-256
    sweep.csv    one row per run, as it stands after its last epoch: `SweepRow`
    begun.npz    the runs in training, see `experiments.sweep_store`; gone when they are finished
    sweep.json   per model and layers: accuracy by rate, the rate chosen, its gain in test accuracy
    sweep.png    accuracy by rate

The validation images, which no run trains on, choose the rate; the test images have no say in it
and tell what the choice is worth. A run that diverged counts with the accuracy that it ends with,
about that of guessing: whoever picks its rate gets that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.cli import UserError
from experiments.results import CONFIG, ResultsFolder
from jax_lenet.leave_one_out import best_by_others, leave_one_out_interval
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import Interval, t_interval

PROGRAM = "experiments.sweep"
#: Which layers have the rate; None where it is a learning rate.
LAYERS = (None, "drop6", "drop7", "both")
ROWS = "sweep.csv"
BEGUN = "begun.npz"
SUMMARY = "sweep.json"
FIGURE = "sweep.png"
FILES = (CONFIG, ROWS, BEGUN, SUMMARY, FIGURE)


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
        test_accuracy: the same of the test images.
        diverged: whether a run's loss was ever NaN or infinite, bool ``[rates, seeds]``.
    """

    candidates: Candidates
    seeds: tuple[int, ...]
    train_accuracy: np.ndarray
    validation_accuracy: np.ndarray
    test_accuracy: np.ndarray
    diverged: np.ndarray

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
    def test_differences(self) -> np.ndarray:
        """Test accuracy at the rate that the other seeds choose less the baseline's, ``[seeds]``.

        Not at `chosen`: a seed's own luck, which shows on the validation images and on the test
        images, would speak for the rate that it helps to choose.
        """
        by_others = best_by_others(self.validation_accuracy)
        accuracy = self.test_accuracy[by_others, np.arange(len(self.seeds))]
        return accuracy - self.test_accuracy[self.baseline]

    @property
    def test_gain(self) -> Interval | None:
        """Mean of `test_differences` with its interval; None where the baseline is chosen."""
        if self.chosen == self.baseline:
            return None
        return leave_one_out_interval(self.test_differences)

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
    """

    curves: tuple[RateCurve, ...]
    config: dict


class SweepFolder(ResultsFolder):
    """A folder of a sweep; the methods write or read one file each."""

    files = FILES

    def knows_itself(self) -> bool:
        """Tell whether a file other than config.json says whose results these are."""
        return self.has(BEGUN) and not self.has(ROWS)

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
    return Sweep(tuple(_curve(c, tuple(seeds), runs) for c in candidates), config)


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
        key = Run(Point(*row[:4]), row.seed)
        if key in runs:
            raise UserError(f"{path}: line {number} has a run that an earlier line has")
        accuracies = row.train_accuracy, row.validation_accuracy, row.test_accuracy
        if not all(0 <= accuracy <= 1 for accuracy in accuracies) or row.diverged not in (0, 1):
            raise UserError(
                f"{path}: line {number}: expected accuracies from 0 to 1 and diverged 0 or 1"
            )
        runs[key] = row
    return runs


def _curve(candidates: Candidates, seeds: tuple[int, ...], runs: dict[Run, SweepRow]) -> RateCurve:
    points = map(candidates.point, candidates.rates)
    rows = [[runs[Run(point, seed)] for seed in seeds] for point in points]

    def of_each(column: str) -> np.ndarray:
        return np.array([[getattr(row, column) for row in of_rate] for of_rate in rows])

    return RateCurve(
        candidates,
        seeds,
        train_accuracy=of_each("train_accuracy"),
        validation_accuracy=of_each("validation_accuracy"),
        test_accuracy=of_each("test_accuracy"),
        diverged=of_each("diverged") == 1,
    )


def summarize(curves: Sequence[RateCurve]) -> dict:
    """Return the content of sweep.json: intervals over the seeds, and the rate chosen.

    ``test_gain`` is null where the baseline itself is chosen.
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


def in_hundredths(interval: Interval, sign: str = "") -> str:
    """Return an interval of fractions in percent, or of differences in percentage points.

    Args:
        interval: symmetric, as Student's is.
        sign: ``"+"`` shows the sign of a positive number too.

    >>> in_hundredths(Interval(0.0012, 0.0002, 0.0022, 8, 0.95, "t"), "+")
    '+0.12 ± 0.10'
    """
    mean = f"{round(100 * interval.estimate, 2) + 0.0:{sign}.2f}"  # + 0.0: never a -0.00
    if interval.high is None:
        return mean
    return f"{mean} ± {100 * (interval.high - interval.estimate):.2f}"
