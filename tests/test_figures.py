import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from experiments import figures
from experiments.chart import COLOURS, DPI, SIZE_INCHES
from experiments.figures import FIGURES, build, draw
from experiments.summary import Curve

TITLE, SUBTITLE = "LeNet-5 on MNIST", "10,000 test images · seeds 0-7"
FIRST = FIGURES["figure1.png"]
# First and last accuracy, and the runs' standard deviations there.
COURSES = {
    "LeNet": (0.75, 0.1, 0.975, 0.002),
    "LeNet_BN_noDropout": (0.93, 0.01, 0.987, 0.001),
    "LeNet_noBN_Dropout": (0.60, 0.1, 0.971, 0.002),
    "LeNet_BN_Dropout": (0.91, 0.01, 0.984, 0.001),
    "LeNet_noBN_drop6": (0.70, 0.1, 0.974, 0.002),
    "LeNet_BN_drop6": (0.93, 0.01, 0.988, 0.001),
}


def study(seeds: int = 8, epochs: int = 10) -> dict[str, Curve]:
    """Six variants whose error falls as a power of the epoch."""
    curves = {}
    for number, (variant, (first, wide, last, narrow)) in enumerate(COURSES.items()):
        draws = np.random.default_rng(number)
        start = 1 - np.clip(first + wide * draws.normal(size=(seeds, 1)), 0.1, 0.98)
        end = 1 - last + narrow * draws.normal(size=(seeds, 1))
        course = 1 - start * (end / start) ** (np.log10(np.arange(1, epochs + 1)))
        seconds = 10 + number + 0.1 * draws.normal(size=seeds)
        curves[variant] = Curve(variant, tuple(range(seeds)), course, seconds)
    return curves


def page(curves: dict[str, Curve], name: str = "figure1.png") -> Figure:
    return build(list(curves.values()), FIGURES[name], title=TITLE, subtitle=SUBTITLE)


def bars(axes: Axes) -> dict[str, float]:
    """Heights by the label under the bar."""
    labels = {tick.get_position()[0]: tick.get_text() for tick in axes.get_xticklabels()}
    return {
        labels[round(bar.get_x() + bar.get_width() / 2)].replace("\n", " "): bar.get_height()
        for bar in axes.patches
        if isinstance(bar, Rectangle)
    }


