"""How the benchmark times contenders: each in its process, warmed up, in turn, one at a time."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from experiments.benchmark_worker import Job, Worker
from experiments.contenders import NotMeasuredError

#: A turn takes about so long, so that fast contenders train several epochs in it and slow ones one.
TURN_SECONDS = 4.0


class Turn(NamedTuple):
    """One turn of a contender: means over its epochs, of one model.

    Attributes:
        train_seconds: of training for an epoch, divided by the number of models.
        test_seconds: of a test, divided by the number of models.
    """

    train_seconds: float
    test_seconds: float


class Entrant:
    """A contender in a race.

    Attributes:
        job: what it does.
        reason: why it is out of the race, in one line; None while it is in.
        turns: those that count.
        epochs: how many it trains in a turn.
        built: what its process said of itself, see `benchmark_worker`.
        first: what the epoch before the race gave, see the same.
        last: what the latest turn gave.
        flops: of an epoch's matrix products, of one model; None where nobody counts them.
    """

    def __init__(self, job: Job, threads: int):
        """Take a job; no process runs yet."""
        self.job = job
        self.reason: str | None = None
        self.turns: list[Turn] = []
        self.epochs = 1
        self.built: dict[str, Any] = {}
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.flops: float | None = None
        self._threads = threads
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The process; the first use starts it."""
        if self._worker is None:
            self._worker = Worker(self._threads)
        return self._worker

    @property
    def name(self) -> str:
        """The contender's name, with the number of models where there are several."""
        several = f" x{self.job.runs}" if self.job.runs > 1 else ""
        return self.job.contender + several

    def warm_up(self, epochs: int) -> None:
        """Build it and train an epoch that does not count; ``epochs`` is the most for a turn."""
        self.built = self.worker.build(self.job)
        self.first = self.last = self.worker.ask("turn", epochs=1)
        seconds = self.first["train_seconds"][0] + self.first["test_seconds"][0]
        self.epochs = max(1, min(epochs, int(TURN_SECONDS / seconds)))

    def take_turn(self) -> None:
        """Train and test for a turn."""
        self.last = self.worker.ask("turn", epochs=self.epochs)
        sums = self.last["train_seconds"], self.last["test_seconds"]
        self.turns.append(Turn(*(statistics.fmean(x) / self.job.runs for x in sums)))

    def count_flops(self) -> None:
        """Ask for the operations of an epoch."""
        flops = self.worker.ask("flops")["flops"]
        self.flops = None if flops is None else flops / self.job.runs

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()


def race(
    jobs: Sequence[Job], threads: int, *, rounds: int, epochs: int, say: Callable[[str], None]
) -> list[Entrant]:
    """Time contenders in turn: A B C, A B C, and so on.

    So a slow moment of the machine hits them all. Each has a process of its own, which sleeps while
    another's works. One that can't be measured, or whose process ends, drops out with the reason.

    Args:
        jobs: one for each contender.
        threads: how many cores each may use.
        rounds: how many turns each has.
        epochs: the most that one trains in a turn.
        say: is told how it goes, in lines.
    """
    entrants = [Entrant(job, threads) for job in jobs]
    with ExitStack() as processes:
        for entrant in entrants:
            processes.enter_context(closing(entrant))
            _attempt(entrant, lambda entrant=entrant: entrant.warm_up(epochs), say)
        for number in range(1, rounds + 1):
            for entrant in entrants:
                if _attempt(entrant, entrant.take_turn, say):
                    say(_line(entrant, f"round {number}/{rounds}"))
        for entrant in entrants:
            _attempt(entrant, entrant.count_flops, say)
    return entrants


def _attempt(entrant: Entrant, action: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Do something with an entrant that is still in; tell whether it went well."""
    if entrant.reason is not None:
        return False
    try:
        action()
    except NotMeasuredError as error:
        entrant.reason = str(error)
        say(f"{entrant.job.task.variant:<20}{entrant.name} is not measured: {error}")
    return entrant.reason is None


def _line(entrant: Entrant, when: str) -> str:
    turn = entrant.turns[-1]
    return (
        f"{entrant.job.task.variant:<20}{when:<12}{entrant.name:<18}"
        f"train {turn.train_seconds:8.4f} s   test {turn.test_seconds:7.4f} s"
        f"   ({entrant.epochs} epoch{'s' if entrant.epochs > 1 else ''})"
    )


class FirstResult(NamedTuple):
    """Seconds from the start of a process to its first finished epoch and test, on the sample.

    Attributes:
        cold: with nothing compiled before.
        warm: with JAX's persistent compilation cache as the former left it; None without JAX.
    """

    cold: float | None
    warm: float | None


def first_result(job: Job, threads: int) -> FirstResult:
    """Time how long a fresh process takes to its first result on the embedded sample.

    The cold process fills the cache, as a user's first one does. None where it can't be measured.
    """
    job = replace(job, dataset="mnist_sample", data_dir=None, train_size=None)
    if job.contender.startswith("torch"):
        return FirstResult(_seconds_to_result(job, threads, cache=None), None)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cold, warm = (_seconds_to_result(job, threads, Path(folder)) for _ in range(2))
    return FirstResult(cold, warm)


def _seconds_to_result(job: Job, threads: int, cache: Path | None) -> float | None:
    start = perf_counter()
    try:
        with Worker(threads, cache) as worker:
            worker.build(job)
            worker.ask("turn", epochs=1)
            return perf_counter() - start
    except NotMeasuredError:
        return None


def time_shares(job: Job, threads: int) -> dict[str, Any]:
    """Return where the time of an epoch goes, as `profile.Shares`, or ``{"reason": ...}``."""
    try:
        with Worker(threads) as worker:
            worker.build(job)
            worker.ask("turn", epochs=1)
            return worker.ask("time_shares")
    except NotMeasuredError as error:
        return {"reason": str(error)}
