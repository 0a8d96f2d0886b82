"""How the benchmark times: each contender in its process, warmed up, in turn, one at a time."""

import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmark_process import Job, Worker
from experiments.contenders import NotMeasuredError

#: A turn takes about so long, so that fast contenders train several epochs in it and slow ones one.
TURN_SECONDS = 4.0
#: What processes say of the memory they took.
PEAKS = ("peak_rss_bytes", "peak_device_bytes")


class Racer(ABC):
    """Something whose turns are timed.

    Attributes:
        reason: why it is out of the race, in one line; None while it is in.
    """

    reason: str | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called on the screen, its variant included."""

    @abstractmethod
    def warm_up(self) -> None:
        """Train an epoch that does not count."""

    @abstractmethod
    def take_turn(self) -> str:
        """Train for a turn that counts; return what it gave, in words."""

    def attempt(self, action: Callable[[], Any], say: Callable[[str], None]) -> Any:
        """Do something while it is in; return what that gives, None where it drops out."""
        if self.reason is not None:
            return None
        try:
            return action()
        except NotMeasuredError as error:
            self.reason = str(error)
            say(f"{self.name} is not measured: {error}")
            return None


def warm_up(racers: Sequence[Racer], say: Callable[[str], None]) -> None:
    """Have each racer train an epoch that does not count."""
    for racer in racers:
        racer.attempt(racer.warm_up, say)


def take_turns(racers: Sequence[Racer], number: str, say: Callable[[str], None]) -> None:
    """Time racers in turn, A B C, for one round.

    So a slow moment of the machine hits them all. One that can't be measured, or whose process
    ends, drops out with the reason.

    Args:
        racers: warmed up.
        number: of the round, in words.
        say: is told how it goes, in lines.
    """
    for racer in racers:
        words = racer.attempt(racer.take_turn, say)
        if words is not None:
            say(f"{racer.name:<52}round {number}   {words}")


class Turn(NamedTuple):
    """One turn of a contender: means over its epochs.

    Attributes:
        train_seconds: of training for an epoch.
        test_seconds: of a test.
    """

    train_seconds: float
    test_seconds: float


class Entrant(Racer):
    """A contender with one model in a race, with a new process for every turn.

    A process can be fast or slow as such, whatever it is asked: on two cores PyTorch's has been
    seen to take 2.7 s for an epoch or, as it was started, 5.8 s. So each turn has one of its own,
    which trains an epoch first that does not count.

    Attributes:
        job: what it does.
        turns: those that count.
        epochs: how many it trains in a turn.
        built: what its first process said of itself, see `benchmark_worker`.
        first: what the epoch before the race gave, see the same.
        peaks: the most memory of all its processes, that which compiled included, see the same.
        flops: of an epoch's matrix products; None where nobody counts them.
    """

    def __init__(self, job: Job, cores: Sequence[int], epochs: int, cache: Path):
        """Take a job; no process runs yet.

        Args:
            job: what it does.
            cores: those that it may use.
            epochs: the most that it trains in a turn.
            cache: folder of JAX's compilation cache, so that only the first process compiles.
        """
        self.job = job
        self.turns: list[Turn] = []
        self.epochs = epochs
        self.built: dict[str, Any] = {}
        self.first: dict[str, Any] = {}
        self.peaks: dict[str, int | None] = dict.fromkeys(PEAKS)
        self.flops: float | None = None
        self._cores = cores
        self._cache = cache

    @property
    def name(self) -> str:
        """Variant and contender."""
        return f"{self.job.task.variant:<20}{self.job.contender}"

    def warm_up(self) -> None:
        """Build it, in a process that is timed in no turn, and look at what does not change."""
        with self._process() as (worker, self.built, self.first):
            seconds = self.first["train_seconds"][0] + self.first["test_seconds"][0]
            self.epochs = max(1, min(self.epochs, int(TURN_SECONDS / seconds)))
            with suppress(NotMeasuredError):  # uncounted, its times count all the same
                self.flops = worker.ask("flops", key="")["flops"]

    def take_turn(self) -> str:
        """Train and test for a turn."""
        with self._process() as (worker, _, _):
            answer = self._ask_for_turn(worker, self.epochs)
        turn = Turn(*(statistics.fmean(answer[name]) for name in Turn._fields))
        self.turns.append(turn)
        return (
            f"train {turn.train_seconds:8.4f} s   test {turn.test_seconds:7.4f} s"
            f"   ({self.epochs} epoch{'s' if self.epochs > 1 else ''})"
        )

    @contextmanager
    def _process(self) -> Iterator[tuple[Worker, dict[str, Any], dict[str, Any]]]:
        """Start a process; yield it, what it built and what its first epoch gave."""
        # Nobody gives textbook Flax several CPU devices, of which it would use one.
        devices = 1 if self.job.contender == "flax" else None
        with Worker(self._cores, devices, self._cache) as worker:
            yield worker, worker.build(self.job), self._ask_for_turn(worker, epochs=1)

    def _ask_for_turn(self, worker: Worker, epochs: int) -> dict[str, Any]:
        """Have a process train; note what memory that took."""
        answer = worker.ask("turn", key="", epochs=epochs)
        for name in PEAKS:
            self.peaks[name] = max(filter(None, (self.peaks[name], answer[name])), default=None)
        return answer


def race(
    jobs: Sequence[Job],
    cores: Sequence[int],
    *,
    rounds: int,
    epochs: int,
    say: Callable[[str], None],
) -> list[Entrant]:
    """Time contenders with one model each, in turn.

    Args:
        jobs: one for each contender.
        cores: those that each may use.
        rounds: how many turns each has.
        epochs: the most that one trains in a turn.
        say: is told how it goes, in lines.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        entrants = [Entrant(job, cores, epochs, Path(cache)) for job in jobs]
        warm_up(entrants, say)
        for number in range(1, rounds + 1):
            take_turns(entrants, f"{number}/{rounds}", say)
    return entrants


def time_shares(job: Job, cores: Sequence[int]) -> dict[str, Any]:
    """Return where the time of an epoch goes, as `profile.Shares`, or ``{"reason": ...}``."""
    try:
        with Worker(cores) as worker:
            worker.build(job)
            worker.ask("turn", key="", epochs=1)
            return worker.ask("time_shares", key="")
    except NotMeasuredError as error:
        return {"reason": str(error)}
