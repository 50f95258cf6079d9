"""What can be seen on a sweep's plots, read back from their pixels."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from graft.sweep.sweep_charts import (
    _ParallelAxis,
    parallel_png,
    plotted_trials,
    progress_png,
    rate_png,
    sweep_plots,
)
from graft.sweep.sweep_records import TrialEpoch, TrialRecord
from graft.training.charts import BLUE, GREY, ORANGE

GREEN = "#009E73"
METRIC = "val.accuracy"


def record(number, changes, accuracy, state="finished"):
    val = {"accuracy": accuracy, "loss": 1 - accuracy}
    epochs = (TrialEpoch(epoch=1, train=val, val=val),) if state in ("finished", "stopped") else ()
    return TrialRecord(
        number=number,
        id="0" * 12,
        changes=changes,
        state=state,
        epochs=epochs,
        seconds=1.0,
        ended_s=float(number),
    )


def grid(freezes=("all", -1, -3)):
    generator = random.Random(0)
    trials = [
        {"train.optimizer.lr": rate, "backbone.freeze": freeze}
        for freeze in freezes
        for rate in (1e-4, 1e-3, 1e-2, 1e-1)
    ]
    return [record(n, c, generator.uniform(0.6, 0.95)) for n, c in enumerate(trials, 1)]


def many():
    generator = random.Random(1)
    states = ["finished", "finished", "stopped", "failed", "diverged"]
    return [
        record(
            number,
            {
                "train.optimizer.lr": 10 ** generator.uniform(-4, -1),
                "backbone.arch": generator.choice(["squeezenet1_1", "resnet18"]),
                "backbone.freeze": generator.choice(["all", -1, 0]),
                "head": generator.choice([{"kind": "linear"}, {"kind": "mlp", "hidden": [64]}]),
                "preprocess": generator.choice([None, {"crop": 128}]),
                "train.seed": generator.randrange(1000),
            },
            generator.uniform(0.5, 0.99),
            generator.choice(states),
        )
        for number in range(1, 49)
    ]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def shows(png, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((pixels(png) == rgb).all(2).any())


@pytest.fixture(scope="module")
def of_a_grid():
    return sweep_plots(grid(), METRIC, "max")


@pytest.mark.slow
def test_a_grid_has_all_three_and_a_colour_for_each_depth(of_a_grid):
    assert list(of_a_grid) == ["learning-rate.png", "parallel.png", "best-so-far.png"]
    assert all(shows(of_a_grid["learning-rate.png"], colour) for colour in (BLUE, ORANGE, GREEN))
    two = rate_png(plotted_trials(grid(("all", -1)), METRIC, "max"), METRIC)
    assert not shows(two, GREEN)


@pytest.mark.slow
def test_many_trials_of_all_sorts_can_be_drawn_and_looked_at():
    for png in sweep_plots(many(), METRIC, "max").values():
        height, width, _ = pixels(png).shape
        assert 400 < height <= width < 2200


def test_without_learning_rates_there_is_no_plot_of_them():
    trials = [record(n, {"train.seed": n}, 0.5 + n / 10) for n in (1, 2)]
    assert list(sweep_plots(trials, METRIC, "max")) == ["parallel.png", "best-so-far.png"]


@pytest.mark.slow
def test_a_rate_within_a_section_counts():
    trials = [
        record(n, {"train.optimizer": {"kind": "adamw", "lr": 10.0**-n}}, 0.5) for n in (1, 2)
    ]
    assert "learning-rate.png" in sweep_plots(trials, METRIC, "max")


@pytest.mark.parametrize("trials", [[], [record(1, {"train.seed": 1}, 0.5, "failed")]])
def test_where_no_trial_has_a_metric_there_is_nothing_to_draw(trials):
    assert sweep_plots(trials, METRIC, "max") == {}


@pytest.mark.slow
def test_one_trial_is_a_plot():
    trials = plotted_trials([record(1, {"train.optimizer.lr": 0.1}, 0.5)], METRIC, "max")
    assert shows(rate_png(trials, METRIC), BLUE)
    assert shows(progress_png(trials, METRIC, "max"), GREY)
    assert pixels(parallel_png(trials, METRIC)).std() > 0


@pytest.mark.slow
def test_the_best_so_far_only_gets_better():
    def line(mode, accuracies):
        trials = [record(n, {"train.seed": n}, a) for n, a in enumerate(accuracies, 1)]
        picture = pixels(progress_png(plotted_trials(trials, METRIC, mode), METRIC, mode))
        blue = (picture == [int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]).all(2)[:, :700]
        columns = np.flatnonzero(blue.any(0))
        return np.argmax(blue[:, columns], axis=0)

    rows = line("max", [0.5, 0.7, 0.6, 0.9])
    assert (np.diff(rows) <= 1).all()  # upwards, but for the line's own width
    assert rows[0] - rows[-1] > 100
    rows = line("min", [0.9, 0.6, 0.7])
    assert rows[-1] - rows[0] > 100


def test_what_failed_is_marked(of_a_grid):
    trials = grid()
    lost = plotted_trials([*trials, record(13, trials[0].changes, 0, "diverged")], METRIC, "max")
    assert not shows(of_a_grid["best-so-far.png"], ORANGE)
    assert shows(progress_png(lost, METRIC, "max"), ORANGE)


def test_an_axis_of_many_numbers_has_ticks_from_its_lowest_to_its_highest():
    axis = _ParallelAxis(list(range(9)))
    assert axis._ticks() == [("0", 0.0), ("2", 0.25), ("4", 0.5), ("6", 0.75), ("8", 1.0)]
    rates = _ParallelAxis([10 ** (-place / 4) for place in range(17)])
    texts, heights = zip(*rates._ticks(), strict=True)
    assert texts == ("0.0001", "0.001", "0.01", "0.1", "1")
    assert heights == pytest.approx((0, 0.25, 0.5, 0.75, 1))
    assert _ParallelAxis([1, 5, 2])._ticks() == [("1", 0.0), ("2", 0.25), ("5", 1.0)]
