"""What can be seen on the plots, read back from their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from graft.training.charts import BLUE, ORANGE, confusion_png, rate_curve_png

RATES = np.geomspace(1e-6, 10, 40).tolist()
SMOOTHED = [2.3 - 0.05 * i for i in range(30)] + [0.85 * 1.6**i for i in range(10)]
LOSSES = [loss + 0.1 * (-1) ** i for i, loss in enumerate(SMOOTHED)]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def cells(png, classes):
    """Colours of a matrix's cells, at their upper left: a number is in the middle."""
    picture = pixels(png)
    dark = (picture == 0).all(2)
    frame_rows = np.flatnonzero(dark.sum(1) > 0.6 * picture.shape[1])
    top, bottom = frame_rows[0], frame_rows[-1]
    frame_columns = np.flatnonzero(dark[top : bottom + 1].sum(0) > 0.9 * (bottom - top))
    left, right = frame_columns[0], frame_columns[1]
    fifths = (np.arange(classes) + 0.2) / classes
    rows = (top + fifths * (bottom - top)).astype(int)
    columns = (left + fifths * (right - left)).astype(int)
    return picture[np.ix_(rows, columns)]


def shows(png, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((pixels(png) == rgb).all(2).any())


def test_rows_are_true_classes_and_colours_their_shares():
    colours = cells(confusion_png([[1, 3, 0], [0, 4, 0], [0, 0, 400]], ["a", "b", "c"]), 3)
    blueness = 255 - colours[:, :, 0]
    assert blueness[0, 1] > blueness[0, 0] > blueness[0, 2]
    assert blueness[1, 1] == blueness[2, 2] == blueness.max()
    assert blueness[1, 0] == blueness[2, 0] == blueness[0, 2]


def test_a_class_without_images_is_blank():
    colours = cells(confusion_png([[2, 0], [0, 0]], ["a", "b"]), 2)
    assert (colours[1] == colours[0, 1]).all()


@pytest.mark.parametrize(
    "classes",
    [2, *(pytest.param(classes, marks=pytest.mark.slow) for classes in (25, 26, 100, 1000))],
)
def test_a_picture_stays_of_a_size_to_be_looked_at(classes):
    names = [f"class {i}" for i in range(classes)]
    height, width, _ = pixels(confusion_png(np.eye(classes, dtype=int).tolist(), names)).shape
    assert 400 < height <= width < 2000


def test_names_are_no_formulas_and_need_no_font():
    odd = confusion_png([[2, 0], [0, 1]], ["cost in $", r"$\frac{$ 马"])
    assert pixels(odd).shape == pixels(confusion_png([[2, 0], [0, 1]], ["a", "b"])).shape


@pytest.mark.slow
def test_a_long_name_leaves_room_for_the_matrix():
    alike = [confusion_png([[2, 0], [0, 1]], ["x" * length, "b"]) for length in (30, 3000)]
    assert alike[0] == alike[1]


@pytest.mark.slow
def test_the_suggestion_is_marked():
    marked = rate_curve_png(RATES, LOSSES, SMOOTHED, 1e-2)
    assert shows(marked, ORANGE)
    assert shows(marked, BLUE)
    assert not shows(rate_curve_png(RATES, LOSSES, SMOOTHED, None), ORANGE)


@pytest.mark.slow
def test_a_loss_that_ran_away_does_not_flatten_the_curve():
    def height(png):
        blue = (pixels(png)[:, :400] == [int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]).all(2)
        return np.ptp(np.flatnonzero(blue.any(1)))

    calm = rate_curve_png(RATES[:30], LOSSES[:30], SMOOTHED[:30], None)
    wild = [*SMOOTHED[:39], 1e6]
    assert height(rate_curve_png(RATES, wild, wild, None)) > 0.3 * height(calm)


def test_one_point_is_a_plot():
    assert shows(rate_curve_png([1e-3], [2.0], [2.0], 1e-3), ORANGE)
