"""What the benchmark leaves behind: benchmark.json, and what must be known to read it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.cli import UserError

JSON = "benchmark.json"
CHART = "benchmark.png"
FILES = (JSON, CHART)
#: What there is of benchmark.json while a benchmark runs; an earlier one stays until the end.
UNFINISHED = "benchmark.unfinished.json"

#: How the numbers of benchmark.json come about; part of the file.
METHODS = {
    "seconds": "per epoch, wall clock, the device synchronized; medians of the turns",
    "turns": "contenders in turn, each turn in a process of its own that trains one epoch and one"
    " test before which do not count; a turn's number is the mean over its epochs",
    "ratio_to_torch": "median over the rounds of PyTorch's seconds / this contender's in the same"
    " round, with the median's 95% interval from ranks; fastest: the fastest turn of PyTorch's /"
    " the fastest of its own",
    "ratio_to_flax": "the same of textbook Flax's seconds",
    "prepare_seconds": "once for all runs on the same data, in no epoch's time: from pixels to what"
    " an epoch reads. For jax_lenet normalizing, cutting into blocks and, with batch norm, each"
    " image's moments, the compilation of that included, and placing; for the others normalizing"
    " and placing",
    "compile_seconds": "of all programs ahead of time, with nothing compiled before; a turn's"
    " process reads them from a compilation cache where it can",
    "first_result_seconds": "from the start of a process to its first finished epoch and test on"
    " the embedded sample, medians of the starts. jax_lenet: python -m experiments.ablate in an"
    " empty home folder, until results.csv has a row; warm: a second start, with what the first"
    " left in the compilation cache. The others: a process that reads arrays, trains and tests, and"
    " writes nothing",
    "peak_rss_bytes": "the most that one of the contender's processes had in memory; PyTorch's"
    " import neither JAX nor this library",
    "peak_device_bytes": "on a GPU the most that PyTorch had reserved of its memory, or JAX used",
    "study": "experiments.ablate with all six variants: its start as that of jax_lenet, and the"
    " most that its process had in memory for two seeds and an epoch of the benchmark's data,"
    " compiling, timing and drawing included",
    "flop_rate": "operations of the traced matrix products and convolutions of an epoch, taps over"
    " padding and zeros in the blocks of jax_lenet's kernels included, / its seconds; null for"
    " PyTorch, whose operations are not counted",
    "matmul_rate": "the best of float32 products of square matrices in JAX, on the same threads",
    "profiles": "fractions of a traced training epoch's time on a device, means over the devices;"
    " product: a matrix product ran; other: something else that computes or copies; collective:"
    " nothing but an exchange between the devices, the wait for the other one included; idle: no"
    " operation, so XLA's own work between two of them and the tracing itself. Tracing makes an"
    " epoch longer, untraced_seconds / seconds, which idle and small operations show most",
    "scaling": "training alone: for each number of runs R all ways in turn, in one race, each round"
    " with new processes. jax_lenet in processes is so many that train, without what a study of"
    " several processes sends and writes. All"
    " train epochs of the same train_images first images, so a run per minute is a run of 500,000"
    " images (ten epochs of 50,000) at the speed measured there. One clock for the processes of a"
    " way, from the signal to the last one's end; warmed up before. PyTorch's processes train"
    " their runs one after the other, so a turn has one in each, times as many as each would get."
    " ratio_to_torch: to the fastest of PyTorch's ways for the same R (median), in the same rounds",
}


def commit() -> str | None:
    """Return the commit of this library's checkout, with ``-dirty`` where files differ from it.

    None where it is installed without its history, or there is no git.
    """
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40")
    try:
        found = subprocess.run(
            (*command, "--exclude", "*"), capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def now() -> str:
    """Return the date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_folder(path: Path, overwrite: bool) -> None:
    """Raise UserError if the folder holds a benchmark that may not be replaced, or can't be one."""
    try:
        present = [name for name in FILES if (path / name).exists()]
    except OSError as error:
        raise UserError(f"--out: cannot write to {path}: {error.strerror}") from None
    if present and not overwrite:
        raise UserError(
            f"--out: {path} already holds {', '.join(present)}; give --overwrite to replace them,"
            " or name another folder"
        )


def make_folder(path: Path) -> None:
    """Make the folder; an earlier benchmark stays in it until this one is finished.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"--out: cannot write to {path}: {error.strerror}") from None


def write(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(folder: Path, content: Mapping[str, Any], finished: bool) -> None:
    """Write benchmark.json or, before the end, what there is of it."""
    name = JSON if finished else UNFINISHED
    write(folder / name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    if finished:
        (folder / UNFINISHED).unlink(missing_ok=True)
