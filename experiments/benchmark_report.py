"""What the benchmark leaves behind: its numbers, benchmark.json and the table on the screen."""

import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.benchmark_race import Entrant, FirstResult
from experiments.cli import UserError
from jax_lenet.statistics import t_interval

JSON = "benchmark.json"
CHART = "benchmark.png"
FILES = (JSON, CHART)

#: How the numbers of benchmark.json come about; part of the file.
METHODS = {
    "seconds": "per epoch and model, wall clock, the device synchronized; medians of the turns",
    "turns": "contenders in turn, each in its own process; a turn's number is the mean over its"
    " epochs; one epoch and one test before the first turn do not count",
    "ratio_to_torch": "median over the rounds of PyTorch's seconds / this contender's in the same"
    " round; the 95% interval is Student's t on the ratios' logarithms. With several models at"
    " once PyTorch is the faster of one model after the other and torch_vmap",
    "first_result_seconds": "from the start of a process to its first finished epoch and test on"
    " the embedded sample; warm with JAX's compilation cache as the cold one left it",
    "peak_rss_bytes": "the most that the contender's process had in memory, the imports of this"
    " library and of JAX included in PyTorch's too",
    "flop_rate": "operations of the traced matrix products and convolutions of an epoch, taps over"
    " padding included, / its seconds; null for PyTorch, whose operations are not counted",
    "matmul_rate": "the best of float32 products of square matrices in JAX, on the same threads",
    "profiles": "fractions of a training epoch's time; product: a matrix product ran on the"
    " device, other: something else, idle: nothing",
}


@dataclass(frozen=True)
class Ratio:
    """How many times as long PyTorch takes.

    Attributes:
        median: over the rounds.
        low: end of the interval; None with a single round.
        high: end of the interval; None with a single round.
        n: rounds.
        rival: the contender of PyTorch.
        rival_seeds_at_once: how many models it trains at once.
        rival_seconds: of its turns, per epoch and model.
    """

    median: float
    low: float | None
    high: float | None
    n: int
    rival: str
    rival_seeds_at_once: int
    rival_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A contender's numbers: a row of benchmark.json. All but the first four may be None.

    Attributes:
        variant: the model's name.
        contender: one of `contenders.NAMES`.
        seeds_at_once: how many models train at once.
        train_images: of an epoch.
        reason: why nothing was measured, in one line.
        devices: over how many CPU devices of JAX each batch is split.
        epochs_per_turn: how many epochs a turn is the mean of.
        train_turns: seconds of training for an epoch, per model, turn by turn.
        test_turns: seconds of a test, per model, turn by turn.
        train_seconds: median of the former.
        test_seconds: median of the latter.
        ratio_to_torch: ``{"train": Ratio, "test": Ratio}``.
        compile_seconds: of compilation ahead of time.
        first_result_seconds: ``{"cold": seconds, "warm": seconds}``.
        peak_rss_bytes: the most that the process had in memory.
        flop_rate: floating-point operations in an epoch's matrix products / its seconds.
        flop_rate_share: the same as a fraction of the machine's measured rate.
        first_loss: mean loss of the first epoch, as minimized.
        first_accuracy: fraction of the test images right after it.
    """

    variant: str
    contender: str
    seeds_at_once: int
    train_images: int
    reason: str | None = None
    devices: int | None = None
    epochs_per_turn: int | None = None
    train_turns: tuple[float, ...] | None = None
    test_turns: tuple[float, ...] | None = None
    train_seconds: float | None = None
    test_seconds: float | None = None
    ratio_to_torch: dict[str, Ratio] | None = None
    compile_seconds: float | None = None
    first_result_seconds: dict[str, float | None] | None = None
    peak_rss_bytes: int | None = None
    flop_rate: float | None = None
    flop_rate_share: float | None = None
    first_loss: float | None = None
    first_accuracy: float | None = None


def row_of(
    entrant: Entrant,
    train_images: int,
    rivals: Iterable[Entrant],
    matmul_rate: float,
    first: FirstResult | None = None,
) -> Row:
    """Return an entrant's row once its race is over.

    Args:
        entrant: of the race.
        train_images: in an epoch.
        rivals: PyTorch's, of the same race; the fastest counts.
        matmul_rate: of the machine, in operations a second.
        first: how long a fresh process takes to its first result.
    """
    job = entrant.job
    name = (job.task.variant, job.contender, job.runs, train_images)
    if entrant.reason is not None:
        return Row(*name, reason=entrant.reason)
    train_turns, test_turns = (tuple(turns) for turns in zip(*entrant.turns, strict=True))
    train_seconds = statistics.median(train_turns)
    flop_rate = None if entrant.flops is None else entrant.flops / train_seconds
    return Row(
        *name,
        devices=entrant.built["devices"],
        epochs_per_turn=entrant.epochs,
        train_turns=train_turns,
        test_turns=test_turns,
        train_seconds=train_seconds,
        test_seconds=statistics.median(test_turns),
        ratio_to_torch=ratios_of(entrant, [rival for rival in rivals if rival is not entrant]),
        compile_seconds=entrant.built["compile_seconds"],
        first_result_seconds=None if first is None else first._asdict(),
        peak_rss_bytes=entrant.last["peak_rss_bytes"],
        flop_rate=flop_rate,
        flop_rate_share=None if flop_rate is None else flop_rate / matmul_rate,
        first_loss=entrant.first["train_loss"],
        first_accuracy=entrant.first["test_accuracy"],
    )


def ratios_of(entrant: Entrant, rivals: Sequence[Entrant]) -> dict[str, Ratio] | None:
    """Return the ratios to the fastest rival, of training and of testing; None without a rival."""
    rivals = [rival for rival in rivals if rival.reason is None]
    if not rivals:
        return None
    ratios = {}
    for part, own, *others in zip(
        ("train", "test"),
        *(zip(*one.turns, strict=True) for one in (entrant, *rivals)),
        strict=True,
    ):
        seconds, rival = min(
            zip(others, rivals, strict=True), key=lambda pair: statistics.median(pair[0])
        )
        ratios[part] = ratio(own, seconds, rival.job.contender, rival.job.runs)
    return ratios


def ratio(
    own: Sequence[float], rival: Sequence[float], name: str = "torch", seeds_at_once: int = 1
) -> Ratio:
    """Return the ratio of seconds that were measured in the same rounds; see `METHODS`.

    >>> two = ratio([1.0, 1.0, 2.0], [2.0, 3.0, 5.0])
    >>> two.median, round(two.low, 2), round(two.high, 2)
    (2.5, 1.49, 4.08)
    """
    quotients = np.asarray(rival) / np.asarray(own)
    interval = t_interval(np.log(quotients))
    return Ratio(
        median=float(np.median(quotients)),
        low=None if interval.low is None else math.exp(interval.low),
        high=None if interval.high is None else math.exp(interval.high),
        n=interval.n,
        rival=name,
        rival_seeds_at_once=seeds_at_once,
        rival_seconds=tuple(rival),
    )


# Files


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
    """Make the folder, without an earlier benchmark.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        for name in FILES:
            (path / name).unlink(missing_ok=True)
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


