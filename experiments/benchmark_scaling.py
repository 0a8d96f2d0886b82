"""Many runs: how many a minute this library trains on all that a machine has, and PyTorch.

Each way of training R runs (`Way`) is measured for each R, all in one race. A way has one process,
or one for each core; those of a way begin together on a signal and the last to finish stops the
clock. Every round has new processes, as in `benchmark_race`; within it each keeps what it has built
for every R, and is asleep while other ways train.

Runs are independent and steps alike, so that a run's time is its number of steps times a step's:
all train epochs of the same few images, from which runs a minute follow.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from experiments.benchmark_numbers import Ratio, ratio
from experiments.benchmark_process import Job, Worker, ask_together
from experiments.benchmark_race import Racer, take_turns, warm_up
from experiments.contenders import SEVERAL, NotMeasuredError

#: A turn takes at least about so long, if not a single epoch does.
TURN_SECONDS = 1.0
#: Images that a run of the study trains on: ten epochs of 50,000.
RUN_IMAGES = 500_000


@dataclass(frozen=True)
class Way:
    """A way to train many runs.

    Attributes:
        contender: one of `contenders.NAMES`.
        cores: of each process.
        devices: of each process, for JAX.
    """

    contender: str
    cores: tuple[tuple[int, ...], ...]
    devices: int = 1

    @property
    def name(self) -> str:
        """Contender and what it runs on."""
        if len(self.cores) > 1:
            return f"{self.contender}, {len(self.cores)} processes"
        if self.contender == "jax_lenet":
            return f"jax_lenet, {self.devices} device{'s' if self.devices > 1 else ''}"
        return self.contender

    @property
    def one_by_one(self) -> bool:
        """Whether a process trains its runs one after the other, each as if it were the only."""
        return self.contender not in SEVERAL

    def shares(self, runs: int) -> tuple[int, ...]:
        """Return how many of the runs each process trains, those without any left out."""
        least, more = divmod(runs, len(self.cores))
        return tuple(n for i in range(len(self.cores)) if (n := least + (i < more)))


def ways_of(cores: tuple[int, ...], contenders: Iterable[str], on_gpu: bool) -> tuple[Way, ...]:
    """Return the ways to use a machine: of this library all on a CPU, and PyTorch's.

    Args:
        cores: all that may be used.
        contenders: that are measured at all.
        on_gpu: whether a GPU does the work: then cores don't share it.
    """
    each = tuple((core,) for core in cores)
    several = len(cores) > 1 and not on_gpu
    ways = [Way("jax_lenet", (cores,))]
    ways += [Way("jax_lenet", (cores,), len(cores)), Way("jax_lenet", each)] if several else []
    ways += [Way("torch", (cores,))]
    ways += [Way("torch", parts) for parts in _in_parts(cores)] if several else []
    ways += [Way("torch_cuda_graph", (cores,))] if "torch_cuda_graph" in contenders else []
    ways += [Way("torch_vmap", (cores,))] if "torch" in contenders else []
    return tuple(way for way in ways if way.contender in (*contenders, "torch_vmap"))


def _in_parts(cores: tuple[int, ...]) -> list[tuple[tuple[int, ...], ...]]:
    """Return the cores shared out in 2, 4, 8, ... parts, and one by one.

    >>> _in_parts((0, 1, 2, 3))
    [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))]
    """
    count = len(cores)
    numbers = [2**i for i in range(1, count.bit_length()) if count % 2**i == 0 and 2**i < count]
    return [
        tuple(
            cores[part * count // number : (part + 1) * count // number] for part in range(number)
        )
        for number in [*numbers, count]
    ]


class Pool:
    """The processes of every way, and what they have built; a context manager that ends them."""

    def __init__(self, cache: Path):
        """Start none yet.

        Args:
            cache: folder of JAX's compilation cache.
        """
        self._cache = cache
        self._processes = ExitStack()
        self._workers: dict[Way, list[Worker]] = {}
        self._built: dict[tuple[Way, tuple[int, ...]], list[dict] | NotMeasuredError] = {}

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._processes.close()

    def workers(self, way: Way) -> list[Worker]:
        """Return a way's processes; the first use starts them."""
        if way not in self._workers:
            self._workers[way] = [
                self._processes.enter_context(Worker(cores, way.devices, self._cache))
                for cores in way.cores
            ]
        return self._workers[way]

    def build(self, way: Way, job: Job, shares: tuple[int, ...]) -> list[dict[str, Any]]:
        """Have a way's processes build their shares, once; return what they said of them.

        Args:
            way: whose processes.
            job: for one run; the first seed of the first share.
            shares: how many runs each process trains.

        Raises:
            NotMeasuredError: if one cannot, also where that was found before.
        """
        if (way, shares) not in self._built:
            workers = self.workers(way)[: len(shares)]
            firsts = [job.task.first_seed + sum(shares[:i]) for i in range(len(shares))]
            requests = [
                worker.build_request(
                    replace(job, runs=share, task=replace(job.task, first_seed=first)), str(shares)
                )
                for worker, share, first in zip(workers, shares, firsts, strict=True)
            ]
            try:
                self._built[way, shares] = ask_together(workers, requests)
            except NotMeasuredError as error:
                self._built[way, shares] = error
        built = self._built[way, shares]
        if isinstance(built, NotMeasuredError):
            raise built
        return built

    def train(self, way: Way, shares: tuple[int, ...], epochs: int) -> float:
        """Train every share, all at the same time; return the seconds until the last is done."""
        workers = self.workers(way)[: len(shares)]
        request = {"do": "train", "key": str(shares), "epochs": epochs}
        start = perf_counter()
        ask_together(workers, [request] * len(shares))
        return perf_counter() - start


