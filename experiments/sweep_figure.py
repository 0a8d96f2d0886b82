"""A sweep's chart: accuracy by rate, of training, validation and test images.

A panel for each model and, in a dropout sweep, each choice of layers; all with the same axes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.chart import (
    DPI,
    NOTE,
    QUIET,
    SIZE_INCHES,
    heading,
    headline,
    png,
    style,
    use_error_scale,
)
from experiments.sweep_results import RateCurve, in_points
from jax_lenet.models import VARIANTS
from jax_lenet.statistics import t_interval


class Look(NamedTuple):
    """How one set of images is drawn: told apart by colour, by mark and by line."""

    color: str
    marker: str
    line: str


# Of the other figures' colours, three that any sight tells apart.
LOOKS = {
    "training": Look("#262626", "^", ":"),
    "validation": Look("#c74b00", "D", "--"),
    "test": Look("#0072b2", "o", "-"),
}
LAYERS = {"drop6": "drop6 alone", "drop7": "drop7 alone", "both": "both layers"}
MAX_COLUMNS = 3
MAX_RATES = 9  # more would run into one another below an axis
CHOSEN: dict[str, Any] = {
    "color": QUIET,
    "lw": 7,
    "alpha": 0.25,
    "solid_capstyle": "butt",
    "zorder": 1,
}
MARKS: dict[str, Any] = {"ms": 5.5, "mec": "white", "mew": 0.6, "lw": 1.8, "zorder": 3}
BAND: dict[str, Any] = {"alpha": 0.18, "lw": 0, "zorder": 2}


def draw(curves: Sequence[RateCurve], *, title: str, subtitle: str) -> bytes:
    """Return the chart as a PNG; the same arguments give the same bytes.

    Args:
        curves: of one sweep, at least one.
        title: plain text.
        subtitle: data, epochs, seeds.
    """
    return png(build(curves, title=title, subtitle=subtitle))


def build(curves: Sequence[RateCurve], *, title: str, subtitle: str) -> Figure:
    """Return the page: a panel for each curve, in order."""
    columns = len({c.candidates.layers for c in curves})
    if columns == 1:  # one choice of layers, or none: the models side by side
        columns = min(len(curves), MAX_COLUMNS)
    rows = -(-len(curves) // columns)
    with style():
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
        top = headline(figure, title, subtitle)
        grid = figure.add_gridspec(rows, columns, top=top, left=0.085)
        panels = [figure.add_subplot(grid[divmod(i, columns)]) for i in range(len(curves))]
        for panel, curve in zip(panels, curves, strict=True):
            _panel(panel, curve)
        _share_axes(panels, curves, columns)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower center", ncols=len(handles), bbox_to_anchor=(0.5, 0.025)
        )
        figure.text(0.5, 0.012, _words(curves), ha="center", **NOTE)
    return figure


def _panel(axes: Axes, curve: RateCurve) -> None:
    """Draw one curve's three sets, and where its choice fell."""
    axes.axvline(curve.chosen_rate, label="rate chosen on validation", **CHOSEN)
    for name, accuracy in (
        ("training", curve.train_accuracy),
        ("validation", curve.validation_accuracy),
        ("test", curve.test_accuracy),
    ):
        _line(axes, curve.candidates.rates, accuracy, name)
    heading(axes, _name(curve), _note(curve))


def _line(axes: Axes, rates: Sequence[float], accuracy: np.ndarray, name: str) -> None:
    """Draw the mean over the seeds with its interval, cut where no accuracy can be."""
    look = LOOKS[name]
    mean = accuracy.mean(1)
    axes.plot(rates, mean, look.line, color=look.color, marker=look.marker, label=name, **MARKS)
    if accuracy.shape[1] > 1:
        ends = [t_interval(of_rate)[1:3] for of_rate in accuracy]
        low, high = np.clip(np.array(ends, np.float64), 0, 1).T
        axes.fill_between(rates, low, high, color=look.color, **BAND)


def _words(curves: Sequence[RateCurve]) -> str:
    """Say what cannot be seen."""
    baseline = f"{curves[0].candidates.baseline:g}"
    words = f"Test accuracy is compared with that at rate {baseline}."
    if len(curves[0].seeds) > 1:
        words += " Bands: 95% t interval over the seeds; brackets: 95%, over seeds and images."
    return f"{words} The accuracy scale is logarithmic in the error rate."


def _name(curve: RateCurve) -> str:
    candidates = curve.candidates
    if candidates.layers is None:
        return candidates.variant
    norm = "batch norm" if VARIANTS[candidates.variant].batch_norm else "no batch norm"
    return f"{norm}: {LAYERS[candidates.layers]}"


def _note(curve: RateCurve) -> str:
    """Say which rate was chosen, and what such a choice gains on the test images."""
    gain = curve.test_gain
    if gain is None:
        return f"chosen: {curve.chosen_rate:g}"
    return f"chosen: {curve.chosen_rate:g}; gain in test {in_points(gain)} points"


def _share_axes(panels: Sequence[Axes], curves: Sequence[RateCurve], columns: int) -> None:
    """Give all panels the same axis of accuracy, with room for every mean, and its own of rates."""
    means = np.concatenate(
        [
            accuracy.mean(1)
            for c in curves
            for accuracy in (c.train_accuracy, c.validation_accuracy, c.test_accuracy)
        ]
    )
    use_error_scale(panels, means.min(), means.max())
    for i, panel in enumerate(panels):
        _rate_axis(panel, curves[i])
        if i % columns == 0:
            panel.set_ylabel("accuracy")


def _rate_axis(axes: Axes, curve: RateCurve) -> None:
    """Mark the rates that were tried; learning rates by their ratios."""
    rates = curve.candidates.rates
    if curve.candidates.layers is None:
        axes.set_xscale("log")
    axes.set_xlabel("learning rate" if curve.candidates.layers is None else "dropout rate")
    axes.xaxis.set_major_locator(FixedLocator(rates, nbins=MAX_RATES))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
