"""The report's six charts on one page: `draw` makes figure1.png and figure2.png.

Left, bars by variant: total running time and last-epoch test accuracy. Right, accuracy by epoch
of each of the four variants: columns without and with batch norm, rows without and with dropout.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from experiments import durable
from experiments.chart import (
    COLOURS,
    DPI,
    LABELS,
    MARKERS,
    NOTE,
    QUIET,
    SIZE_INCHES,
    TEXT,
    epoch_ticks,
    heading,
    headline,
    png,
    style,
    use_error_scale,
)
from experiments.summary import Curve
from jax_lenet.statistics import t_interval

FIGURES = {
    "figure1.png": ("LeNet", "LeNet_BN_noDropout", "LeNet_noBN_Dropout", "LeNet_BN_Dropout"),
    "figure2.png": ("LeNet", "LeNet_BN_noDropout", "LeNet_noBN_drop6", "LeNet_BN_drop6"),
}
"""By file name, the variants in the report's order."""

# More runs than this are a band: lines would hide one another.
MAX_LINES = 20
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))

BAR: dict[str, Any] = {"width": 0.72, "lw": 1.5, "zorder": 2}
FEW_DOTS: dict[str, Any] = {"s": 22, "zorder": 3, "edgecolors": "white", "lw": 0.6}
MANY_DOTS: dict[str, Any] = {"s": 6, "zorder": 3, "edgecolors": "none", "alpha": 0.5}
INTERVAL: dict[str, Any] = {"color": TEXT, "capthick": 1.6, "elinewidth": 1.6, "zorder": 4}
OWN_LINE: dict[str, Any] = {"lw": 2.8, "ms": 7, "mec": "white", "mew": 0.8, "zorder": 4}
PALE_LINE: dict[str, Any] = {"lw": 1.6, "ms": 4, "alpha": 0.3, "zorder": 2}
RUN_LINE: dict[str, Any] = {"lw": 0.9, "ms": 3, "marker": ".", "alpha": 0.55, "zorder": 3}


def draw(curves: Sequence[Curve], path: Path, *, title: str, subtitle: str) -> None:
    """Write one of `FIGURES`; the same arguments give the same bytes.

    Args:
        curves: of any variants, in any order; what the figure does not show is passed over, what
            it lacks leaves an empty place.
        path: the file, named as in `FIGURES`. It appears whole or not at all.
        title: plain text, as is everything written here: a dollar sign is a dollar sign.
        subtitle: data, epochs, seeds and what the intervals are.

    Raises:
        ValueError: if the file's name is not one of `FIGURES`.
        StorageError: if it cannot be written.
    """
    if path.name not in FIGURES:
        raise ValueError(f"{path.name}: expected a file named {' or '.join(FIGURES)}")
    figure = build(curves, FIGURES[path.name], title=title, subtitle=subtitle)
    durable.write(path, png(figure))


