"""The benchmark's numbers: seconds, and ratios with intervals, of contenders timed in turn."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import quantile_test

from experiments.benchmark_race import Entrant
from experiments.benchmark_start import FirstResult


@dataclass(frozen=True)
class Ratio:
    """How many times as long a rival takes.

    Attributes:
        estimate: median over the rounds.
        low: end of the 95% interval; None with fewer than six rounds.
        high: end of the interval; None as ``low``.
        n: rounds.
        rival: its name.
        fastest: of the fastest turn of each, whichever the rounds.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    rival: str
    fastest: float


def ratio(own: Sequence[float], rival: Sequence[float], name: str) -> Ratio:
    """Return the ratio of seconds that were measured in the same rounds.

    The interval is the median's from ranks, which takes rounds to be independent and nothing else:
    a program that comes in two speeds, process by process, has no normal distribution.

    >>> two = ratio([1.0] * 6, [2.0, 2.1, 2.2, 2.4, 2.5, 5.0], "torch")
    >>> two.estimate, two.low, two.high, two.fastest
    (2.3, 2.0, 5.0, 2.0)
    """
    quotients = np.asarray(rival) / np.asarray(own)
    low, high = quantile_test(quotients, p=0.5).confidence_interval(0.95)
    return Ratio(
        estimate=float(np.median(quotients)),
        low=None if math.isnan(low) else float(low),
        high=None if math.isnan(high) else float(high),
        n=len(quotients),
        rival=name,
        fastest=min(rival) / min(own),
    )


@dataclass(frozen=True)
class Row:
    """A contender's numbers: a row of benchmark.json. All but the first four may be None.

    Attributes:
        variant: the model's name.
        contender: one of `contenders.NAMES`.
        seeds_at_once: how many models train at once: 1, for the others are rows of ``scaling``.
        train_images: of an epoch.
        reason: why nothing was measured, in one line.
        devices: how many CPU devices of JAX share each batch; 1 for PyTorch.
        cores: the numbers of the cores that its process had, as it saw them.
        epochs_per_turn: how many epochs a turn is the mean of.
        train_turns: seconds of training for an epoch, turn by turn.
        test_turns: seconds of a test, turn by turn.
        train_seconds: median of the former.
        test_seconds: median of the latter.
        ratio_to_torch: ``{"train": Ratio, "test": Ratio}``: PyTorch's seconds / its own.
        ratio_to_flax: the same of textbook Flax.
        prepare_seconds: once a study, not in an epoch: from pixels to what an epoch reads. For this
            library cutting the images into blocks and, with batch norm, taking their moments.
        compile_seconds: of compilation ahead of time.
        first_result_seconds: ``{"cold": seconds, "warm": seconds, "reason": why one is None}``.
        peak_rss_bytes: the most that one of its processes had in memory.
        peak_device_bytes: the most that its library held of a GPU's memory; None on a CPU.
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
    cores: list[int] | None = None
    epochs_per_turn: int | None = None
    train_turns: tuple[float, ...] | None = None
    test_turns: tuple[float, ...] | None = None
    train_seconds: float | None = None
    test_seconds: float | None = None
    ratio_to_torch: dict[str, Ratio] | None = None
    ratio_to_flax: dict[str, Ratio] | None = None
    prepare_seconds: float | None = None
    compile_seconds: float | None = None
    first_result_seconds: dict[str, float | str | None] | None = None
    peak_rss_bytes: int | None = None
    peak_device_bytes: int | None = None
    flop_rate: float | None = None
    flop_rate_share: float | None = None
    first_loss: float | None = None
    first_accuracy: float | None = None


def row_of(
    entrant: Entrant,
    train_images: int,
    others: Iterable[Entrant],
    matmul_rate: float,
    first: FirstResult,
) -> Row:
    """Return an entrant's row once its race is over.

    Args:
        entrant: of the race.
        train_images: in an epoch.
        others: all of the same race.
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
    rivals = {one.job.contender: one for one in others if one.reason is None and one is not entrant}
    return Row(
        *name,
        devices=entrant.built["devices"],
        cores=entrant.built["cores"],
        epochs_per_turn=entrant.epochs,
        train_turns=train_turns,
        test_turns=test_turns,
        train_seconds=train_seconds,
        test_seconds=statistics.median(test_turns),
        ratio_to_torch=ratios_of(entrant, rivals.get("torch")),
        ratio_to_flax=ratios_of(entrant, rivals.get("flax")),
        prepare_seconds=entrant.built["prepare_seconds"],
        compile_seconds=entrant.built["compile_seconds"],
        first_result_seconds=first._asdict(),
        peak_rss_bytes=entrant.peaks["peak_rss_bytes"],
        peak_device_bytes=entrant.peaks["peak_device_bytes"],
        flop_rate=flop_rate,
        flop_rate_share=None if flop_rate is None else flop_rate / matmul_rate,
        first_loss=entrant.first["train_loss"],
        first_accuracy=entrant.first["test_accuracy"],
    )


def ratios_of(entrant: Entrant, rival: Entrant | None) -> dict[str, Ratio] | None:
    """Return the ratios to a rival, of training and of testing; None without one."""
    if rival is None:
        return None
    pairs = zip(
        ("train", "test"),
        zip(*entrant.turns, strict=True),
        zip(*rival.turns, strict=True),
        strict=True,
    )
    return {part: ratio(own, its, rival.job.contender) for part, own, its in pairs}