def write_json(
    path: Path,
    facts: Mapping[str, Any],
    rows: Iterable[Row],
    profiles: Sequence[Mapping[str, Any]],
    finished: bool,
) -> None:
    """Write benchmark.json: what was measured, on what and how."""
    content = {
        **facts,
        "finished": finished,
        "methods": METHODS,
        "rows": [asdict(row) for row in rows],
        "profiles": profiles,
    }
    write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


# The screen

COLUMNS = (
    "training\ns",
    "PyTorch's\n/ its own",
    "test\ns",
    "PyTorch's\n/ its own",
    "compile\ns",
    "start\ns",
    "peak\nMB",
    "GFLOP/s\n",
)
CAPTION = (
    "training, test: seconds of an epoch and of a test, per model. start: seconds from the start of"
    " a process to its first result on the sample, without / with a compilation cache. GFLOP/s: of"
    " matrix products, and their part of the machine's."
)


def table_of(rows: Sequence[Row]) -> Table:
    """Return all rows as one table."""
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, caption=CAPTION
    )
    table.add_column("contender", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    variant = None
    for row in rows:
        if row.variant != variant:
            variant = row.variant
            table.add_section()
            table.add_row(variant, style="bold")
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    name = row.contender + (f" x{row.seeds_at_once}" if row.seeds_at_once > 1 else "")
    if row.reason is not None:
        return (f" {name}", "not measured")
    ratios = row.ratio_to_torch or {}
    first = row.first_result_seconds or {}
    rate = _number(row.flop_rate, 1e-9, 0)
    if row.flop_rate_share is not None:
        rate += f" {row.flop_rate_share:3.0%}"
    return (
        f" {name}",
        _number(row.train_seconds, 1, 3),
        _ratio_text(ratios.get("train")),
        _number(row.test_seconds, 1, 3),
        _ratio_text(ratios.get("test")),
        _number(row.compile_seconds, 1, 1),
        " / ".join(f"{x:.1f}" for x in first.values() if x is not None),
        _number(row.peak_rss_bytes, 1e-6, 0),
        rate,
    )


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _ratio_text(found: Ratio | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return short(found.median)
    return f"{short(found.median)} [{short(found.low)}, {short(found.high)}]"


def short(number: float | None) -> str:
    """Return a ratio in few characters; empty for None.

    >>> short(2.345), short(234.5)
    ('2.35', '234')
    """
    return "" if number is None else f"{number:.{2 if number < 100 else 0}f}"


def profile_table(profiles: Sequence[Mapping[str, Any]]) -> Table:
    """Return where the time of jax_lenet's training epochs goes."""
    caption = "Where jax_lenet's training time goes."
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, caption=caption
    )
    table.add_column("variant", no_wrap=True)
    for name in ("products", "other", "idle"):
        table.add_column(name, justify="right")
    table.add_column("the largest other operations")
    for one in profiles:
        if "reason" in one:
            table.add_row(one["variant"], "", "", "", f"not measured: {one['reason']}")
            continue
        largest = (f"{x['source'] or x['name']} {x['share']:.1%}" for x in one["operations"][:3])
        shares = (f"{one[name]:.0%}" for name in ("product", "other", "idle"))
        table.add_row(one["variant"], *shares, ", ".join(largest))
    return table
