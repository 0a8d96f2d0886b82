"""The report's six charts on one page: `draw` makes figure1.png and figure2.png.

Left, bars by variant: total running time and last-epoch test accuracy. Right, test accuracy by epoch
of each of the four variants: columns without and with batch norm, rows without and with dropout.
"""

import os
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from jax_lenet.statistics import t_interval

FIGURES = {
    "figure1.png": ("LeNet", "LeNet_BN_noDropout", "LeNet_noBN_Dropout", "LeNet_BN_Dropout"),
    "figure2.png": ("LeNet", "LeNet_BN_noDropout", "LeNet_noBN_drop6", "LeNet_BN_drop6"),
}
"""By file name, the variants in the report's order."""

# Found by a search: every two of them stay apart for full, protan, deutan and tritan sight, and each
# has a contrast of at least 3 on white.
COLOURS = {
    "LeNet": "#262626",
    "LeNet_BN_noDropout": "#0072b2",
    "LeNet_noBN_Dropout": "#c74b00",
    "LeNet_BN_Dropout": "#00a05f",
    "LeNet_noBN_drop6": "#be7d9e",
    "LeNet_BN_drop6": "#890005",
}
LABELS = {
    "LeNet": "plain",
    "LeNet_BN_noDropout": "BN",
    "LeNet_noBN_Dropout": "dropout",
    "LeNet_BN_Dropout": "BN + dropout",
    "LeNet_noBN_drop6": "drop6",
    "LeNet_BN_drop6": "BN + drop6",
}
# A second mark beside the colour, for prints in grey.
MARKERS = dict(zip(COLOURS, "osD^vP", strict=True))

SIZE_INCHES = (12.0, 7.6)
DPI = 150
# More runs than this are a band: lines would hide one another.
MAX_LINES = 20
# One image of 10,000: accuracy 1 has no place on a logarithmic axis of errors and is drawn here.
LEAST_ERROR = 1e-4
ACCURACY_TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
TEXT, QUIET = "#1a1a1a", "#595959"


