"""What the charts share: the variants' colours, names and marks, headings, the error scale.

The accuracy axis is logarithmic in the error, 1 - accuracy: from 60% to 98% and from 98% to 99% are
both visible.
"""

import io
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

# Found by a search: every two stay apart for full, protan, deutan and tritan sight, and each
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
MARKERS = dict(zip(COLOURS, "osD^vp", strict=True))

SIZE_INCHES = (12.0, 8.2)
DPI = 150
# One image of 10,000: accuracy 1 has no place on a logarithmic axis of errors and is drawn here.
LEAST_ERROR = 1e-4
ACCURACY_TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
FINE_TICKS = (0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.94, 0.96, 0.97, 0.975, 0.985, 0.992)
EPOCH_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
TEXT, QUIET = "#1a1a1a", "#595959"
NOTE: dict[str, Any] = {"size": 10.5, "color": QUIET}
STYLE: dict[str, Any] = {
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "errorbar.capsize": 6,
    "figure.subplot.left": 0.065,
    "figure.subplot.right": 0.985,
    "figure.subplot.bottom": 0.165,
    "figure.subplot.wspace": 0.29,
    "figure.subplot.hspace": 0.47,
    "legend.columnspacing": 1.6,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.handletextpad": 0.5,
    "text.parse_math": False,  # a dollar sign in a file's name is a dollar sign
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
}


def png(figure: Figure) -> bytes:
    """Return the picture in 256 colours, a third of the size of millions and the same to the eye.

    It holds no date and no version: a picture changes only when its content does.
    """
    canvas = FigureCanvasAgg(figure)
    with style():
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True, dpi=(DPI, DPI))
    return file.getvalue()


def style() -> AbstractContextManager[Any]:
    """Return the context that draws alike whatever the user's matplotlibrc says."""
    return matplotlib.style.context(["default", STYLE])


def headline(figure: Figure, title: str, subtitle: str) -> float:
    """Write title and subtitle; return where the charts may begin, as a fraction of the height."""
    below = textwrap.wrap(subtitle, 125, max_lines=4, placeholder=" ...") or [""]
    figure.text(
        0.012, 0.985, title, va="top", size=min(18, 1300 / max(len(title), 1)), weight="bold"
    )
    figure.text(0.012, 0.941, "\n".join(below), va="top", size=12, color=QUIET)
    return 0.84 - 0.025 * (len(below) - 1)


def heading(axes: Axes, title: str, note: str, color: str = TEXT) -> None:
    """Write a panel's title and, below it, a note."""
    axes.set_title(title, loc="left", weight="bold", color=color, pad=22)
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", **NOTE)


def use_error_scale(panels: Sequence[Axes], low: float, high: float) -> None:
    """Give panels the same axis of accuracy, logarithmic in the error, with room for a range.

    Args:
        panels: to change.
        low: the least accuracy to show.
        high: the greatest.
    """
    margin = 0.08 * max(height_of(high) - height_of(low), 0.1)
    limits = accuracy_at(height_of(low) - margin), accuracy_at(height_of(high) + margin)
    for panel in panels:
        panel.set_yscale("function", functions=(height_of, accuracy_at))
        panel.set_ylim(limits)
        panel.yaxis.set_major_locator(FixedLocator(accuracy_ticks(*limits)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        panel.grid(axis="y", color="#e3e3e3", zorder=0)


def height_of(accuracy: Any) -> Any:
    """Return where an accuracy stands on the error scale: 1 at 90%, 2 at 99%."""
    return -np.log10(np.maximum(1 - np.asarray(accuracy, float), LEAST_ERROR))


def accuracy_at(height: Any) -> Any:
    """Return the accuracy at a height of the error scale."""
    return 1 - 10.0 ** -np.asarray(height, float)


def accuracy_ticks(low: float, high: float) -> list[float]:
    """Return the round accuracies in a range that stand far enough apart to be read."""
    kept: list[float] = []
    gap = 0.085 * (height_of(high) - height_of(low))
    for choice in (ACCURACY_TICKS, sorted(ACCURACY_TICKS + FINE_TICKS)):
        if len(kept) < 4:  # a narrow range: too few of the roundest
            kept = []
            for tick in (tick for tick in choice if low <= tick <= high):
                if not kept or height_of(tick) - height_of(kept[-1]) > gap:
                    kept.append(tick)
    return kept


def epoch_ticks(epochs: int) -> list[int]:
    """Return about six round epochs, with the first and without an epoch 0."""
    step = next((step for step in EPOCH_STEPS if epochs <= 6 * step), epochs)
    return sorted({1, *range(step, epochs + 1, step)})
