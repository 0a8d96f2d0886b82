"""What the user sees while runs train: a live table on a terminal, plain lines elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from experiments.results import ResultsFolder, Row
from experiments.summary import Curve, table_of
from jax_lenet.data import Dataset

COLUMNS = (
    f"{'variant':<20}{'seed':>6}{'epoch':>8}{'train loss':>12}{'test accuracy':>15}{'seconds':>9}"
)


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def say_source(console: Console, data: Dataset) -> None:
    """Say so if the data are not what was asked for."""
    if data.source.notice:
        say(console, f"Note: {data.source.notice}")


def say_results(
    console: Console, curves: Sequence[Curve], folder: ResultsFolder, verdicts: Sequence[dict] = ()
) -> None:
    """Print the closing tables, the runs that diverged, and where the files are.

    Args:
        console: where to print.
        curves: of the study.
        folder: where its files are.
        verdicts: as in summary.json, if there are any.
    """
    console.print(table_of(curves))
    if verdicts:
        console.print(table_of_verdicts(verdicts))
    for divergence in (d for c in curves for d in c.diverged):
        say(console, str(divergence))
    say(console, f"Results: {folder.path.resolve()}")


def table_of_verdicts(verdicts: Sequence[dict]) -> Table:
    """Return the report's conclusions and the answers, a row each."""
    title = "The report's conclusions, and the answers"
    table = Table(title=title, title_justify="left", expand=True)
    table.add_column("", no_wrap=True)
    table.add_column("conclusion", ratio=2)
    table.add_column("answer", ratio=5)
    for verdict in verdicts:  # as text: brackets are intervals, no markup
        table.add_row(str(verdict["number"]), Text(verdict["claim"]), Text(verdict["sentence"]))
        table.add_section()
    return table


class Screen(ABC):
    """A table above a bar on a terminal, plain lines elsewhere; a context manager.

    Attributes:
        console: where it prints.
    """

    def __init__(self, console: Console, columns: str, bar: Progress, total: int):
        """Prepare to show.

        Args:
            console: where to print.
            columns: the heading of the plain lines.
            bar: without a task.
            total: epochs that are to come, of all runs.
        """
        self.console = console
        self._columns = columns
        self._bar = bar
        self._task = bar.add_task("", total=total, left="")
        # It draws its first picture at once: a subclass has its own fields ready by then.
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._picture)

    def __enter__(self) -> Self:
        """Start to show."""
        if self.console.is_terminal:
            self._live.start()
        else:
            self.say(self._columns)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and leave the last state on the screen."""
        if self.console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line; on a terminal, above the live table."""
        say(self.console, text)

    def now(self, text: str) -> None:
        """Say what runs now: on a terminal beside the bar, elsewhere not at all."""
        self._bar.update(self._task, description=text)

    @abstractmethod
    def _picture(self) -> Group:
        """Return the table above the bar."""


class Display(Screen):
    """Shows the rows as they come, what runs now, and the time left."""

    def __init__(
        self,
        console: Console,
        variants: Sequence[str],
        runs: int,
        epochs: int,
        done: Sequence[Row] = (),
    ):
        """Prepare for ``runs`` runs of each variant, of ``epochs`` epochs each.

        Args:
            console: where to print.
            variants: the models' names.
            runs: of each variant.
            epochs: of each run.
            done: rows that are there already, from an earlier start.
        """
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs · {task.fields[left]}"),
            console=console,
        )
        self._epochs = epochs
        self._latest: dict[str, Row | None] = dict.fromkeys(variants)
        self._finished: dict[str, list[float]] = {variant: [] for variant in variants}
        self._spent: dict[str, tuple[float, int]] = {}  # seconds, and the epochs they gave
        self._remaining = dict.fromkeys(variants, runs * epochs)
        super().__init__(console, COLUMNS, bar, total=len(variants) * runs * epochs)
        for row in done:
            self._count([row])
        self._bar.update(self._task, advance=len(done))

    def __enter__(self) -> Self:
        """Start to show, and the clock."""
        self._clock = perf_counter()
        return super().__enter__()

    def now(self, text: str) -> None:
        """Say what runs now: on a terminal beside the bar, elsewhere not at all."""
        super().now(text)
        self._clock = perf_counter()

    def add(self, rows: Sequence[Row]) -> None:
        """Show one finished epoch of a group of runs of one variant."""
        elapsed = perf_counter() - self._clock
        self._clock = perf_counter()
        seconds, epochs = self._spent.get(rows[0].variant, (0.0, 0))
        self._spent[rows[0].variant] = seconds + elapsed, epochs + len(rows)
        self._count(rows)
        left = f"{_duration(self.seconds_left())} left"
        self._bar.update(self._task, advance=len(rows), left=left)
        if not self.console.is_terminal:
            for row in rows:
                self.say(_line(row))

    def _count(self, rows: Sequence[Row]) -> None:
        variant = rows[0].variant
        self._latest[variant] = rows[-1]
        self._remaining[variant] -= len(rows)
        if rows[0].epoch == self._epochs:
            self._finished[variant] += [row.test_accuracy for row in rows]

    def seconds_left(self) -> float:
        """Estimate the time left by each variant's mean; one that has not run counts as theirs.

        By the mean, since where several processes train an epoch's time is what passed since the
        last one of whatever variant: all of them together make the clock's.
        """
        known = {variant: seconds / epochs for variant, (seconds, epochs) in self._spent.items()}
        if not known:
            return 0.0
        typical = sum(known.values()) / len(known)
        return sum(n * known.get(variant, typical) for variant, n in self._remaining.items())

    def _picture(self) -> Group:
        table = Table()
        table.add_column("variant", no_wrap=True)
        for name in (
            "runs done",
            "seed",
            "epoch",
            "train loss",
            "test accuracy",
            "mean of last",
        ):
            table.add_column(name, justify="right")
        for variant, row in self._latest.items():
            done = self._finished[variant]
            mean = f"{100 * sum(done) / len(done):.2f}%" if done else ""
            cells = (
                ("", "", "", "")
                if row is None
                else (
                    str(row.seed),
                    f"{row.epoch}/{self._epochs}",
                    f"{row.train_loss:.4f}",
                    f"{100 * row.test_accuracy:.2f}%",
                )
            )
            table.add_row(variant, str(len(done)), *cells, mean)
        return Group(table, self._bar)


def _line(row: Row) -> str:
    return (
        f"{row.variant:<20}{row.seed:>6}{row.epoch:>8}{row.train_loss:>12.4f}"
        f"{100 * row.test_accuracy:>14.2f}%{row.seconds:>9.2f}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
