"""From rows to answers: per variant the total time, first and last accuracy, over all its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.table import Table

from experiments.results import Row
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import Interval, t_interval


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
class Curves:
    """The finished runs of one variant.

    Attributes:
        variant: the model's name.
        seeds: of the runs.
        test_accuracy: fraction, ``[seeds, epochs]``.
        total_seconds: training plus testing, over all epochs, ``[seeds]``.
        diverged: runs whose loss became NaN or infinite.
    """

    variant: str
    seeds: tuple[int, ...]
    test_accuracy: np.ndarray
    total_seconds: np.ndarray
    diverged: tuple[Divergence, ...]


def curves_of(rows: Sequence[Row], epochs: int) -> list[Curves]:
    """Gather the rows of each variant's finished runs, in the order of `VARIANTS`.

    Args:
        rows: of results.csv, in any order.
        epochs: of a finished run; runs with fewer rows are left out.
    """
    runs: dict[str, dict[int, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: (row.seed, row.epoch)):
        runs.setdefault(row.variant, {}).setdefault(row.seed, []).append(row)
    curves = []
    for variant in VARIANTS:
        finished = {s: r for s, r in runs.get(variant, {}).items() if len(r) == epochs}
        if finished:
            curves.append(_curves(variant, finished))
    return curves


def _curves(variant: str, runs: dict[int, list[Row]]) -> Curves:
    return Curves(
        variant=variant,
        seeds=tuple(runs),
        test_accuracy=np.array([[row.test_accuracy for row in run] for run in runs.values()]),
        total_seconds=np.array([sum(row.seconds for row in run) for run in runs.values()]),
        diverged=tuple(d for run in runs.values() if (d := divergence(run)) is not None),
    )


def divergence(run: Sequence[Row]) -> Divergence | None:
    """Return where a run's loss first became NaN or infinite, if it did."""
    for row in run:
        if not np.isfinite([row.train_loss, row.test_loss]).all():
            return Divergence(row.variant, row.seed, row.epoch)
    return None


def summarize(curves: Sequence[Curves]) -> dict:
    """Return the content of summary.json: means with 95% intervals over a variant's runs.

    A diverged run counts with the accuracy that it had; ``diverged`` names it.
    """
    return {
        "variants": {
            c.variant: {
                "total_seconds": t_interval(c.total_seconds)._asdict(),
                "last_accuracy": t_interval(c.test_accuracy[:, -1])._asdict(),
                "first_epoch_accuracy": t_interval(c.test_accuracy[:, 0])._asdict(),
                "diverged": [{"seed": d.seed, "epoch": d.epoch} for d in c.diverged],
            }
            for c in curves
        }
    }


def table_of(curves: Sequence[Curves]) -> Table:
    """Return the closing table."""
    table = Table(title="Mean over the runs ± half of its 95% t interval", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for name in ("runs", "total time", "first epoch", "last epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in curves:
        table.add_row(
            c.variant,
            str(len(c.seeds)),
            _plus_minus(t_interval(c.total_seconds), "s"),
            _plus_minus(t_interval(100 * c.test_accuracy[:, 0]), "%"),
            _plus_minus(t_interval(100 * c.test_accuracy[:, -1]), "%"),
        )
    return table


def _plus_minus(interval: Interval, unit: str) -> str:
    mean, _, high, *_ = interval
    return f"{mean:.2f}{unit}" if high is None else f"{mean:.2f} ± {high - mean:.2f}{unit}"
