"""From the start of a process to its first result: the real program, and the other contenders.

For this library that is ``python -m experiments.ablate`` as a user starts it, in a home folder that
is empty, until results.csv holds its first epoch. A second start finds the compiled programs that
the first left in that home. The others are processes of `benchmark_worker`, which do less: they
write no files, and read the digits from plain arrays.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import NamedTuple

from experiments.benchmark_process import DECIDED_HERE, Job, Worker, end, last_words, on_cores
from experiments.contenders import NotMeasuredError
from experiments.results import RESULTS

#: Seconds that a first result may take.
PATIENCE = 300.0
#: Seconds between two looks at results.csv.
LOOK_EVERY = 0.005


class FirstResult(NamedTuple):
    """Seconds from the start of a process to its first finished epoch and test, on the sample.

    Attributes:
        cold: with nothing compiled before.
        warm: with JAX's persistent compilation cache as the former left it; None without JAX.
        reason: why one is missing, in one line; None where none is.
    """

    cold: float | None
    warm: float | None
    reason: str | None = None


def first_result(job: Job, sample: Path, cores: Sequence[int]) -> FirstResult:
    """Time how long a fresh process takes to its first result on the embedded sample.

    Args:
        job: what would be timed on all data.
        sample: the folder of the sample's arrays, for the contenders that are no program.
        cores: those that it may use.
    """
    job = replace(job, data=str(sample), train_size=None)
    seconds: list[float] = []
    try:
        if job.contender.startswith("torch"):
            seconds.append(_worker_seconds(job, cores, cache=None))
            return FirstResult(seconds[0], None)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for _ in range(2):
                if job.contender == "jax_lenet":
                    seconds.append(program_seconds(job.task.variant, Path(folder), cores))
                else:
                    seconds.append(_worker_seconds(job, cores, Path(folder)))
    except NotMeasuredError as error:
        return FirstResult(seconds[0] if seconds else None, None, str(error))
    return FirstResult(seconds[0], seconds[1])


def _worker_seconds(job: Job, cores: Sequence[int], cache: Path | None) -> float:
    start = perf_counter()
    with Worker(cores, 1 if job.contender == "flax" else None, cache) as worker:
        worker.build(job)
        worker.ask("turn", key="", epochs=1)
        return perf_counter() - start


def program_seconds(variant: str, home: Path, cores: Sequence[int]) -> float:
    """Start ``experiments.ablate`` on the sample; return the seconds until its first epoch's row.

    Then it is ended: everything that it compiles for the first epoch is in its cache by then.

    Args:
        variant: the one that it trains, with all other settings as they are.
        home: the user's home folder, in which its compilation cache is.
        cores: those that it may use.

    Raises:
        NotMeasuredError: if it ends, or takes too long, before there is a row.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        out = Path(folder) / "out"
        what = ("--dataset", "mnist_sample", "--variants", variant, "--out", str(out))
        start = perf_counter()
        with on_cores(cores):
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments.ablate", *what],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=home_environment(home),
            )
        try:
            return _seconds_to_row(out / RESULTS, process, start)
        except NotMeasuredError as error:
            if process.poll() is None:
                raise
            errors.seek(0)
            raise NotMeasuredError(last_words(process.returncode, errors)) from error
        finally:
            process.terminate()
            end(process)


def home_environment(home: Path) -> dict[str, str]:
    """Return this process's environment variables, but those of a user whose home is ``home``."""
    kept = {name: value for name, value in os.environ.items() if name not in DECIDED_HERE}
    kept.pop("XDG_CACHE_HOME", None)  # it would lead to this user's own cache
    return kept | {"HOME": str(home)}


def _seconds_to_row(path: Path, process: subprocess.Popen, start: float) -> float:
    """Wait for the first row below the heading of a growing results.csv."""
    while (now := perf_counter()) < start + PATIENCE:
        try:
            if path.read_text().count("\n") > 1:
                return now - start
        except FileNotFoundError:
            pass  # not there yet
        if process.poll() is not None:
            raise NotMeasuredError("it ended before its first result")
        sleep(LOOK_EVERY)
    raise NotMeasuredError(f"no first result within {PATIENCE:.0f} s")
