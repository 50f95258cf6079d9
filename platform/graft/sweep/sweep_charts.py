"""Plots of a sweep as PNG files; they are made as those of `training.charts`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from graft.spec import METRICS, Changes
from graft.sweep.best_trial import ranked
from graft.sweep.space import value_text
from graft.sweep.sweep_records import TrialRecord
from graft.training.charts import BLUE, GREY, ORANGE, draw_grid, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Distinct without colour vision, and in print: Okabe and Ito's palette."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Paired with the colours; nobody tells more such pairs apart."""
RATE = "train.optimizer.lr"
LOGARITHMIC = 30
"""An axis of numbers is logarithmic if the largest is at least this many times the smallest, and
most numbers are small."""
JOINED = 8
"""Points are joined by lines if there are at most this many learning rates."""
LABELS = 12
"""Most values that an axis of words names."""
TICKS = 6
"""Most values that an axis of numbers names itself; an axis with more has 5 round ticks."""
LABEL_LENGTH = 26
"""Most characters of a value or a key; the rest is cut."""


@dataclass(frozen=True)
class PlottedTrial:
    """A trial, and the metric of its best epoch."""

    record: TrialRecord
    value: float | None
    """None: it failed or diverged."""

    @property
    def stopped(self) -> bool:
        """Whether the trial was stopped before its last epoch."""
        return self.record.state == "stopped"


@dataclass(frozen=True)
class Point:
    """A trial's place in a chart."""

    x: float
    y: float
    stopped: bool


def sweep_plots(trials: Iterable[TrialRecord], metric: str, mode: str) -> dict[str, bytes]:
    """Return the plots that trials have something to show in: PNG by file name."""
    plotted = plotted_trials(trials, metric, mode)
    plots = {}
    scored = [trial for trial in plotted if trial.value is not None]
    if scored:
        if any(_rate(trial) is not None for trial in scored):
            plots["learning-rate.png"] = rate_png(plotted, metric)
        plots["parallel.png"] = parallel_png(plotted, metric)
        plots["best-so-far.png"] = progress_png(plotted, metric, mode)
    return plots


def plotted_trials(trials: Iterable[TrialRecord], metric: str, mode: str) -> list[PlottedTrial]:
    """Return trials as the plots take them, the best trial first."""
    return [
        PlottedTrial(record, epoch.value_of(metric) if epoch else None)
        for record, epoch in ranked(trials, metric, mode)
    ]