class Team(Racer):
    """A way that trains some number of runs in a race.

    Attributes:
        way: to train them.
        runs: how many, R.
        seconds: of a run's epoch, turn by turn: those of all runs' / R.
        epochs: how many it trains in a turn.
        built: what its processes said of themselves, see `benchmark_worker`.
        pool: of the round's processes, to be set before it warms up.
    """

    pool: Pool

    def __init__(self, way: Way, runs: int, job: Job):
        """Take a job; nothing is built yet.

        Args:
            way: to train the runs.
            runs: how many.
            job: for one run.
        """
        self.way = way
        self.runs = runs
        self.seconds: list[float] = []
        self.epochs = 1
        self.built: list[dict[str, Any]] = []
        self._job = replace(job, contender=way.contender)
        # Where runs follow one another, each process trains one, and all R take as many times as
        # long as the busiest process has runs.
        at_once = min(runs, len(way.cores)) if way.one_by_one else runs
        self._shares = way.shares(at_once)
        self._times = max(way.shares(runs)) if way.one_by_one else 1

    @property
    def name(self) -> str:
        """Variant, number of runs and way."""
        runs = f"{self.runs} run{'s' if self.runs > 1 else ''}"
        return f"{self._job.task.variant:<20}{runs:<9}{self.way.name}"

    def warm_up(self) -> None:
        """Build the runs and train an epoch that does not count."""
        self.built = self.pool.build(self.way, self._job, self._shares)
        seconds = self.pool.train(self.way, self._shares, epochs=1)
        if not self.seconds:
            self.epochs = max(1, round(TURN_SECONDS / seconds))

    def take_turn(self) -> str:
        """Train for a turn."""
        seconds = self.pool.train(self.way, self._shares, self.epochs)
        self.seconds.append(seconds * self._times / self.epochs / self.runs)
        return f"train {self.seconds[-1]:8.4f} s   ({self.epochs} epochs)"


@dataclass(frozen=True)
class ScalingRow:
    """How fast one way trains R runs: a row of ``scaling`` in benchmark.json.

    Attributes:
        variant: the model's name.
        runs: R, how many are to be trained.
        way: contender and what it runs on.
        contender: one of `contenders.NAMES`.
        train_images: of an epoch that was measured.
        reason: why nothing was, in one line; then all that follows is None.
        cores: the numbers of the cores that each process had, as it saw them.
        devices: how many CPU devices of JAX each process trained on; 1 for PyTorch.
        epochs_per_turn: how many epochs a turn is the mean of.
        turns: seconds of a run's epoch, those of all runs' / R, turn by turn.
        seconds: median of the former.
        runs_per_minute: of `RUN_IMAGES` images each, at that speed.
        ratio_to_torch: the seconds of PyTorch's best way for R / its own; None for PyTorch's.
    """

    variant: str
    runs: int
    way: str
    contender: str
    train_images: int
    reason: str | None = None
    cores: tuple[list[int] | None, ...] | None = None
    devices: int | None = None
    epochs_per_turn: int | None = None
    turns: tuple[float, ...] | None = None
    seconds: float | None = None
    runs_per_minute: float | None = None
    ratio_to_torch: Ratio | None = None


def race_to_scale(
    job: Job,
    ways: Sequence[Way],
    counts: Sequence[int],
    *,
    images: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[ScalingRow]:
    """Time every way for every number of runs, in turn; return rows by number of runs.

    Args:
        job: for one run.
        ways: to train them.
        counts: numbers of runs.
        images: that an epoch trains on.
        rounds: how many turns each has.
        say: is told how it goes, in lines.
    """
    job = replace(job, train_size=images)
    teams = [Team(way, runs, job) for runs in counts for way in ways]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for number in range(1, rounds + 1):
            with Pool(Path(cache)) as pool:
                for team in teams:
                    team.pool = pool
                warm_up(teams, say)
                take_turns(teams, f"{number}/{rounds}", say)
    rows = []
    for runs in counts:
        racing = [team for team in teams if team.runs == runs]
        best = _best_of_torch(racing)
        rows += [_row_of(team, best, job.task.variant, images) for team in racing]
    return rows


def _best_of_torch(teams: Iterable[Team]) -> Team | None:
    """Return the fastest of PyTorch's ways; None if none was measured."""
    measured = [one for one in teams if _is_torch(one) and one.reason is None]
    return min(measured, key=lambda team: statistics.median(team.seconds), default=None)


def _is_torch(team: Team) -> bool:
    return team.way.contender.startswith("torch")


def _row_of(team: Team, best: Team | None, variant: str, images: int) -> ScalingRow:
    name = (variant, team.runs, team.way.name, team.way.contender, images)
    if team.reason is not None:
        return ScalingRow(*name, reason=team.reason)
    seconds = statistics.median(team.seconds)
    compared = None
    if best is not None and not _is_torch(team):
        compared = ratio(team.seconds, best.seconds, best.way.name)
    return ScalingRow(
        *name,
        cores=tuple(process["cores"] for process in team.built),
        devices=team.built[0]["devices"],
        epochs_per_turn=team.epochs,
        turns=tuple(team.seconds),
        seconds=seconds,
        runs_per_minute=60 * images / seconds / RUN_IMAGES,
        ratio_to_torch=compared,
    )