def build(curves: Sequence[Curve], variants: Sequence[str], *, title: str, subtitle: str) -> Figure:
    """Return the page: time bars, accuracy bars and a panel of curves a variant, in order."""
    given = {curve.variant: curve for curve in curves if curve.test_accuracy.size}
    shown = {variant: given.get(variant) for variant in variants}
    with style():
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
        top = headline(figure, title, subtitle)
        grid = figure.add_gridspec(2, 3, width_ratios=(1.1, 1, 1), top=top)
        _time_bars(figure.add_subplot(grid[0, 0]), shown)
        _accuracy_bars(figure.add_subplot(grid[1, 0]), shown)
        panels = [figure.add_subplot(grid[i // 2, 1 + i % 2]) for i in range(len(shown))]
        for panel, variant in zip(panels, shown, strict=True):
            _curves(panel, shown, variant)
        _share_axes(panels, [curve for curve in shown.values() if curve])
        _legend(figure, variants)
    return figure


def _legend(figure: Figure, variants: Sequence[str]) -> None:
    """Say once which of the code's names each short label stands for."""
    handles = [
        Line2D([], [], color=COLOURS[v], marker=MARKERS[v], lw=2.5, ms=7, label=f"{LABELS[v]}: {v}")
        for v in variants
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), bbox_to_anchor=(0.5, 0.025)
    )
    words = "Curves: thick, the model's own; pale, the other three. Their scale is logarithmic in"
    figure.text(0.5, 0.012, words + " the error rate.", ha="center", **NOTE)


def _runs(count: int) -> str:
    return f"{count:,} run" + "s" * (count != 1)


# Bars


def _time_bars(axes: Axes, shown: dict[str, Curve | None]) -> None:
    seconds = {v: _finite(c.total_seconds) for v, c in shown.items() if c}
    longest = max((values.max() for values in seconds.values() if len(values)), default=1.0)
    unit, size = next(unit for unit in UNITS if longest >= 2 * unit[1] or unit == UNITS[-1])
    values = {variant: s / size for variant, s in seconds.items()}
    digits = int(np.clip(2 - np.floor(np.log10(max(longest / size, 1e-9))), 0, 6))
    top = _bars(axes, shown, values, f"{{:.{digits}f}}")[1]
    axes.set_ylim(0, 1.14 * top or 1)
    axes.set_ylabel(unit)
    heading(axes, "Total running time", _interval_note(values))


def _accuracy_bars(axes: Axes, shown: dict[str, Curve | None]) -> None:
    values = {v: _finite(c.test_accuracy[:, -1:].ravel()) for v, c in shown.items() if c}
    low, high = _bars(axes, shown, values, "{:.2%}", ceiling=1.0)
    bottom = _cut(low, high)
    axes.set_ylim(bottom, high + 0.16 * (high - bottom))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= 1]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    if bottom > 0:
        _mark_cut(axes, bottom)
    heading(axes, "Last-epoch test accuracy", _interval_note(values))


def _bars(
    axes: Axes,
    shown: dict[str, Curve | None],
    values: dict[str, np.ndarray],
    text: str,
    ceiling: float = np.inf,
) -> tuple[float, float]:
    """Draw means with intervals and single runs; return the least and the greatest value drawn."""
    drawn = []
    for place, variant in enumerate(shown):
        runs = values.get(variant, np.empty(0))
        if len(runs):
            drawn += _bar(axes, place, COLOURS[variant], runs, text, ceiling)
        else:
            words = "no\nresult" if shown[variant] else "not\nrun"
            where = axes.get_xaxis_transform()
            axes.text(place, 0.13, words, transform=where, ha="center", style="italic", color=QUIET)
    labels = [LABELS[variant].replace("+ ", "+\n") for variant in shown]
    axes.set_xticks(range(len(shown)), labels)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(shown) - 0.45)
    return (min(drawn), max(drawn)) if drawn else (0.0, 1.0)


def _bar(
    axes: Axes, place: int, color: str, runs: np.ndarray, text: str, ceiling: float
) -> list[float]:
    """Draw one variant's bar, pale so that runs and interval show on it; return its extremes.

    An interval is cut where no value can be: below 0 and above the ceiling.
    """
    mean, low, high, *_ = t_interval(runs)
    drawn = [mean]
    axes.bar(place, mean, color=(color, 0.5), edgecolor=color, **BAR)
    if low is not None and high is not None:
        low, high = max(low, 0.0), min(high, ceiling)
        axes.errorbar(place, mean, ((mean - low,), (high - mean,)), **INTERVAL)
        drawn = [low, high, *runs]
        # Side by side in the seeds' order, the interval's place left free: no random jitter.
        aside = np.linspace(-0.22, 0.22, len(runs))
        look = MANY_DOTS if len(runs) > 3 * MAX_LINES else FEW_DOTS
        axes.scatter(place + aside + 0.08 * np.sign(aside + 1e-9), runs, color=color, **look)
    above: Any = {"textcoords": "offset points", "ha": "center", "annotation_clip": False}
    axes.annotate(text.format(mean), (place, max(drawn)), (0, 6), **above)
    return [min(drawn), max(drawn)]


def _interval_note(values: dict[str, np.ndarray]) -> str:
    counts = sorted({len(runs) for runs in values.values() if len(runs)})
    if not counts:
        return "no run"
    if counts[-1] == 1:
        return "one run, so no interval"
    several = _runs(counts[-1]) if len(counts) == 1 else f"{counts[0]:,} to {_runs(counts[-1])}"
    return f"mean of {several}, 95% t-interval"


