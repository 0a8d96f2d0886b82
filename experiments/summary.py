"""From rows to answers: per variant the total time, first and last accuracy, over all its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.table import Table

from experiments.results import Row
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import t_interval


class Divergence(NamedTuple):
    """A run whose loss became NaN or infinite.

    Attributes:
        variant: the model's name.
        seed: of the run.
        epoch: the first epoch in which it happened, counted from 1.
    """

    variant: str
    seed: int
    epoch: int

    def __str__(self) -> str:
        return (
            f"{self.variant} seed {self.seed} diverged: its loss was NaN or infinite in epoch"
            f" {self.epoch}"
        )


@dataclass(frozen=True)
class Curve:
    """The runs of one variant.

    Attributes:
        variant: the model's name.
        seeds: of the runs.
        test_accuracy: fraction, ``[seeds, epochs]``; not finite where a run has diverged or has
            not come yet.
        total_seconds: of all epochs, training plus testing, ``[seeds]``; NaN for a run that is
            not finished, which tells it from one that diverged.
        diverged: runs whose loss became NaN or infinite.
    """

    variant: str
    seeds: tuple[int, ...]
    test_accuracy: np.ndarray
    total_seconds: np.ndarray
    diverged: tuple[Divergence, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if the shapes do not agree."""
        runs, accuracy = len(self.seeds), np.shape(self.test_accuracy)
        if len(accuracy) != 2 or accuracy[0] != runs or np.shape(self.total_seconds) != (runs,):
            raise ValueError(
                f"{self.variant}: expected test_accuracy [{runs}, epochs] and total_seconds"
                f" [{runs}] for {runs} seeds, got {accuracy} and {np.shape(self.total_seconds)}"
            )

    @property
    def whole(self) -> np.ndarray:
        """Whether a run has a finite accuracy in every epoch, bool ``[seeds]``."""
        return np.all(np.isfinite(self.test_accuracy), axis=1)

    @property
    def mean_accuracy(self) -> np.ndarray:
        """The mean test accuracy by epoch, ``[epochs]``, NaN where there is none.

        It is over the same runs in every epoch, the whole ones where there are any: a mean that
        lost a run half way would jump for no reason of the variant's.
        """
        runs = self.test_accuracy[self.whole] if self.whole.any() else self.test_accuracy
        finite = np.isfinite(runs)
        total = np.where(finite, runs, 0).sum(0)
        return np.where(finite.any(0), total / np.maximum(finite.sum(0), 1), np.nan)


def curves_of(rows: Sequence[Row], epochs: int) -> list[Curve]:
    """Gather the rows of each variant's finished runs, in the order of `VARIANTS`.

    Args:
        rows: of results.csv, in any order.
        epochs: of a finished run; runs with fewer rows are left out.
    """
    return [_curve(variant, runs) for variant, runs in finished_runs(rows, epochs).items()]


def finished_runs(rows: Sequence[Row], epochs: int) -> dict[str, dict[int, list[Row]]]:
    """Sort rows into finished runs: by variant, in the order of `VARIANTS`, and by rising seed.

    Args:
        rows: of results.csv, in any order.
        epochs: of a finished run; runs with fewer rows are left out.
    """
    runs: dict[str, dict[int, list[Row]]] = {variant: {} for variant in VARIANTS}
    for row in sorted(rows, key=lambda row: (row.seed, row.epoch)):
        runs.setdefault(row.variant, {}).setdefault(row.seed, []).append(row)
    finished = {
        variant: {s: run for s, run in runs[variant].items() if len(run) == epochs}
        for variant in VARIANTS
    }
    return {variant: of_variant for variant, of_variant in finished.items() if of_variant}


def _curve(variant: str, runs: dict[int, list[Row]]) -> Curve:
    accuracy = np.array([[row.test_accuracy for row in run] for run in runs.values()])
    diverged = [divergence(run) for run in runs.values()]
    for run, found in enumerate(diverged):
        if found is not None:  # from here on it guesses
            accuracy[run, found.epoch - 1 :] = np.nan
    return Curve(
        variant=variant,
        seeds=tuple(runs),
        test_accuracy=accuracy,
        total_seconds=np.array([sum(row.seconds for row in run) for run in runs.values()]),
        diverged=tuple(found for found in diverged if found is not None),
    )


def divergence(run: Sequence[Row]) -> Divergence | None:
    """Return where a run's loss first became NaN or infinite, if it did."""
    for row in run:
        if not np.isfinite([row.train_loss, row.test_loss]).all():
            return Divergence(row.variant, row.seed, row.epoch)
    return None


def summarize(curves: Sequence[Curve]) -> dict:
    """Return the content of summary.json: means with 95% t intervals over a variant's runs.

    A diverged run has no accuracy from the epoch on in which it diverged. ``diverged`` names it,
    and ``n`` of each interval says how many runs it comes from; without any the value is None.
    """
    return {
        "variants": {
            c.variant: {
                "total_seconds": _finite_interval(c.total_seconds),
                "last_accuracy": _finite_interval(c.test_accuracy[:, -1]),
                "first_epoch_accuracy": _finite_interval(c.test_accuracy[:, 0]),
                "diverged": [{"seed": d.seed, "epoch": d.epoch} for d in c.diverged],
            }
            for c in curves
        }
    }


def _finite_interval(values: np.ndarray) -> dict | None:
    finite = values[np.isfinite(values)]
    return t_interval(finite)._asdict() if len(finite) else None


def table_of(curves: Sequence[Curve]) -> Table:
    """Return the closing table."""
    table = Table(title="Mean over the runs ± half of its 95% t interval", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for name in ("runs", "total time", "first epoch", "last epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in curves:
        table.add_row(
            c.variant,
            str(len(c.seeds)),
            _plus_minus(c.total_seconds, " s"),
            _plus_minus(100 * c.test_accuracy[:, 0], "%"),
            _plus_minus(100 * c.test_accuracy[:, -1], "%"),
        )
    return table


def _plus_minus(values: np.ndarray, unit: str) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "diverged"
    interval = t_interval(finite)
    if interval.high is None:
        return f"{interval.estimate:.2f}{unit}"
    return f"{interval.estimate:.2f} ± {interval.high - interval.estimate:.2f}{unit}"
