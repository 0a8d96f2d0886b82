"""The benchmark's tables on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.benchmark_numbers import Ratio, Row
from experiments.benchmark_scaling import ScalingRow

COLUMNS = (
    "training\ns",
    "PyTorch's\n/ its own",
    "Flax's\n/ its own",
    "test\ns",
    "PyTorch's\n/ its own",
    "prepare\ns",
    "compile\ns",
    "start\ns",
    "peak\nMB",
    "GFLOP/s\n",
)
CAPTION = (
    "training, test: seconds of an epoch and of a test. prepare: once a study, from pixels to what"
    " epochs read. start: seconds from the start of the program (jax_lenet: experiments.ablate) to"
    " its first epoch on the sample; below, with what was compiled before. GFLOP/s: of matrix"
    " products; below, their part of the machine's."
)


def table_of(rows: Sequence[Row]) -> Table:
    """Return all contenders with one model as one table."""
    table = _table(CAPTION)
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


def _table(caption: str) -> Table:
    return Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True, caption=caption
    )


def _cells(row: Row) -> tuple[str, ...]:
    if row.reason is not None:
        return (f" {row.contender}", "not measured")
    torch, flax = row.ratio_to_torch or {}, row.ratio_to_flax or {}
    first = row.first_result_seconds or {}
    starts = [first.get("cold"), first.get("warm")]
    rate = _number(row.flop_rate, 1e-9, 0)
    if row.flop_rate_share is not None:
        rate += f"\n{row.flop_rate_share:.0%}"
    return (
        f" {row.contender}",
        _number(row.train_seconds, 1, 3),
        ratio_text(torch.get("train")),
        ratio_text(flax.get("train")),
        _number(row.test_seconds, 1, 3),
        ratio_text(torch.get("test")),
        _number(row.prepare_seconds, 1, 1),
        _number(row.compile_seconds, 1, 1),
        "\n".join(f"{x:.1f}" for x in starts if isinstance(x, float)),
        _number(row.peak_rss_bytes, 1e-6, 0),
        rate,
    )


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def ratio_text(found: Ratio | None, between: str = "\n") -> str:
    """Return a ratio and its interval; empty for None."""
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return short(found.estimate)
    return f"{short(found.estimate)}{between}[{short(found.low)}, {short(found.high)}]"


def short(number: float | None) -> str:
    """Return a ratio in few characters; empty for None.

    >>> short(2.345), short(12.345), short(234.5)
    ('2.35', '12.3', '234')
    """
    if number is None:
        return ""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def scaling_table(rows: Sequence[ScalingRow]) -> Table:
    """Return runs per minute, a row for each way and a column for each number of runs."""
    images = sorted({row.train_images for row in rows})
    caption = (
        "Runs a minute, trained at once: a run is ten epochs of 50,000 images, at the speed of"
        f" epochs of {', '.join(f'{n:,}' for n in images)}, without its tests. Below:"
        " the seconds of PyTorch's best way for as many runs / its own."
    )
    table = _table(caption)
    counts = sorted({row.runs for row in rows})
    table.add_column("way", no_wrap=True)
    for count in counts:
        table.add_column(f"{count} run{'s' if count > 1 else ''}", justify="right", no_wrap=True)
    for variant in dict.fromkeys(row.variant for row in rows):
        table.add_section()
        table.add_row(variant, style="bold")
        own = [row for row in rows if row.variant == variant]
        for way in dict.fromkeys(row.way for row in own):
            cells = {row.runs: _scaling_cell(row) for row in own if row.way == way}
            table.add_row(f" {way}", *(cells.get(count, "") for count in counts))
    return table


def _scaling_cell(row: ScalingRow) -> str:
    if row.reason is not None:
        return "not measured"
    below = ratio_text(row.ratio_to_torch, between=" ")
    return _number(row.runs_per_minute, 1, 2) + (f"\n{below}" if below else "")


def profile_table(profiles: Sequence[Mapping[str, Any]]) -> Table:
    """Return where the time of jax_lenet's training epochs goes."""
    caption = (
        "Where jax_lenet's training time goes, of a traced epoch. exchange: nothing but an exchange"
        " between the devices, with the wait for the other; idle: no operation runs; tracing: how"
        " much longer it makes the epoch, which is in idle and in small operations above all."
    )
    table = _table(caption)
    table.add_column("variant", no_wrap=True)
    for name in ("products", "other", "exchange", "idle", "tracing"):
        table.add_column(name, justify="right")
    table.add_column("the largest operations but products")
    for one in profiles:
        if "reason" in one:
            table.add_row(one["variant"], *[""] * 5, f"not measured: {one['reason']}")
            continue
        largest = (f"{x['source'] or x['name']} {x['share']:.1%}" for x in one["operations"][:3])
        shares = (f"{one[name]:.0%}" for name in ("product", "other", "collective", "idle"))
        longer = f"{one['seconds'] / one['untraced_seconds'] - 1:+.0%}"
        table.add_row(one["variant"], *shares, longer, ", ".join(largest))
    return table
