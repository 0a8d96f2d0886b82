"""One contender of the benchmark in a process of its own, and the handle that commands it.

In one process PyTorch's threads and XLA's disturb each other, and how much memory a contender takes
at most can only be told of a whole process. So `experiments.benchmark` starts one for each,
``python -m experiments.benchmark_worker``. It reads requests from its standard input and answers
each with a line on its standard output, both in JSON; between two requests it sleeps.

    {"do": "build", ...}             ->  {"compile_seconds": 2.1, "devices": 2}
    {"do": "turn", "epochs": 3}      ->  {"train_seconds": [1.0, 1.1, 1.0], ...}
    {"do": "flops"}                  ->  {"flops": 1.8e11}
    {"do": "time_shares"}            ->  {"product": 0.8, ...}
    {"do": "machine"}                ->  {"jax_device": {...}, "matmul_rate": 1.5e11}

The answer to what can't be done is ``{"reason": "..."}``, in one line.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from experiments.contenders import Contender, NotMeasuredError, Task, build

#: Seconds that a worker has to end by itself before it is killed.
PATIENCE = 10.0


@dataclass(frozen=True)
class Job:
    """What a worker builds.

    Attributes:
        contender: one of `contenders.NAMES`.
        task: what it trains.
        dataset: as `jax_lenet.load` takes it.
        data_dir: the same.
        train_size: the same.
        runs: how many models train at once.
        torch_device: ``"cpu"`` or ``"cuda"``.
    """

    contender: str
    task: Task
    dataset: str
    data_dir: str | None
    train_size: int | None
    runs: int = 1
    torch_device: str = "cpu"


# The benchmark's side


class Worker:
    """A handle on a new process; a context manager that ends it."""

    def __init__(self, threads: int, cache: Path | None = None):
        """Start the process.

        Args:
            threads: how many cores it may use: as many threads of PyTorch, and as many CPU devices
                of JAX.
            cache: folder of JAX's persistent compilation cache; None is to do without.
        """
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (see `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmark_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(os.environ, threads, cache),
        )
        if hasattr(os, "sched_setaffinity"):  # XLA has a thread for each core that it sees
            cores = sorted(os.sched_getaffinity(0))[:threads]
            os.sched_setaffinity(self._process.pid, cores)

    def __enter__(self) -> "Worker":
        """Return the handle."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def build(self, job: Job) -> dict[str, Any]:
        """Have it build a contender; see `_Session.build`."""
        return self.ask("build", **asdict(job))

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Request something and wait for the answer.

        Raises:
            NotMeasuredError: with the reason, if it can't be done or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
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
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        """Return why the process ended, in one line."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "its process stopped answering"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"its process ended: {lines[-1] if lines else f'exit code {code}'}"


def environment(own: Mapping[str, str], threads: int, cache: Path | None) -> dict[str, str]:
    """Return the environment variables for a worker, from those of this process.

    >>> environment({"HOME": "/home/me"}, 2, None)["JAX_NUM_CPU_DEVICES"]
    '2'
    """
    variables = {
        **own,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "JAX_NUM_CPU_DEVICES": str(threads),
        # Several contenders share a GPU's memory; by default JAX would take most of it at once.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    if cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return variables


# The worker's side


class _Session:
    """The contender that a worker holds; each method answers one kind of request."""

    def __init__(self):
        self._contender: Contender | None = None

    @property
    def contender(self) -> Contender:
        assert self._contender is not None, "the first request must be to build"
        return self._contender

    def build(
        self,
        contender: str,
        task: dict[str, Any],
        dataset: str,
        data_dir: str | None,
        train_size: int | None,
        runs: int,
        torch_device: str,
    ) -> dict[str, Any]:
        """Read the data and build the contender: a `Job`."""
        from jax_lenet import load

        folder = None if data_dir is None else Path(data_dir)
        data = load(dataset, folder, train_size)
        self._contender = build(contender, Task(**task), data, runs=runs, torch_device=torch_device)
        return {
            "compile_seconds": self._contender.compile_seconds,
            "devices": self._contender.devices,
        }

    def turn(self, epochs: int) -> dict[str, Any]:
        """Train and test some epochs; return the seconds of each, and how well the last went."""
        seconds = [(self.contender.train_epoch(), self.contender.test()) for _ in range(epochs)]
        train_seconds, test_seconds = zip(*seconds, strict=True)
        return {
            "train_seconds": train_seconds,
            "test_seconds": test_seconds,
            "train_loss": _finite(self.contender.train_loss),
            "test_accuracy": _finite(self.contender.accuracy()),
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def flops(self) -> dict[str, Any]:
        """Count an epoch's operations in matrix products, of all runs."""
        return {"flops": self.contender.product_flops()}

    def time_shares(self) -> dict[str, Any]:
        """Train an epoch under the profiler; return what took its time, see `profile.Shares`."""
        from experiments.jax_contenders import JaxLenet

        assert isinstance(self.contender, JaxLenet)
        shares, reason = self.contender.time_shares()
        return asdict(shares) if shares else {"reason": reason}

    def machine(self) -> dict[str, Any]:
        """Look at what JAX runs on, and how fast it is."""
        from experiments import environment, profile

        return {
            "jax_device": environment.jax_device(),
            "matmul_rate": profile.matmul_rate(),
        }


def _finite(value: float) -> float | None:
    """Return the value, None where it is NaN or infinite: JSON has neither."""
    return value if math.isfinite(value) else None


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had in use at a time, all that it shares too.

    From ``VmHWM`` where there is one: what `resource.getrusage` calls the maximum is, in a new
    process on Linux, at least that of the process which started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says."""
    return (str(error).strip() or "no message").splitlines()[0]


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests, each a line, until there are no more."""
    session = _Session()
    methods: dict[str, Callable[..., dict[str, Any]]] = {
        "build": session.build,
        "turn": session.turn,
        "flops": session.flops,
        "time_shares": session.time_shares,
        "machine": session.machine,
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = methods[request.pop("do")](**request)
        except NotMeasuredError as error:
            answer = {"reason": str(error)}
        except Exception as error:  # the other contenders are to be timed all the same
            traceback.print_exc()
            answer = {"reason": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps(answer, allow_nan=False), file=answers, flush=True)


def main() -> None:
    """Answer on what was the standard output; whatever else is printed goes to the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