@dataclass(frozen=True)
class Curve:
    """One variant's runs.

    Attributes:
        variant: the model's name.
        seeds: of the runs.
        test_accuracy: fraction, ``[seeds, epochs]``; not finite where a run has diverged or has
            not come yet.
        total_seconds: of all epochs, training plus testing, ``[seeds]``; NaN for a run that is
            not finished, which tells it from one that diverged.
    """

    variant: str
    seeds: tuple[int, ...]
    test_accuracy: np.ndarray
    total_seconds: np.ndarray

    def __post_init__(self) -> None:
        """Raise ValueError if the shapes do not agree."""
        runs, accuracy = len(self.seeds), np.shape(self.test_accuracy)
        if len(accuracy) != 2 or accuracy[0] != runs or np.shape(self.total_seconds) != (runs,):
            raise ValueError(
                f"{self.variant}: expected test_accuracy [{runs}, epochs] and total_seconds"
                f" [{runs}] for {runs} seeds, got {accuracy} and {np.shape(self.total_seconds)}"
            )

    @property
    def whole(self) -> np.ndarray:
        """Whether a run has a finite accuracy in every epoch, bool ``[seeds]``."""
        return np.isfinite(self.test_accuracy).all(1)

    @property
    def trouble(self) -> str:
        """What kept runs from being whole, in words; empty if nothing did."""
        ended = np.isfinite(self.total_seconds)
        diverged, pending = int((~self.whole & ended).sum()), int((~self.whole & ~ended).sum())
        counts = ((diverged, "diverged"), (pending, "not finished"))
        return ", ".join(f"{n} of {_runs(len(self.seeds))} {word}" for n, word in counts if n)


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
    """
    if path.name not in FIGURES:
        raise ValueError(f"{path.name}: expected a file named {' or '.join(FIGURES)}")
    figure = build(curves, FIGURES[path.name], title=title, subtitle=subtitle)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _style():
            # Without matplotlib's version in it, a picture changes only when its content does.
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def build(curves: Sequence[Curve], variants: Sequence[str], *, title: str, subtitle: str) -> Figure:
    """Return the page: time bars, accuracy bars and a panel of curves for each variant, in order."""
    given = {curve.variant: curve for curve in curves if len(curve.seeds)}
    shown = {variant: given.get(variant) for variant in variants}
    with _style():
        figure = Figure(figsize=SIZE_INCHES)
        top = _headline(figure, title, subtitle)
        grid = figure.add_gridspec(
            2, 3, width_ratios=(1.12, 1, 1), left=0.065, right=0.985, bottom=0.135, top=top,
            wspace=0.2, hspace=0.46,
        )  # fmt: skip
        _time_bars(figure.add_subplot(grid[0, 0]), shown)
        _accuracy_bars(figure.add_subplot(grid[1, 0]), shown)
        panels = [figure.add_subplot(grid[i // 2, 1 + i % 2]) for i in range(len(shown))]
        for panel, variant in zip(panels, shown, strict=True):
            _curves(panel, shown, variant)
        _share_axes(panels, [curve for curve in shown.values() if curve])
        _legend(figure, variants)
    return figure


def _style() -> AbstractContextManager[Any]:
    """Return the context that draws alike whatever the user's matplotlibrc says."""
    sizes = {"font.size": 12, "axes.titlesize": 14, "axes.labelsize": 12, "legend.fontsize": 12}
    plain = {"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    return matplotlib.style.context(["default", sizes | plain | colours])


def _headline(figure: Figure, title: str, subtitle: str) -> float:
    """Write title and subtitle; return where the charts may begin, as a fraction of the height."""
    below = textwrap.wrap(subtitle, 125) or [""]
    figure.text(0.012, 0.985, title, va="top", size=18, weight="bold")
    figure.text(0.012, 0.937, "\n".join(below), va="top", size=12, color=QUIET)
    return 0.855 - 0.025 * (len(below) - 1)


def _heading(axes: Axes, title: str, note: str, color: str = TEXT) -> None:
    axes.set_title(title, loc="left", weight="bold", color=color, pad=22)
    axes.annotate(
        note, (0, 1), (0, 6), "axes fraction", "offset points", size=11, color=QUIET
    )  # fmt: skip


def _legend(figure: Figure, variants: Sequence[str]) -> None:
    """Say once which of the code's names each short label stands for."""
    handles = [
        Line2D([], [], color=COLOURS[v], marker=MARKERS[v], lw=2.5, ms=7,
               label=f"{LABELS[v]}: {v}")
        for v in variants
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False,
        columnspacing=1.6, handlelength=1.6, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def _runs(count: int) -> str:
    return f"{count:,} run" + "s" * (count != 1)


# Bars


def _time_bars(axes: Axes, shown: dict[str, Curve | None]) -> None:
    seconds = {v: _finite(c.total_seconds) for v, c in shown.items() if c}
    longest = max((values.max() for values in seconds.values() if len(values)), default=1.0)
    unit, size = next(u for u in (("hours", 3600), ("minutes", 60), ("seconds", 1))
                      if longest >= 2 * u[1] or u[1] == 1)  # fmt: skip
    values = {variant: s / size for variant, s in seconds.items()}
    top = _bars(axes, shown, values, lambda value: f"{value:.3g}")[1]
    axes.set_ylim(0, 1.14 * top or 1)
    axes.set_ylabel(unit)
    _heading(axes, "Total running time", _interval_note(values))


def _accuracy_bars(axes: Axes, shown: dict[str, Curve | None]) -> None:
    values = {v: _finite(c.test_accuracy[:, -1:].ravel()) for v, c in shown.items() if c}
    low, high = _bars(axes, shown, values, lambda value: f"{100 * value:.2f}%")
    low, high = max(low, 0.0), min(high, 1.0)
    bottom = _cut(low, high)
    axes.set_ylim(bottom, high + 0.16 * (high - bottom))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= 1]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    if bottom > 0:
        _mark_cut(axes, bottom)
    _heading(axes, "Last-epoch test accuracy", _interval_note(values))


def _bars(
    axes: Axes,
    shown: dict[str, Curve | None],
    values: dict[str, np.ndarray],
    text: Callable[[float], str],
) -> tuple[float, float]:
    """Draw means with intervals and single runs; return the least and the greatest value drawn."""
    extremes = []
    for place, variant in enumerate(shown):
        runs = values.get(variant, np.empty(0))
        if not len(runs):
            _say_missing(axes, place, "no result" if shown[variant] else "not run")
            continue
        interval = t_interval(runs)
        drawn = [interval.low, interval.high, runs.min(), runs.max()]
        low, high = min(d for d in drawn if d is not None), max(d for d in drawn if d is not None)
        extremes += [low, high]
        _bar(axes, place, COLOURS[variant], interval.estimate, interval.high)
        _dots(axes, place, COLOURS[variant], runs)
        axes.annotate(text(interval.estimate), (place, high), (0, 5), textcoords="offset points",
                      ha="center", va="bottom", annotation_clip=False)  # fmt: skip
    labels = [LABELS[variant].replace("+ ", "+\n") for variant in shown]
    axes.set_xticks(range(len(shown)), labels)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(shown) - 0.45)
    return (min(extremes), max(extremes)) if extremes else (0.0, 1.0)