def words(axes: Axes) -> str:
    """All that is written on a chart."""
    titles = [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join([*titles, *(text.get_text() for text in axes.texts)])


def line(axes: Axes, variant: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if line.get_label() == variant]
    return np.asarray(found.get_ydata())


def test_the_page_holds_the_reports_six_charts_in_its_order() -> None:
    titles = [axes.get_title(loc="left") for axes in page(study()).axes]
    bar_charts = ["Total running time", "Last-epoch test accuracy"]
    assert titles == [*bar_charts, "plain", "BN", "dropout", "BN + dropout"]
    titles = [axes.get_title(loc="left") for axes in page(study(), "figure2.png").axes]
    assert titles == [*bar_charts, "plain", "BN", "drop6", "BN + drop6"]


def test_bars_are_means_and_carry_the_t_interval_and_every_run() -> None:
    curves = study()
    curves["LeNet"] = Curve(
        "LeNet", (0, 1, 2), np.array([[0.5, 0.97], [0.6, 0.98], [0.7, 0.96]]), np.array([3, 5, 7.0])
    )
    time, accuracy = page(curves).axes[:2]
    assert bars(time)["plain"] == pytest.approx(5)
    assert bars(accuracy)["plain"] == pytest.approx(0.97)
    assert "97.00%" in words(accuracy)
    assert list(bars(accuracy)) == ["plain", "BN", "dropout", "BN + dropout"]
    for axes, values in ((time, [3, 5, 7]), (accuracy, [0.97, 0.98, 0.96])):
        segment = next(c for c in axes.collections if isinstance(c, LineCollection))
        (_, low), (_, high) = segment.get_segments()[0]
        expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (low, high) == pytest.approx(expected, abs=1e-12)
        dots = next(c for c in axes.collections if isinstance(c, PathCollection))
        np.testing.assert_allclose(np.asarray(dots.get_offsets())[:, 1], values)


def test_one_run_has_no_interval_and_says_so() -> None:
    figure = page(study(seeds=1))
    for axes in figure.axes[:2]:
        assert not axes.collections
        assert "one run" in words(axes)
    assert all("one run" in words(axes) for axes in figure.axes[2:])


@pytest.mark.parametrize("name", FIGURES)
def test_a_variant_has_one_colour_in_all_charts_of_both_figures(name: str) -> None:
    time, accuracy, *panels = page(study(), name).axes
    for place, variant in enumerate(FIGURES[name]):
        colour = to_rgb(COLOURS[variant])
        for axes in (time, accuracy):
            assert axes.patches[place].get_facecolor()[:3] == pytest.approx(colour)
        for panel in panels:
            (drawn,) = [line for line in panel.lines if line.get_label() == variant]
            assert to_rgb(drawn.get_color()) == pytest.approx(colour)
            assert drawn.get_marker() == figures.MARKERS[variant]


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_can_be_told_apart(sight: str) -> None:
    # A distance of 2.3 is just noticeable side by side; ten times that is plain at a glance.
    seen = {variant: lab(SIGHT[sight] @ linear(colour)) for variant, colour in COLOURS.items()}
    for one, other in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 23, (one, other)


def test_colours_stand_out_on_white() -> None:
    for colour in COLOURS.values():  # WCAG's contrast of graphics: at least 3 to 1
        assert 1.05 / (np.array([0.2126, 0.7152, 0.0722]) @ linear(colour) + 0.05) >= 3


@pytest.mark.parametrize(("seeds", "epochs"), [(1, 1), (3, 2), (8, 10), (40, 100)])
def test_the_four_curves_share_axes_that_hold_all_data(seeds: int, epochs: int) -> None:
    curves = study(seeds, epochs)
    panels = page(curves).axes[2:]
    assert len({(panel.get_ylim(), panel.get_xlim()) for panel in panels}) == 1
    low, high = panels[0].get_ylim()
    left, right = panels[0].get_xlim()
    assert left < 1 <= epochs < right
    for panel, variant in zip(panels, FIRST, strict=True):
        accuracy = curves[variant].test_accuracy
        assert low < accuracy.min() <= accuracy.max() < high
        for other in FIRST:  # in every panel, for comparison
            np.testing.assert_allclose(
                line(panel, other), curves[other].test_accuracy.mean(0), rtol=1e-12
            )


def test_few_runs_are_lines_and_many_are_a_band_of_their_middle_90_percent() -> None:
    few, many = (page(study(seeds)).axes[2] for seeds in (8, 40))
    assert len(few.lines) == 4 + 8
    assert len(many.lines) == 4
    (band,) = many.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    accuracy = study(40)["LeNet"].test_accuracy
    assert heights.min() == pytest.approx(np.percentile(accuracy[:, 0], 5))
    assert heights.max() == pytest.approx(np.percentile(accuracy, 95, axis=0).max())
    assert "40 runs" in words(many)


def test_the_accuracy_axis_shows_the_differences_and_that_it_is_cut() -> None:
    accuracy = page(study()).axes[1]
    bottom, top = accuracy.get_ylim()
    assert 0.9 < bottom < 0.971 < 0.987 < top
    assert f"starts at {100 * bottom:.4g}%" in words(accuracy)
    assert max(accuracy.get_yticks()) <= 1


def test_an_axis_that_starts_at_zero_is_not_called_cut() -> None:
    curves = study()
    curves["LeNet"].test_accuracy[2] = 0.1  # a run that learnt nothing
    figure = page(curves)
    assert figure.axes[1].get_ylim()[0] == 0
    assert "cut" not in words(figure.axes[1])
    assert figure.axes[2].get_ylim()[0] < 0.1


def test_a_variant_that_was_not_run_leaves_its_place_and_says_so() -> None:
    curves = study()
    del curves["LeNet_BN_noDropout"]
    time, accuracy, *panels = page(curves).axes
    for axes in (time, accuracy):
        assert list(bars(axes)) == ["plain", "dropout", "BN + dropout"]
        assert [tick.get_text() for tick in axes.get_xticklabels()][1] == "BN"
        assert "not\nrun" in words(axes)
    assert "not run" in words(panels[1])
    assert len(panels[1].lines) == 3
    page({})  # nothing at all is no error either


def test_a_diverged_run_is_counted_and_stays_out_of_the_means() -> None:
    curves = study()
    curves["LeNet"].test_accuracy[3, 4:] = np.nan
    time, accuracy, panel, *_ = page(curves).axes
    rest = np.delete(curves["LeNet"].test_accuracy, 3, axis=0)
    assert "1 of 8 runs diverged" in words(panel)
    np.testing.assert_allclose(line(panel, "LeNet"), rest.mean(0), rtol=1e-12)
    assert bars(accuracy)["plain"] == pytest.approx(rest[:, -1].mean())
    assert "7 to 8 runs" in words(accuracy)
    assert bars(time)["plain"] == pytest.approx(curves["LeNet"].total_seconds.mean())


def test_an_unfinished_run_is_not_called_diverged() -> None:
    curves = study()
    curves["LeNet"].test_accuracy[6:, 4:] = np.nan
    curves["LeNet"].total_seconds[6:] = np.nan
    panel = page(curves).axes[2]
    assert "2 of 8 runs unfinished" in words(panel)
    assert "diverged" not in words(panel)


@pytest.mark.parametrize(("scale", "unit"), [(0.01, "seconds"), (60, "minutes"), (3600, "hours")])
def test_long_runs_are_told_in_minutes_and_hours(scale: float, unit: str) -> None:
    curves = {"LeNet": Curve("LeNet", (0,), np.array([[0.9]]), np.array([12.0 * scale]))}
    time = page(curves).axes[0]
    assert time.get_ylabel() == unit
    assert bars(time)["plain"] == pytest.approx(0.12 if unit == "seconds" else 12)


def test_titles_are_plain_text() -> None:
    title, subtitle = "cost $5 & a_b^2 < c$ <b>", r"from C:\data\$x$\{1} · 50% "
    figure = build(list(study().values()), FIRST, title=title, subtitle=subtitle)
    found = {text.get_text(): text for text in figure.texts}
    assert {title, subtitle.strip()} <= set(found)
    assert not any(text.get_parse_math() for text in figure.texts)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("seeds", [1, 2, 8, 1000])
def test_nothing_written_is_cut_off_or_overlaps(name: str, seeds: int) -> None:
    curves = study(seeds)
    curves["LeNet_BN_noDropout"].test_accuracy[: seeds // 3, 5:] = np.nan
    curves["LeNet_BN_noDropout"].total_seconds[: seeds // 6] = np.nan
    long: dict[str, str] = {"title": "A long title: " * 8, "subtitle": "1,234 images " * 20}
    figure = build(list(curves.values()), FIGURES[name], **long)
    FigureCanvasAgg(figure).draw()
    texts = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()
    ]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for said, box in boxes:
        assert figure.bbox.x0 <= box.x0, said
        assert figure.bbox.y0 <= box.y0, said
        assert box.x1 <= figure.bbox.x1, said
        assert box.y1 <= figure.bbox.y1, said
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


def test_the_same_curves_give_the_same_bytes_whatever_the_order(tmp_path) -> None:
    curves = list(study().values())
    path = tmp_path / "figure2.png"
    draw(curves, path, title=TITLE, subtitle=SUBTITLE)
    first = path.read_bytes()
    draw(curves[::-1], path, title=TITLE, subtitle=SUBTITLE)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure2.png"]


def test_the_file_is_a_small_png_of_the_stated_size(tmp_path) -> None:
    path = tmp_path / "figure1.png"
    draw(list(study(200, 50).values()), path, title=TITLE, subtitle=SUBTITLE)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == tuple(round(side * DPI) for side in SIZE_INCHES)
    assert path.stat().st_size < 300_000


def test_a_file_of_another_name_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"figure3\.png: expected .*figure1\.png or figure2\.png"):
        draw([], tmp_path / "figure3.png", title=TITLE, subtitle=SUBTITLE)


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"LeNet: expected test_accuracy \[2, epochs\]"):
        Curve("LeNet", (0, 1), np.zeros((3, 4)), np.zeros(2))
