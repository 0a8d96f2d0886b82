"""The benchmark's chart: seconds of each contender by variant, and runs a minute of many runs."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.benchmark_numbers import Row
from experiments.benchmark_report import write
from experiments.benchmark_scaling import ScalingRow
from experiments.benchmark_tables import short
from experiments.chart import QUIET, TEXT

LABELS = {
    "jax_lenet": "this library",
    "flax": "textbook Flax",
    "torch": "PyTorch",
    "torch_dataloader": "PyTorch, DataLoader",
    "torch_compile": "PyTorch, compiled",
    "torch_cuda_graph": "PyTorch, CUDA graph",
    "torch_vmap": "PyTorch, vmap",
}
# This library's colour stands out; every two stay apart for colour-blind eyes and in grey.
COLOURS = {
    "jax_lenet": "#0072b2",
    "flax": "#8c8c8c",
    "torch": "#c74b00",
    "torch_dataloader": "#e59a6a",
    "torch_compile": "#890005",
    "torch_cuda_graph": "#be7d9e",
    "torch_vmap": "#00a05f",
}
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
}
DPI = 150


#: Of one contender's ways in turn.
DASHES = ("-", "--", ":")


def draw(
    path: Path, facts: Mapping[str, Any], rows: Sequence[Row], scaling: Sequence[ScalingRow] = ()
) -> None:
    """Write the chart; it appears whole or not at all."""
    with matplotlib.style.context(["default", STYLE]):
        file = io.BytesIO()
        figure = build(facts, rows, scaling)
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    write(path, file.getvalue())


def build(
    facts: Mapping[str, Any], rows: Sequence[Row], scaling: Sequence[ScalingRow] = ()
) -> Figure:
    """Return the page: bars of training and testing; below, runs a minute over their number."""
    single = [row for row in rows if row.reason is None]
    many = [row for row in scaling if row.reason is None]
    scaled = list(dict.fromkeys(row.variant for row in many))
    heights = [0.6 + 0.28 * len(single), *([3.6] if scaled else [])]
    figure = Figure(figsize=(12, 1.3 + sum(heights)), layout="constrained")
    sizes = facts["data"]["sizes"]
    figure.suptitle(f"{facts['title']}\n{_subtitle(facts)}", x=0.01, ha="left", fontsize=12)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    training, testing = parts[0].subplots(1, 2, sharey=True)
    _bars(training, single, "train", f"training, seconds per epoch of {sizes['train']:,} images")
    _bars(testing, single, "test", f"testing, seconds for {sizes['test']:,} images")
    training.invert_yaxis()  # the first row on top, in both panels
    if scaled:
        panels = parts[1].subplots(1, max(2, len(scaled)), squeeze=False)[0]
        for axes in panels[len(scaled) :]:
            axes.set_axis_off()
        for axes, variant in zip(panels, scaled, strict=False):
            _lines(axes, [row for row in many if row.variant == variant])
            axes.set_title(f"{variant}: many runs")
        labelled = [axes.get_legend_handles_labels() for axes in panels[: len(scaled)]]
        ways = {
            label: line
            for lines, labels in labelled
            for line, label in zip(lines, labels, strict=True)
        }
        parts[1].legend(
            ways.values(), ways, loc="outside lower center", ncols=3, fontsize=9.5, handlelength=3
        )
    return figure


def _subtitle(facts: Mapping[str, Any]) -> str:
    device = facts["device"]
    where = facts["machine"]["processor"] if device["platform"] == "cpu" else device["kind"]
    sample = " · the embedded sample, not all of MNIST" if facts["data"]["kind"] == "sample" else ""
    return (
        f"{where}, {facts['threads']} cores · jax {facts['versions']['jax']},"
        f" torch {facts['versions']['torch']} · batches of {facts['settings']['batch_size']},"
        f" float32{sample}\n"
        "2x is half of PyTorch's time, in brackets the 95% interval; ticks: single turns"
    )


def _bars(axes: Axes, rows: Sequence[Row], part: str, title: str) -> None:
    """Draw a bar for each row, in groups by variant, and how it compares to PyTorch's."""
    places = _places(rows)
    for row, place in zip(rows, places, strict=True):
        seconds = getattr(row, f"{part}_seconds")
        turns = getattr(row, f"{part}_turns")
        axes.barh(place, seconds, height=0.8, color=COLOURS[row.contender], alpha=0.85, zorder=2)
        axes.plot(turns, [place] * len(turns), "|", color=TEXT, ms=7, alpha=0.6, zorder=3)
        axes.annotate(
            _label(row, part),
            (max(turns), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=TEXT if row.contender == "jax_lenet" else QUIET,
        )
    axes.set_yticks(places, [LABELS[row.contender] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, pad=16)
    axes.margins(y=0.02)
    axes.set_xlim(0, 1.6 * max((max(getattr(row, f"{part}_turns")) for row in rows), default=1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for row, place in zip(rows, places, strict=True):
        if row is next(other for other in rows if other.variant == row.variant):
            axes.text(0, place - 0.55, row.variant, va="bottom", fontsize=10, weight="bold")


def _places(rows: Sequence[Row]) -> list[float]:
    """Return where each row's bar is: one below the other, with a gap between variants."""
    steps = [1.0 if i and row.variant == rows[i - 1].variant else 1.9 for i, row in enumerate(rows)]
    return np.cumsum(steps).tolist()


def _label(row: Row, part: str) -> str:
    """Return a bar's text: its seconds, and how many times as long PyTorch takes."""
    seconds = f"{getattr(row, f'{part}_seconds'):#.3g} s"
    if row.ratio_to_torch is None:
        return seconds
    found = row.ratio_to_torch[part]
    interval = "" if found.low is None else f" [{short(found.low)}, {short(found.high)}]"
    return f"{seconds} · {short(found.estimate)}x{interval}"


def _lines(axes: Axes, rows: Sequence[ScalingRow]) -> None:
    """Draw the runs a minute over the number of runs; a line for each way, ticks for its turns."""
    for way in dict.fromkeys(row.way for row in rows):
        own = [row for row in rows if row.way == way]
        contender = own[0].contender
        ways = list(dict.fromkeys(row.way for row in rows if row.contender == contender))
        counts = [row.runs for row in own]
        axes.plot(
            counts,
            np.array([row.runs_per_minute for row in own]),
            f"o{DASHES[ways.index(way) % len(DASHES)]}",
            color=COLOURS[contender],
            label=way.replace(contender, LABELS[contender]),
            ms=4,
        )
        for row in own:
            axes.plot([row.runs] * len(row.turns or ()), _by_turn(row), "_", color=TEXT, alpha=0.4)
    counts = sorted({row.runs for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"runs; epochs of {rows[0].train_images:,} images")
    axes.set_ylabel("runs a minute\n(ten epochs of 50,000, training alone)")
    axes.grid(axis="y", color="#e3e3e3", zorder=0)


def _by_turn(row: ScalingRow) -> list[float]:
    """Return the runs a minute of each turn."""
    assert row.seconds
    assert row.runs_per_minute
    return [row.runs_per_minute * row.seconds / turn for turn in row.turns or ()]