def _bar(axes: Axes, place: int, color: str, mean: float, high: float | None) -> None:
    """Draw one bar, pale so that dots and interval show on it, with its interval if it has one."""
    axes.bar(place, mean, width=0.72, color=(color, 0.5), edgecolor=color, lw=1.5, zorder=2)
    if high is not None:
        axes.errorbar(
            place, mean, high - mean, color=TEXT, capsize=6, capthick=1.6, elinewidth=1.6, zorder=4
        )


def _dots(axes: Axes, place: int, color: str, runs: np.ndarray) -> None:
    """Draw single runs side by side in the seeds' order: no random jitter, the same bytes."""
    if len(runs) > 1:
        many = len(runs) > 3 * MAX_LINES
        axes.scatter(
            place + np.linspace(-0.28, 0.28, len(runs)), runs, s=6 if many else 22, color=color,
            edgecolors="none" if many else "white", lw=0.6, alpha=0.5 if many else 1, zorder=3,
        )  # fmt: skip


def _say_missing(axes: Axes, place: float, words: str) -> None:
    axes.text(
        place, 0.04, words.replace(" ", "\n"), transform=axes.get_xaxis_transform(),
        ha="center", va="bottom", color=QUIET, style="italic",
    )  # fmt: skip


def _interval_note(values: dict[str, np.ndarray]) -> str:
    counts = sorted({len(runs) for runs in values.values() if len(runs)})
    if not counts:
        return "no run"
    if counts[-1] == 1:
        return "one run, so no interval"
    several = _runs(counts[-1]) if len(counts) == 1 else f"{counts[0]:,}–{_runs(counts[-1])}"
    return f"mean of {several}, 95% t-interval"


def _cut(low: float, high: float) -> float:
    """Return where an axis of bars begins so that values between low and high can be told apart."""
    span = max(high - low, 0.004)
    bottom = low - 0.7 * span
    if bottom < 0.3:
        return 0.0
    step = 10.0 ** np.floor(np.log10(span))
    return float(round(np.floor(bottom / step) * step, 6))


def _mark_cut(axes: Axes, bottom: float) -> None:
    """Say and show that the bars do not begin at zero, so that nobody compares their lengths."""
    x = np.linspace(-0.02, 1, 400)
    wave = 0.075 + 0.012 * np.sin(2 * np.pi * 26 * x)
    for offset, color, width in ((0, "white", 5), (-0.014, QUIET, 0.8), (0.014, QUIET, 0.8)):
        axes.plot(x, wave + offset, color=color, lw=width, transform=axes.transAxes,
                  clip_on=False, zorder=5, scalex=False, scaley=False, gid="cut")  # fmt: skip
    axes.set_xlabel(f"bars are cut: the axis starts at {100 * bottom:.4g}%, not at 0", color=QUIET)