def rate_png(trials: Sequence[PlottedTrial], metric: str) -> bytes:
    """Draw the metric of each trial's best epoch over its learning rate, a line per freeze depth.

    The line joins the best trial of each rate, if there are few rates. Trials that failed or
    diverged are crosses at the bottom.
    """
    series: dict[str, list[Point]] = {}
    lost: list[float] = []
    for trial in trials:
        rate = _rate(trial)
        if rate is not None and trial.value is not None:
            point = Point(rate, trial.value, trial.stopped)
            series.setdefault(_depth(trial.record.changes), []).append(point)
        elif rate is not None:
            lost.append(rate)
    figure, axes = _chart(f"{_words(metric)} by learning rate", metric)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (logarithmic)")
    # With a rate of its own for each trial, a line would only go up and down.
    joined = len({point.x for points in series.values() for point in points}) <= JOINED
    for place, name in enumerate(sorted(series, key=_in_order)):
        colour, marker = COLOURS[place % 7], MARKERS[(place + place // 7) % 7]
        points = series[name]
        if joined:
            best = {point.x: point.y for point in reversed(points)}  # the best comes last and wins
            rates, values = zip(*sorted(best.items()), strict=True)
            axes.plot(rates, values, color=colour, linewidth=1.5, alpha=0.6)
        _dots(axes, points, colour, marker)
        axes.plot([], [], color=colour, marker=marker, label=_cut(name))  # for the legend
    if any(point.stopped for points in series.values() for point in points):
        hollow: dict[str, Any] = {"marker": "o", "fillstyle": "none", "linestyle": "none"}
        axes.plot([], [], color=GREY, label="stopped early", **hollow)
    _crosses(axes, lost, GREY)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="frozen")
    return saved(figure, "png")


def parallel_png(trials: Sequence[PlottedTrial], metric: str) -> bytes:
    """Draw each trial as a line through its values, one axis for each key, and to its metric.

    Lines are coloured by the metric, and the best one is thick. Trials without a metric are grey
    and dashed, and end before the last axis.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(key for trial in trials for key in trial.record.changes))
    axis_of = {key: _ParallelAxis([t.record.changes.get(key) for t in trials]) for key in keys}
    values = [trial.value for trial in trials if trial.value is not None]
    metric_axis = _ParallelAxis(list[JsonValue](values))
    figure = Figure(figsize=(min(3 + 1.9 * len(keys), 18.0), 5.5), layout="constrained")
    axes = figure.add_subplot()
    least, most = min(values), max(values)
    norm = Normalize(least, most) if least < most else Normalize(least - 0.01, most + 0.01)
    colours: Any = ScalarMappable(norm, "viridis" if METRICS[metric] == "max" else "viridis_r")
    best = next(trial for trial in trials if trial.value is not None)
    for trial in reversed(trials):  # the best last, on top of the others
        heights = [axis.height(trial.record.changes.get(key)) for key, axis in axis_of.items()]
        if trial.value is None:
            axes.plot(heights, color=GREY, linestyle="--", linewidth=1, alpha=0.6)
            continue
        heights.append(metric_axis.height(trial.value))
        colour = colours.to_rgba(trial.value)
        if trial is best:
            axes.plot(heights, color="white", linewidth=6, zorder=3)
            style: dict[str, Any] = {"linewidth": 3.5, "alpha": 1, "zorder": 4, "marker": "o"}
        else:
            style = {"linewidth": 1.3, "alpha": 0.8, "zorder": 2}
        axes.plot(heights, color=colour, solid_joinstyle="round", **style)
    columns = [*axis_of.values(), metric_axis]
    for place, axis in enumerate(columns):
        axis.draw(axes, place)
    names = [_cut(_short(key, keys)) for key in keys] + [_words(metric)]
    axes.set_xticks(range(len(columns)), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.45, len(columns) - 0.9)
    axes.set_ylim(-0.05, 1.05)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(colours, ax=axes, shrink=0.8, label=_words(metric))
    figure.suptitle(
        f"trials: {len(trials)}; the thick line is the best, trial {best.record.number}"
    )
    return saved(figure, "png")


def progress_png(trials: Sequence[PlottedTrial], metric: str, mode: str) -> bytes:
    """Draw the best metric so far over the sweep's seconds, and each trial at its end."""
    points = [Point(t.record.ended_s, t.value, t.stopped) for t in trials if t.value is not None]
    points.sort(key=lambda point: (point.x, point.y, point.stopped))
    lost = [trial.record.ended_s for trial in trials if trial.value is None]
    best = list(accumulate((point.y for point in points), max if mode == "max" else min))
    end = max([*(point.x for point in points), *lost])
    figure, axes = _chart(f"best {_words(metric)} so far: {best[-1]:.4f}", metric)
    axes.step(
        [*(point.x for point in points), end],
        [*best, best[-1]],
        where="post",
        color=BLUE,
        linewidth=2,
        label="best so far",
    )
    _dots(axes, points, GREY, labels=("a trial's end", "stopped early"))
    _crosses(axes, lost, ORANGE)
    axes.set_xlim(0, 1.03 * end if end > 0 else 1)
    axes.set_xlabel("seconds since the sweep began")
    axes.legend(loc="lower right" if mode == "max" else "upper right")
    return saved(figure, "png")


def _chart(title: str, metric: str) -> "tuple[Figure, Axes]":
    """Return an empty chart with a grid, whose vertical axis is the metric."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_ylabel(_words(metric))
    draw_grid(axes)
    return figure, axes


def _dots(
    axes: "Axes",
    points: Sequence[Point],
    colour: str,
    marker: str = "o",
    labels: tuple[str | None, str | None] = (None, None),
) -> None:
    """Draw a dot for each point, hollow ones for stopped trials; `labels`: of filled and hollow."""
    for stopped, text in zip((False, True), labels, strict=True):
        group = [point for point in points if point.stopped == stopped]
        if group:
            axes.plot(
                [point.x for point in group],
                [point.y for point in group],
                color=colour,
                marker=marker,
                linestyle="none",
                fillstyle="none" if stopped else "full",
                label=text,
            )


def _crosses(axes: "Axes", places: Sequence[float], colour: str) -> None:
    """Draw a cross at the bottom for each trial that failed or diverged."""
    if places:
        axes.plot(
            places,
            [0.02] * len(places),
            transform=axes.get_xaxis_transform(),
            color=colour,
            marker="x",
            linestyle="none",
            label="failed or diverged",
        )


class _ParallelAxis:
    """One vertical axis: heights from 0 to 1 for its values, numbers or words in order."""

    def __init__(self, values: Sequence[JsonValue]):
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        self._words: dict[str, float] = {}
        """Height of each word; empty on an axis of numbers."""
        self._low = self._high = 0.0
        self._log = False
        self._numbers = sorted(set(numbers))
        if len(numbers) < len(values):
            names = sorted({value_text(value) for value in values}, key=_in_order)
            self._words = {
                name: place / (len(names) - 1) if len(names) > 1 else 0.5
                for place, name in enumerate(names)
            }
            return
        self._low, self._high = float(min(numbers)), float(max(numbers))
        middle = sorted(numbers)[len(numbers) // 2]
        self._log = 0 < LOGARITHMIC * self._low <= self._high and middle < self._high / 4

    def height(self, value: JsonValue) -> float:
        """Return the height of a value."""
        if self._words:
            return self._words[value_text(value)]
        if not isinstance(value, int | float) or self._high == self._low:
            return 0.5
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)

    def draw(self, axes: "Axes", place: int) -> None:
        """Draw the axis with its labels, at a horizontal place."""
        axes.axvline(place, color="black", linewidth=0.8, zorder=1)
        for text, height in self._ticks():
            axes.text(
                place - 0.03,
                height,
                _cut(text),
                ha="right",
                va="center",
                size=8,
                parse_math=False,
                zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )

    def _ticks(self) -> list[tuple[str, float]]:
        """Return texts and heights: of the values themselves, or of a few numbers among them."""
        if self._words:
            words = list(self._words.items())
            return words[:: math.ceil(len(words) / LABELS)]
        numbers: Sequence[float] = self._numbers
        if len(numbers) > TICKS:
            low, high = self._low, self._high
            quarters = [i / 4 for i in range(5)]
            numbers = [
                low * (high / low) ** part if self._log else low + part * (high - low)
                for part in quarters
            ]
        return [(f"{number:.3g}", self.height(number)) for number in numbers]


def _rate(trial: PlottedTrial) -> float | None:
    """Return a trial's learning rate, if the sweep varies it."""
    rate = _changed(trial.record.changes, RATE)
    return float(rate) if isinstance(rate, int | float) else None


def _changed(changes: Changes, key: str) -> JsonValue:
    """Return a trial's value for a key, which may be within a mapping for its section."""
    if key in changes:
        return changes[key]
    section, _, name = key.rpartition(".")
    mapping = changes.get(section)
    return mapping.get(name) if isinstance(mapping, dict) else None


def _depth(changes: Changes) -> str:
    """Return a trial's architecture and freeze depth, as far as the sweep varies them."""
    values = [_changed(changes, f"backbone.{name}") for name in ("arch", "freeze")]
    return " ".join(value_text(value) for value in values if value is not None) or "as in base"


def _in_order(name: str) -> tuple[Any, ...]:
    """Return a key that sorts numbers by size, and before words."""
    *front, last = name.split(" ")
    try:
        return (front, 0, float(last), "")
    except ValueError:
        return (front, 1, 0.0, last)


def _words(metric: str) -> str:
    names = {
        "val.accuracy": "validation accuracy",
        "val.macro_f1": "validation macro-F1",
        "val.top5_accuracy": "validation top-5 accuracy",
        "val.loss": "validation loss",
        "val.ece": "calibration error",
    }
    return names.get(metric, metric)


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the shortest end of a key that no other key has."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _cut(name: str) -> str:
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1].rstrip() + "…"
