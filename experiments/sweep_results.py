"""A sweep's runs, and which rate they show to be best.

The validation images, which no run trains on, choose the rate; the test images have no say in it
and tell what the choice is worth. A run that diverged counts with the accuracy that it ends with,
about that of guessing: whoever picks its rate gets that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jax_lenet.leave_one_out import best_by_others, choice_factor
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import Interval, t_interval
from jax_lenet.two_way import two_way_interval

PROGRAM = "experiments.sweep"
#: Which layers have the rate; None where it is a learning rate.
LAYERS = (None, "drop6", "drop7", "both")


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