# Curves


def _curves(axes: Axes, shown: dict[str, Curve | None], variant: str) -> None:
    """Draw one variant's accuracy by epoch over the others' pale means."""
    for other, curve in shown.items():
        if curve and other != variant:
            _line(axes, other, _mean(curve), lw=1.6, ms=4, alpha=0.3, zorder=2)
    curve = shown[variant]
    if curve:
        _spread(axes, curve)
        _line(axes, variant, _mean(curve), lw=2.8, ms=7, mec="white", mew=0.8, zorder=4)
    else:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center",
                  size=14, color=QUIET, style="italic")  # fmt: skip
    _heading(axes, LABELS[variant], _curve_note(curve) if curve else "", COLOURS[variant])


def _line(axes: Axes, variant: str, accuracy: np.ndarray, **look: Any) -> None:
    epochs = np.arange(1, len(accuracy) + 1)
    every = -(-len(epochs) // 12)
    axes.plot(epochs, accuracy, color=COLOURS[variant], marker=MARKERS[variant],
              markevery=every, label=variant, **look)  # fmt: skip


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
            axes.plot(epochs, run, color=color, lw=0.9, alpha=0.55, marker=".", ms=3, zorder=3)


def _curve_note(curve: Curve) -> str:
    count, whole = len(curve.seeds), int(curve.whole.sum())
    if count == 1:
        words = "one run"
    elif count > MAX_LINES:
        words = f"mean of {whole:,}, band: middle 90% of runs"
    else:
        words = f"mean of {_runs(whole or count)}, each run thin"
    return f"{words}; {curve.trouble}" if curve.trouble else words


def _mean(curve: Curve) -> np.ndarray:
    """Return the mean accuracy by epoch, ``[epochs]``, NaN where there is none.

    It is over the same runs in every epoch, the whole ones: a mean that lost a run half way would
    jump for no reason of the variant's.
    """
    runs = curve.test_accuracy[curve.whole] if curve.whole.any() else curve.test_accuracy
    finite = np.isfinite(runs)
    total = np.where(finite, runs, 0).sum(0)
    return np.where(finite.any(0), total / np.maximum(finite.sum(0), 1), np.nan)


def _share_axes(panels: Sequence[Axes], curves: Sequence[Curve]) -> None:
    """Give all panels the same axes, with room for every finite accuracy and every epoch.

    The accuracy axis is logarithmic in the error, 1 - accuracy: from 60% to 98% and from 98% to
    99% are both visible.
    """
    finite = _finite(np.concatenate([c.test_accuracy.ravel() for c in curves] or [np.empty(0)]))
    low, high = (finite.min(), finite.max()) if len(finite) else (0.1, 0.99)
    margin = 0.08 * max(_height(high) - _height(low), 0.1)
    limits = _accuracy(_height(low) - margin), _accuracy(_height(high) + margin)
    epochs = max((c.test_accuracy.shape[1] for c in curves), default=1)
    for i, panel in enumerate(panels):
        panel.set_yscale("function", functions=(_height, _accuracy))
        panel.set_ylim(limits)
        panel.yaxis.set_major_locator(FixedLocator(_ticks(*limits)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        panel.set_xlim(1 - 0.04 * epochs, epochs + 0.04 * epochs)
        panel.grid(axis="y", color="#e3e3e3", zorder=0)
        if i >= 2:
            panel.set_xlabel("epoch")
        if i % 2 == 0:
            panel.set_ylabel("test accuracy")


def _height(accuracy: Any) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(accuracy, float), LEAST_ERROR))


def _accuracy(height: Any) -> Any:
    return 1 - 10.0 ** -np.asarray(height, float)


def _ticks(low: float, high: float) -> list[float]:
    """Return the round accuracies in a range that stand far enough apart to be read."""
    kept: list[float] = []
    gap = 0.06 * (_height(high) - _height(low))
    for tick in ACCURACY_TICKS:
        if low <= tick <= high and (not kept or _height(tick) - _height(kept[-1]) > gap):
            kept.append(tick)
    return kept


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
