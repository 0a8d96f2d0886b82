"""What the user sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments.progress import Screen, say
from experiments.sweep_results import (
    Candidates,
    Point,
    RateCurve,
    SweepRow,
    in_hundredths,
    in_points,
)
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import t_interval

COLUMNS = (
    f"{'batch norm':<12}{'drop6':>6}{'drop7':>7}{'learning rate':>15}{'seed':>6}{'train loss':>12}"
    f"{'train accuracy':>16}{'validation accuracy':>21}{'seconds':>9}"
)


class Display(Screen):
    """Shows the runs as they finish, what runs now, and the time left."""

    def __init__(
        self,
        console: Console,
        candidates: Sequence[Candidates],
        seeds: int,
        epochs: int,
        done: Iterable[SweepRow] = (),
    ):
        """Prepare for runs of so many seeds of each rate, of ``epochs`` epochs each.

        Args:
            console: where to print.
            candidates: what is tried.
            seeds: runs of each rate.
            epochs: of each run.
            done: runs that are there already, from an earlier start.
        """
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs ·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        points = {c.point(rate) for c in candidates for rate in c.rates}
        self._candidates = candidates
        self._accuracy: dict[Point, list[float]] = {point: [] for point in points}
        super().__init__(console, COLUMNS, bar, total=len(points) * seeds * epochs)
        for row in done:
            self._accuracy[Point(*row[:4])].append(row.validation_accuracy)
            self.epoch(epochs)

    def epoch(self, runs: int) -> None:
        """Count a finished epoch of so many runs."""
        self._bar.update(self._task, advance=runs)

    def add(self, rows: Sequence[SweepRow]) -> None:
        """Show finished runs."""
        for row in rows:
            self._accuracy[Point(*row[:4])].append(row.validation_accuracy)
            if not self.console.is_terminal:
                self.say(_line(row))

    def _picture(self) -> Group:
        """Draw the mean validation accuracy so far, by rate and model."""
        table = Table(title="Mean validation accuracy so far (runs)", title_justify="left")
        table.add_column("rate", justify="right")
        for c in self._candidates:
            table.add_column(short_name(c), justify="right")
        for rate in self._candidates[0].rates:
            table.add_row(f"{rate:g}", *(self._cell(c.point(rate)) for c in self._candidates))
        return Group(table, self._bar)

    def _cell(self, point: Point) -> str:
        done = self._accuracy[point]
        return f"{100 * sum(done) / len(done):.2f}% ({len(done)})" if done else ""


def short_name(candidates: Candidates) -> str:
    """Return what tells a curve from the others of its sweep.

    >>> short_name(Candidates("LeNet_BN_noDropout", "drop6", (0.0, 0.5), 0.01))
    'BN, drop6'
    >>> short_name(Candidates("LeNet_BN_drop6", None, (0.01, 0.1), 0.01))
    'LeNet_BN_drop6'
    """
    if candidates.layers is None:
        return candidates.variant
    norm = "BN" if VARIANTS[candidates.variant].batch_norm else "no BN"
    return f"{norm}, {candidates.layers}"


def _line(row: SweepRow) -> str:
    return (
        f"{'yes' if row.batch_norm else 'no':<12}{row.drop6:>6g}{row.drop7:>7g}"
        f"{row.learning_rate:>15g}{row.seed:>6}{row.train_loss:>12.4f}"
        f"{100 * row.train_accuracy:>15.2f}%{100 * row.validation_accuracy:>20.2f}%"
        f"{row.seconds:>9.2f}"
    )


def say_curves(console: Console, curves: Sequence[RateCurve]) -> None:
    """Print the closing table, what to know of the choices, and the runs that diverged."""
    console.print(table_of(curves))
    for curve in curves:
        name = short_name(curve.candidates)
        if curve.at_end:
            say(
                console,
                f"{name}: {curve.chosen_rate:g} is the last rate tried; one further on may be"
                " better",
            )
        for rate, diverged in zip(curve.candidates.rates, curve.diverged, strict=True):
            if diverged.any():
                seeds = [str(s) for s, bad in zip(curve.seeds, diverged, strict=True) if bad]
                say(
                    console,
                    f"{name}: rate {rate:g} diverged with seed {', '.join(seeds)}; such a run"
                    " counts with the accuracy that it ends with",
                )


def table_of(curves: Sequence[RateCurve]) -> Table:
    """Return the closing table: the rate chosen on the validation images, and its test accuracy."""
    table = Table(
        title="Chosen by validation accuracy; test accuracy ± half of its 95% t interval over the"
        " seeds; gain at what the other seeds choose, its 95% interval over seeds and images",
        title_justify="left",
    )
    table.add_column("model", no_wrap=True)
    baseline = f"{curves[0].candidates.baseline:g}"
    for name in ("runs", "chosen", f"test at {baseline}", "test at chosen", "gain, points"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in curves:
        gain = c.test_gain
        table.add_row(
            short_name(c.candidates),
            str(len(c.seeds)),
            f"{c.chosen_rate:g}",
            in_hundredths(t_interval(c.test_accuracy[c.baseline])) + "%",
            in_hundredths(t_interval(c.test_accuracy[c.chosen])) + "%",
            "the same rate" if gain is None else in_points(gain),
        )
    return table
