"""What the report page draws, as numbers for its templates: forest plots, curves and digits.

Forest plots are measured in percent of their width, so that they stretch with the page and their
text does not; learning curves in pixels of a panel that keeps its shape. The templates turn both
into SVG, whose colours are the page's, light or dark.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from experiments.chart import (
    COLOURS,
    LABELS,
    accuracy_at,
    accuracy_ticks,
    epoch_ticks,
    height_of,
)
from experiments.results import LabelledImages
from experiments.summary import Curve
from jax_lenet.statistics import t_interval

LIGHT_COLOURS = COLOURS
# The same hues, light enough for a dark page.
DARK_COLOURS = {
    "LeNet": "#e4e4e4",
    "LeNet_BN_noDropout": "#5cb3ee",
    "LeNet_noBN_Dropout": "#ff9355",
    "LeNet_BN_Dropout": "#35cf8f",
    "LeNet_noBN_drop6": "#dd9dbd",
    "LeNet_BN_drop6": "#ff7a80",
}
MOST_DIGITS = 24


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: float
    label: str


# Forest plots


class Mark(NamedTuple):
    """One difference on its axis, in percent of the plot's width.

    Attributes:
        at: the estimate; None where there is none.
        low: lower end of the interval; None where there is none.
        high: upper end.
        band: both ends of the margin within which a difference has no practical meaning.
    """

    at: float | None
    low: float | None
    high: float | None
    band: tuple[float, float]


@dataclass(frozen=True)
class Forest:
    """Differences of one kind under one another, on one axis.

    Attributes:
        marks: one a difference, in the order given.
        ticks: of the axis, in percent of the width.
        zero: where there is no difference, in percent of the width.
    """

    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    zero: float


def difference(value: float, unit: str) -> float:
    """Return what is drawn of a value: a ratio's percent more or less, points as they are.

    >>> round(difference(1.04, "ratio"), 9), difference(-0.9, "points")
    (4.0, -0.9)
    """
    return 100 * (value - 1) if unit == "ratio" else value


def margin_band(margin: float, unit: str) -> tuple[float, float]:
    """Return both ends of a margin as `difference` measures them.

    A ratio's margin is as wide for a as a share of b as for b as a share of a: 0.25 more is as far
    from no difference as a fifth less.

    >>> low, high = margin_band(0.25, "ratio")
    >>> round(low, 9), high
    (-20.0, 25.0)
    """
    if unit == "ratio":
        return 100 * (1 / (1 + margin) - 1), 100 * margin
    return -margin, margin


def forest(parts: Sequence[dict]) -> Forest:
    """Lay out the parts of a conclusion that are measured alike.

    Args:
        parts: as in summary.json, of one unit: estimate, low, high and margin are read.
    """
    unit = parts[0]["unit"]
    bands = [margin_band(part["margin"], unit) for part in parts]
    drawn = [
        difference(part[end], unit)
        for part in parts
        for end in ("estimate", "low", "high")
        if part[end] is not None
    ]
    left, right = min(0.0, *drawn, *_flat(bands)), max(0.0, *drawn, *_flat(bands))
    pad = 0.08 * (right - left)
    axis = _Axis(left - pad, right + pad, 0.0, 100.0)
    marks = tuple(
        Mark(
            at=_placed(axis, part["estimate"], unit),
            low=_placed(axis, part["low"], unit),
            high=_placed(axis, part["high"], unit),
            band=(axis(band[0]), axis(band[1])),
        )
        for part, band in zip(parts, bands, strict=True)
    )
    values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(axis.low, axis.high)
    ticks = [Tick(axis(value), _signed(float(value))) for value in values]
    inside = tuple(tick for tick in ticks if 4 <= tick.at <= 96)  # a label has a width
    return Forest(marks, inside, axis(0.0))


class _Axis(NamedTuple):
    """A linear scale: values from low to high are drawn from start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * float(np.clip(share, 0, 1)), 2)


def _placed(axis: _Axis, value: float | None, unit: str) -> float | None:
    return None if value is None else axis(difference(value, unit))


