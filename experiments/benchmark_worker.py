"""Contenders of the benchmark in a process of their own, started by `benchmark_process.Worker`.

It reads requests from its standard input and answers each with a line on its standard output, both
in JSON; between two requests it sleeps. It holds any number of contenders, each under its key.

    {"do": "build", "key": "a", ...}             ->  {"compile_seconds": 2.1, "devices": 2, ...}
    {"do": "turn", "key": "a", "epochs": 3}      ->  {"train_seconds": [1.0, 1.1, 1.0], ...}
    {"do": "train", "key": "a", "epochs": 3}     ->  {"train_seconds": [1.0, 1.1, 1.0]}
    {"do": "flops", "key": "a"}                  ->  {"flops": 1.8e11}
    {"do": "time_shares", "key": "a"}            ->  {"product": 0.8, ...}
    {"do": "machine"}                            ->  {"jax_device": {...}, "matmul_rate": 1.5e11}

The answer to what can't be done is ``{"reason": "..."}``, in one line.

A process of PyTorch's imports neither JAX nor this library's part that does: its memory and its
start are those of a program in PyTorch alone.
"""

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from experiments.contenders import Contender, NotMeasuredError, Task, build, read_data
from experiments.process_memory import peak_rss_bytes

#: What environment variables that change a contender's speed or memory begin with.
VARIABLES = (
    *("JAX_", "XLA_", "LIBTPU_", "TF_CPP", "TF_XLA", "TORCH", "PYTORCH_"),
    *("CUDA_", "NVIDIA_", "CUBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
    *("LD_", "MALLOC_", "GLIBC_", "PYTHON"),
)


class _Session:
    """The contenders that a process holds; each method answers one kind of request."""

    def __init__(self):
        self._contenders: dict[str, Contender] = {}

    def build(
        self,
        key: str,
        contender: str,
        task: dict[str, Any],
        data: str,
        train_size: int | None,
        runs: int,
        torch_device: str,
        threads: int,
    ) -> dict[str, Any]:
        """Read the data and build the contender: a `benchmark_process.Job`."""
        arrays = read_data(Path(data), train_size)
        prepare_library(contender, threads)
        built = build(
            contender,
            Task(**{**task, "dropout": tuple(task["dropout"])}),
            arrays,
            runs=runs,
            torch_device=torch_device,
        )
        self._contenders[key] = built
        return {
            "prepare_seconds": built.prepare_seconds,
            "compile_seconds": built.compile_seconds,
            "devices": built.devices,
            "cores": own_cores(),
        }

    def turn(self, key: str, epochs: int) -> dict[str, Any]:
        """Train and test some epochs; return the seconds of each, and how well the last went."""
        contender = self._contenders[key]
        seconds = [(contender.train_epoch(), contender.test()) for _ in range(epochs)]
        train_seconds, test_seconds = zip(*seconds, strict=True)
        return {
            "train_seconds": train_seconds,
            "test_seconds": test_seconds,
            "train_loss": _finite(contender.train_loss),
            "test_accuracy": _finite(contender.accuracy()),
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_device_bytes": peak_device_bytes(contender.name),
        }

    def train(self, key: str, epochs: int) -> dict[str, Any]:
        """Train some epochs; return the seconds of each."""
        contender = self._contenders[key]
        return {"train_seconds": [contender.train_epoch() for _ in range(epochs)]}

    def flops(self, key: str) -> dict[str, Any]:
        """Count an epoch's operations in matrix products, of all runs."""
        return {"flops": self._contenders[key].product_flops()}

    def time_shares(self, key: str) -> dict[str, Any]:
        """Train an epoch under the profiler; return what took its time, see `profile.Shares`."""
        from experiments.jax_contenders import JaxLenet

        contender = self._contenders[key]
        assert isinstance(contender, JaxLenet)
        shares, reason = contender.time_shares()
        return asdict(shares) if shares else {"reason": reason}

    def machine(self) -> dict[str, Any]:
        """Look at what JAX runs on, and how fast it is."""
        from experiments import environment, flops, jax_contenders

        jax_contenders.start()
        return {
            "jax_device": environment.jax_device(),
            "matmul_rate": flops.matmul_rate(),
            "cores": own_cores(),
            "environment": variables(os.environ),
        }


def prepare_library(contender: str, threads: int) -> None:
    """Set up the contender's library as its programs do, before its first computation."""
    if not contender.startswith("torch"):
        from experiments import jax_contenders

        jax_contenders.start()
        return
    try:
        import torch
    except ModuleNotFoundError:
        return  # `build` says so
    torch.set_num_threads(threads)


def peak_device_bytes(contender: str) -> int | None:
    """Return the most that the contender's library has held of a GPU's memory; None on a CPU."""
    if contender.startswith("torch"):
        import torch

        return torch.cuda.max_memory_reserved() or None
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def own_cores() -> list[int] | None:
    """Return the numbers of the cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return None


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those of the environment variables that can change a number.

    >>> variables({"XLA_FLAGS": "--xla_cpu_use_onednn=true", "HOME": "/home/me"})
    {'XLA_FLAGS': '--xla_cpu_use_onednn=true'}
    """
    return {name: value for name, value in environment.items() if name.startswith(VARIABLES)}


def _finite(value: float) -> float | None:
    """Return the value, None where it is NaN or infinite: JSON has neither."""
    return value if math.isfinite(value) else None


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says."""
    return (str(error).strip() or "no message").splitlines()[0]


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests, each a line, until there are no more."""
    session = _Session()
    methods: dict[str, Callable[..., dict[str, Any]]] = {
        "build": session.build,
        "turn": session.turn,
        "train": session.train,
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
