"""A process of the benchmark's own for contenders, and the handle that commands it.

In one process PyTorch's threads and XLA's disturb each other, and how much memory a contender takes
at most can only be told of a whole process. So each has one, ``python -m
experiments.benchmark_worker``, on cores of its own choice; see there what it can be asked.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from experiments import startup
from experiments.contenders import NotMeasuredError, Task

#: Seconds that a process has to end by itself before it is killed.
PATIENCE = 10.0
#: Seconds that an answer may take: far more than compiling and training 256 models do.
ANSWER = 1800.0
#: Variables that say how many threads or devices there are, or where compiled programs are kept:
#: here the benchmark's cores decide, and its own folder.
DECIDED_HERE = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "JAX_NUM_CPU_DEVICES",
    "JAX_COMPILATION_CACHE_DIR",
)


@dataclass(frozen=True)
class Job:
    """What a process builds.

    Attributes:
        contender: one of `contenders.NAMES`.
        task: what it trains.
        data: the folder that `contenders.write_data` wrote.
        train_size: how many of the training images, from the first; None is all.
        runs: how many models train at once.
        torch_device: ``"cpu"`` or ``"cuda"``.
    """

    contender: str
    task: Task
    data: str
    train_size: int | None = None
    runs: int = 1
    torch_device: str = "cpu"


def cores_of(threads: int) -> tuple[int, ...]:
    """Return the numbers of the first so many cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0))[:threads])
    return tuple(range(min(threads, startup.cores())))


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Start processes within on these cores: from their first moment they see no others."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Worker:
    """A handle on a new process; a context manager that ends it."""

    def __init__(self, cores: Sequence[int], devices: int | None = None, cache: Path | None = None):
        """Start the process.

        Args:
            cores: those that it may use, with as many threads of PyTorch.
            devices: how many CPU devices JAX makes of them; None is one a core.
            cache: folder of JAX's persistent compilation cache; None is to do without.
        """
        self.cores = tuple(cores)
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (see `close`)
        with on_cores(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmark_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment(os.environ, devices or len(self.cores), cache),
            )

    def __enter__(self) -> Self:
        """Return the handle."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self.close()

    def build(self, job: Job, key: str = "") -> dict[str, Any]:
        """Have it build a contender and keep it under a key; see `benchmark_worker`."""
        return self.ask(**self.build_request(job, key))

    def build_request(self, job: Job, key: str) -> dict[str, Any]:
        """Return what asks it to build a contender."""
        return {"do": "build", "key": key, "threads": len(self.cores), **asdict(job)}

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Request something and wait for the answer.

        Raises:
            NotMeasuredError: with the reason, if it can't be done, or the process ended or hangs.
        """
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Request something; the answer is there for `receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `receive` tells why
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to what was sent.

        Raises:
            NotMeasuredError: as `ask`.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER)[0]:
            self._process.kill()
            raise NotMeasuredError(f"its process did not answer within {ANSWER:.0f} s")
        answer = self._process.stdout.readline()
        if not answer.endswith("\n"):
            raise NotMeasuredError(self._last_words())
        reply = json.loads(answer)
        if "reason" in reply:
            raise NotMeasuredError(reply["reason"])
        return reply

    def close(self) -> None:
        """End the process: its input ends, and what does not heed that is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody reads
                    stream.close()
        end(self._process)
        self._errors.close()

    def _last_words(self) -> str:
        """Return why the process ended, in one line."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "its process stopped answering"
        self._errors.seek(0)
        return last_words(code, self._errors)


def ask_together(workers: Sequence[Worker], requests: Sequence[dict[str, Any]]) -> list[dict]:
    """Send each process its request, so that all work at the same time; return their answers.

    Raises:
        NotMeasuredError: as `Worker.ask`, when all that can answer have.
    """
    for worker, request in zip(workers, requests, strict=True):
        worker.send(**request)
    answers, failures = [], []
    for worker in workers:
        try:
            answers.append(worker.receive())
        except NotMeasuredError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return answers


def end(process: subprocess.Popen) -> None:
    """Wait until a process has ended by itself, and kill it if it doesn't."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(code: int, errors: Iterator[str]) -> str:
    """Return why a process ended, in one line: a signal, or the last line of its errors."""
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in errors if line.strip()]
    return f"its process ended: {lines[-1] if lines else f'exit code {code}'}"


def environment(own: Mapping[str, str], devices: int, cache: Path | None) -> dict[str, str]:
    """Return the environment variables for a process, from those of this one.

    >>> environment({"HOME": "/home/me", "OMP_NUM_THREADS": "7"}, 2, None)["JAX_NUM_CPU_DEVICES"]
    '2'
    """
    variables = {name: value for name, value in own.items() if name not in DECIDED_HERE}
    # One GPU for all alike: PyTorch's contenders use no more, and this library would.
    first_gpu = own.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    variables |= {
        "CUDA_VISIBLE_DEVICES": first_gpu,
        "JAX_NUM_CPU_DEVICES": str(devices),
        # Several contenders share a GPU's memory; by default JAX would take most of it at once.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return variables