def _flat(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [end for pair in pairs for end in pair]


def _signed(value: float) -> str:
    value = round(value, 9)  # the locator's own rounding
    return f"{value:+g}" if value else "0"


# Learning curves

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 284, 10, 196


@dataclass(frozen=True)
class Panel:
    """One variant's learning curve; points are SVG's, ``x,y x,y ...``.

    Attributes:
        variant: the model's name.
        label: the same in short.
        note: how many runs, and which are left out.
        line: the mean by epoch; empty where every run diverged.
        band: the intervals by epoch, a polygon; empty with fewer than two runs.
        dots: the means by epoch, x and y.
        last: height and text of the last epoch's mean; None without one.
        others: the other variants' means, one line each.
    """

    variant: str
    label: str
    note: str
    line: str
    band: str
    dots: tuple[tuple[float, float], ...]
    last: Tick | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class Panels:
    """Learning curves on the same axes.

    Attributes:
        panels: one a variant.
        epochs: ticks of the x axis, in pixels.
        accuracies: ticks of the y axis, in pixels.
        shape: width and height of a panel, then its axes' left, right, top and bottom.
    """

    panels: tuple[Panel, ...]
    epochs: tuple[Tick, ...]
    accuracies: tuple[Tick, ...]
    shape: tuple[int, ...] = (WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)


def learning_curves(curves: Sequence[Curve]) -> Panels:
    """Lay out mean test accuracy by epoch with its 95% t interval over the seeds.

    The accuracy axis is logarithmic in the error, as in the figures. Runs that diverged are left
    out of means and bands, and counted.

    Args:
        curves: at least one, all of the same number of epochs.
    """
    epochs = curves[0].test_accuracy.shape[1]
    runs = np.concatenate([curve.test_accuracy.ravel() for curve in curves])
    runs = runs[np.isfinite(runs)] if np.isfinite(runs).any() else np.array([0.1, 0.99])
    low, high = float(height_of(runs.min())), float(height_of(runs.max()))
    margin = 0.06 * max(high - low, 0.1)
    y = _Axis(low - margin, high + margin, BOTTOM, TOP)
    # One epoch stands in the middle.
    x = _Axis(1, epochs, LEFT + 8, RIGHT - 8) if epochs > 1 else _Axis(0, 2, LEFT, RIGHT)
    means = {c.variant: _line(c.mean_accuracy, x, y) for c in curves if c.whole.any()}
    return Panels(
        panels=tuple(_panel(curve, means, x, y) for curve in curves),
        epochs=tuple(Tick(x(epoch), str(epoch)) for epoch in epoch_ticks(epochs)),
        accuracies=tuple(
            Tick(y(float(height_of(tick))), f"{100 * tick:.4g}%")
            for tick in accuracy_ticks(float(accuracy_at(y.low)), float(accuracy_at(y.high)))
        ),
    )


def _panel(curve: Curve, means: dict[str, str], x: _Axis, y: _Axis) -> Panel:
    runs = curve.test_accuracy[curve.whole]
    mean = runs.mean(0) if len(runs) else np.empty(0)
    points = [(x(epoch), y(float(height_of(value)))) for epoch, value in enumerate(mean, 1)]
    return Panel(
        variant=curve.variant,
        label=LABELS[curve.variant],
        note=_note(len(curve.seeds), len(runs)),
        line=means.get(curve.variant, ""),
        band=_band(runs, x, y) if len(runs) > 1 else "",
        dots=tuple(points) if len(points) <= 30 else (),
        last=Tick(points[-1][1], f"{mean[-1]:.2%}") if points else None,
        others=tuple(line for variant, line in means.items() if variant != curve.variant),
    )


def _note(runs: int, whole: int) -> str:
    if not whole:
        return "no run without a divergence"
    words = "one run, so no band" if whole == 1 else f"mean of {whole:,} runs, band: 95% interval"
    return words if whole == runs else f"{words}; {runs - whole:,} diverged"


def _line(accuracy: np.ndarray, x: _Axis, y: _Axis) -> str:
    return " ".join(f"{x(epoch)},{y(float(height_of(a)))}" for epoch, a in enumerate(accuracy, 1))


def _band(runs: np.ndarray, x: _Axis, y: _Axis) -> str:
    """Return the polygon of the intervals; one epoch's is a narrow box."""
    intervals = [t_interval(of_epoch) for of_epoch in runs.T]
    places = [x(epoch) for epoch in range(1, len(intervals) + 1)]
    if len(intervals) == 1:
        intervals, places = intervals * 2, [places[0] - 5, places[0] + 5]
    ends = [(i.low or 0.0, i.high or 0.0) for i in intervals]  # never None: two runs or more
    lower, upper = (
        [f"{place},{y(float(height_of(e[side])))}" for place, e in zip(places, ends, strict=True)]
        for side in (0, 1)
    )
    return " ".join(lower + upper[::-1])


# Digits


class Missed(NamedTuple):
    """A test image that most runs get wrong.

    Attributes:
        place: in the test set's order, from 0.
        label: the class given.
        guess: the class that most of the wrong runs say.
        missed: how many runs do not say the label.
        wrong_label: whether reviewers found the label wrong.
        picture: a data URI of the image, ink on paper.
    """

    place: int
    label: int
    guess: int
    missed: int
    wrong_label: bool
    picture: str


def missed_digits(test: LabelledImages, predictions: np.ndarray) -> list[Missed]:
    """Return the images that more than half of the runs get wrong, the most missed first.

    Args:
        test: N images.
        predictions: classes that the runs say, integers ``[runs, N]``.

    Returns:
        All of them; `MOST_DIGITS` are as many as a page can show.
    """
    labels = test.labels
    missed = (predictions != labels).sum(0)
    order = np.argsort(-missed, kind="stable")
    most = order[missed[order] > len(predictions) / 2]
    return [
        Missed(
            place=int(i),
            label=int(labels[i]),
            guess=_most_common(predictions[:, i], int(labels[i])),
            missed=int(missed[i]),
            wrong_label=bool(test.wrong[i]),
            picture=data_uri(_png(test.images[i])) if rank < MOST_DIGITS else "",
        )
        for rank, i in enumerate(most)
    ]


def _most_common(said: np.ndarray, label: int) -> int:
    return int(np.bincount(said[said != label], minlength=10).argmax())


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(255 - image).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a link that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
