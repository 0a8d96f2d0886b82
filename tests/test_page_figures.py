"""Where the report page's drawings put what they show."""

import numpy as np
import pytest
from made_up_study import NORM, PLAIN, SUPPORTED, UNDECIDED, part
from scipy import stats

from experiments.page_figures import Tick, forest, learning_curves, missed_digits
from experiments.results import LabelledImages
from experiments.summary import Curve


def test_a_forests_marks_lie_where_their_values_are():
    parts = [
        part("a", "", [NORM, PLAIN], SUPPORTED, (1.0, 0.8, 1.2)),
        part("b", "", [NORM, PLAIN], UNDECIDED, (-0.1, None, None)),
    ]
    drawn = forest(parts)
    # The axis holds -0.1 to 1.2 and 8% of that on either side.
    start, width = -0.1 - 0.08 * 1.3, 1.16 * 1.3
    place = lambda value: pytest.approx(100 * (value - start) / width, abs=0.006)  # noqa: E731
    assert drawn.zero == place(0)
    assert drawn.marks[0][:3] == (place(1), place(0.8), place(1.2))
    assert drawn.marks[0].band == (place(-0.1), place(0.1))
    assert drawn.marks[1][:3] == (place(-0.1), None, None)
    for tick in drawn.ticks:
        assert tick.at == place(float(tick.label))


def test_a_ratio_is_drawn_as_percent_more_with_the_margin_of_both_directions():
    (mark,) = forest(
        [part("a", "", [], SUPPORTED, (1.5, 1.25, 1.75), unit="ratio", margin=0.25)]
    ).marks
    # From -20% (1 / 1.25) to 75%, 8% of 95 more on either side.
    place = lambda value: pytest.approx(100 * (value + 27.6) / 110.2, abs=0.006)  # noqa: E731
    assert mark == (place(50), place(25), place(75), (place(-20), place(25)))


def test_a_learning_curves_band_is_the_t_interval_of_each_epoch():
    draws = np.random.default_rng(0)
    accuracy = 1 - 10.0 ** -draws.uniform(1.4, 1.6, (5, 3))
    accuracy[4, 1:] = np.nan  # diverged, so left out from the start
    curves = [Curve(PLAIN, tuple(range(5)), accuracy, np.ones(5))]
    drawn = learning_curves(curves)
    (panel,) = drawn.panels
    assert panel.note == "mean of 4 runs, band: 95% interval; 1 diverged"
    mean = accuracy[:4].mean(0)
    low, high = stats.t.interval(0.95, 3, mean, stats.sem(accuracy[:4]))
    corners = np.array([corner.split(",") for corner in panel.band.split()], float)
    # The scale is linear in the error's logarithm, and two ticks say where it is.
    one, other = drawn.accuracies[0], drawn.accuracies[-1]
    heights = [np.log10(1 - float(tick.label.rstrip("%")) / 100) for tick in (one, other)]
    per_height = (other.at - one.at) / (heights[1] - heights[0])
    errors = np.log10(1 - np.concatenate([low, high[::-1]]))
    expected = one.at + per_height * (errors - heights[0])
    expected = expected.clip(drawn.shape[4], drawn.shape[5])  # of the panel's top and bottom
    # Places have two decimals, and those of the two ticks are stretched to the band.
    np.testing.assert_allclose(corners[:, 1], expected, atol=0.05)
    assert panel.last == Tick(panel.dots[-1][1], f"{mean[-1]:.2%}")


def test_missed_digits_are_those_of_most_runs_with_what_most_of_the_wrong_say():
    images = np.zeros((4, 28, 28), np.uint8)
    labels = np.array([0, 1, 2, 3], np.uint8)
    said = np.array([[0, 7, 5, 3], [0, 7, 5, 3], [0, 1, 6, 9], [0, 8, 5, 9]])
    found = missed_digits(LabelledImages(images, labels, labels == 1), said)
    # 3 is missed by 2 of 4, which is not most; 2 by all, 1 by three.
    assert [digit[:5] for digit in found] == [(2, 2, 5, 4, False), (1, 1, 7, 3, True)]
