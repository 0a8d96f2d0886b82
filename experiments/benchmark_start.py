"""Whole processes: how long the real program takes to its first result, and how much memory.

For this library that is ``python -m experiments.ablate`` as a user starts it, in a home folder that
is empty, until results.csv holds its first epoch. A second start finds the compiled programs that
the first left in that home. The others are processes of `benchmark_worker`, which do less: they
write no files, and read the digits from plain arrays.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import NamedTuple

from experiments.benchmark_process import DECIDED_HERE, Job, Worker, end, last_words, on_cores
from experiments.contenders import NotMeasuredError
from experiments.results import CONFIG, RESULTS
from jax_lenet import VARIANTS

#: Seconds that a first result may take.
PATIENCE = 300.0
#: Seconds between two looks at results.csv.
LOOK_EVERY = 0.005


class FirstResult(NamedTuple):
    """Seconds from the start of a process to its first finished epoch and test, on the sample.

    Medians of several starts of each kind.

    Attributes:
        cold: with nothing compiled before.
        warm: with JAX's persistent compilation cache as the former left it; None without JAX.
        reason: why one is missing, in one line; None where none is.
    """

    cold: float | None
    warm: float | None
    reason: str | None = None


def first_result(job: Job, sample: Path, cores: Sequence[int], starts: int) -> FirstResult:
    """Time how long a fresh process takes to its first result on the embedded sample.

    Args:
        job: what would be timed on all data.
        sample: the folder of the sample's arrays, for the contenders that are no program.
        cores: those that it may use.
        starts: how many of each kind are timed.
    """
    job = replace(job, data=str(sample), train_size=None)
    if job.contender == "jax_lenet":
        variants = (job.task.variant,)
        return _medians(lambda folder: program_seconds(variants, folder, cores), starts)
    cached = not job.contender.startswith("torch")
    return _medians(lambda cache: _worker_seconds(job, cores, cache), starts, again=cached)


def first_result_of_study(cores: Sequence[int], starts: int) -> FirstResult:
    """Time the same of the study as it is by default, with all its variants."""
    return _medians(lambda folder: program_seconds(tuple(VARIANTS), folder, cores), starts)


def _medians(seconds_of: Callable[[Path], float], starts: int, again: bool = True) -> FirstResult:
    """Time starts with a folder that is empty and, if ``again``, with what they have left in it."""
    seconds: tuple[list[float], list[float]] = [], []
    reason = None
    try:
        for _ in range(starts):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                for kind in seconds[: 1 + again]:
                    kind.append(seconds_of(Path(folder)))
    except NotMeasuredError as error:
        reason = str(error)
    cold, warm = (statistics.median(each) if each else None for each in seconds)
    return FirstResult(cold, warm, reason)


def _worker_seconds(job: Job, cores: Sequence[int], cache: Path) -> float:
    start = perf_counter()
    with Worker(cores, 1 if job.contender == "flax" else None, cache) as worker:
        worker.build(job)
        worker.ask("turn", key="", epochs=1)
        return perf_counter() - start


def program_seconds(variants: Sequence[str], home: Path, cores: Sequence[int]) -> float:
    """Start ``experiments.ablate`` on the sample; return the seconds until its first epoch's row.

    Then it is ended: everything that it compiles for the first epoch is in its cache by then.

    Args:
        variants: those that it trains, with all other settings as they are.
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
        what = ("--dataset", "mnist_sample", "--variants", *variants, "--out", str(out))
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


def peak_of_study(arguments: Sequence[str], cores: Sequence[int]) -> int:
    """Return the most memory, in bytes, that a study of all variants has in use, itself included.

    It trains two seeds for an epoch, times once and draws: more of either takes as much.

    Args:
        arguments: of ``experiments.ablate``, that say which data.
        cores: those that it may use.

    Raises:
        NotMeasuredError: if it ends before it is finished.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "out"
        short = ("--seeds", "2", "--epochs", "1", "--timing-repeats", "1")
        cold = ("--compilation-cache", "off", "--out", str(out))
        with on_cores(cores):
            done = subprocess.run(
                [sys.executable, "-m", "experiments.ablate", *arguments, *short, *cold],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={n: v for n, v in os.environ.items() if n not in DECIDED_HERE},
            )
        if done.returncode != 0:
            raise NotMeasuredError(last_words(done.returncode, iter(done.stderr.splitlines())))
        return json.loads((out / CONFIG).read_text())["peak_rss_bytes"]
