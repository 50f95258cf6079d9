"""A transfer report's figures: what is drawn is what was concluded."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from graft.report.transfer.page import gain_figure, labels_figure
from report.transfer.made_up import answers, recorded_spec


@pytest.fixture(scope="module")
def backbone():
    mistakes = {"scratch": 6, "features": 3, "partial": 2, "full": 1}
    return answers("r", recorded_spec(), mistakes).backbones[0]


def uprights(figure: Figure) -> list[tuple[float, float]]:
    """Return the two ends of each upright line, from the left."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    upright = [line for line in lines if line.get_xdata()[0] == line.get_xdata()[1]]
    return [
        tuple(line.get_ydata()) for line in sorted(upright, key=lambda line: line.get_xdata()[0])
    ]


def test_gains_are_drawn_with_their_intervals(backbone):
    intervals = [gain.difference.interval for gain in backbone.gains]
    assert len(intervals) == 3
    ends = [(100 * interval.low, 100 * interval.high) for interval in intervals]
    np.testing.assert_allclose(uprights(gain_figure(backbone)), ends)


def test_accuracies_are_drawn_with_their_intervals(backbone):
    intervals = [point.accuracy.interval for point in backbone.points]
    assert len(intervals) == 4
    ends = [(100 * interval.low, 100 * interval.high) for interval in intervals]
    np.testing.assert_allclose(uprights(labels_figure(backbone, 50)), ends)


def test_without_intervals_the_seeds_are_drawn():
    mistakes = {"scratch": 6, "features": 3, "partial": 2, "full": 1}
    (backbone,) = answers("r", recorded_spec(seeds=2), mistakes).backbones
    dots = [line for line in labels_figure(backbone, 50).axes[0].lines if line.get_marker() == "."]
    drawn = [[value / 100 for value in line.get_ydata()] for line in dots]
    assert drawn == [pytest.approx(list(point.accuracy.seeds)) for point in backbone.points]
    assert not uprights(gain_figure(backbone))