def _cut(low: float, high: float) -> float:
    """Return where an axis of bars begins so that values between low and high can be told apart."""
    span = max(high - low, 0.004)
    bottom = low - 0.7 * span
    if bottom < 0.5:
        return 0.0
    step = 10.0 ** np.floor(np.log10(span))
    return float(round(np.floor(bottom / step) * step, 6))


def _mark_cut(axes: Axes, bottom: float) -> None:
    """Say and show that the bars do not begin at zero, so that nobody compares their lengths."""
    x = np.linspace(-0.02, 1, 400)
    wave = 0.075 + 0.012 * np.sin(2 * np.pi * 26 * x)
    for offset, color, width in ((0, "white", 5), (-0.014, QUIET, 0.8), (0.014, QUIET, 0.8)):
        edge = Line2D(x, wave + offset, color=color, lw=width, transform=axes.transAxes, zorder=5)
        edge.set_clip_on(False)
        axes.add_artist(edge)
    axes.set_xlabel(f"bars are cut: the axis starts at {100 * bottom:.4g}%, not at 0", color=QUIET)


# Curves


def _curves(axes: Axes, shown: dict[str, Curve | None], variant: str) -> None:
    """Draw one variant's accuracy by epoch over the others' pale means."""
    for other, curve in shown.items():
        if curve and other != variant:
            _line(axes, other, curve.mean_accuracy, PALE_LINE)
    curve = shown[variant]
    if curve:
        _spread(axes, curve)
        _line(axes, variant, curve.mean_accuracy, OWN_LINE)
    heading(axes, LABELS[variant], _curve_note(curve) if curve else "not run", COLOURS[variant])


def _line(axes: Axes, variant: str, accuracy: np.ndarray, look: dict[str, Any]) -> None:
    epochs = np.arange(1, len(accuracy) + 1)
    marks: Any = {"marker": MARKERS[variant], "markevery": -(-len(epochs) // 12)}
    axes.plot(epochs, accuracy, color=COLOURS[variant], label=variant, **marks, **look)


def _spread(axes: Axes, curve: Curve) -> None:
    """Draw what stands behind the mean: each run, or the middle 90% of many."""
    color, runs = COLOURS[curve.variant], curve.test_accuracy
    epochs = np.arange(1, runs.shape[1] + 1)
    if len(runs) > MAX_LINES and curve.whole.any():
        low, high = np.percentile(runs[curve.whole], (5, 95), axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.25, lw=0, zorder=3)
        if len(epochs) == 1:  # a band of no width
            axes.vlines(epochs, low, high, color=color, alpha=0.4, lw=6, zorder=3)
    elif len(runs) > 1:
        for run in runs:
            axes.plot(epochs, run, color=color, **RUN_LINE)


def _curve_note(curve: Curve) -> str:
    """Say how many runs the mean is of, what else is drawn, and what kept runs out of it."""
    count, whole = len(curve.seeds), int(curve.whole.sum())
    diverged = int((~curve.whole & np.isfinite(curve.total_seconds)).sum())
    unfinished = count - whole - diverged
    if diverged and unfinished:
        return f"{diverged:,} diverged, {unfinished:,} unfinished of {count:,}"
    if diverged or unfinished:
        words = f"{count - whole:,} of {_runs(count)} {'diverged' if diverged else 'unfinished'}"
        return f"mean of {whole:,}; {words}" if whole else words
    if count == 1:
        return "one run"
    rest = "each run thin" if count <= MAX_LINES else "band: middle 90%"
    return f"mean of {_runs(count)}, {rest}"


def _share_axes(panels: Sequence[Axes], curves: Sequence[Curve]) -> None:
    """Give all panels the same axes, with room for every finite accuracy and every epoch."""
    finite = _finite(np.concatenate([c.test_accuracy.ravel() for c in curves] or [np.empty(0)]))
    low, high = (finite.min(), finite.max()) if len(finite) else (0.1, 0.99)
    use_error_scale(panels, low, high)
    epochs = max((c.test_accuracy.shape[1] for c in curves), default=1)
    for i, panel in enumerate(panels):
        panel.xaxis.set_major_locator(FixedLocator(epoch_ticks(epochs)))
        panel.set_xlim(1 - 0.04 * epochs, epochs + 0.04 * epochs)
        if i >= 2:
            panel.set_xlabel("epoch")
        if i % 2 == 0:
            panel.set_ylabel("test accuracy")


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
