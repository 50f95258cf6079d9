"""Plots of a sweep as PNG files; made as those of `training.plots` are."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from graft.spec import METRICS
from graft.sweep.results import TrialEpoch, TrialRecord, ranked
from graft.sweep.space import Changes, label
from graft.training.plots import BLUE, GREY, ORANGE, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Told apart without colour vision, and in print: Okabe and Ito's palette."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""With the colours, as many pairs as anyone tells apart."""
RATE = "train.optimizer.lr"
LOGARITHMIC = 30
"""An axis of numbers is logarithmic where the largest is so many times the smallest, and most
are small."""
JOINED = 8
"""Points are joined by lines where there are at most so many learning rates."""
NUMBERS = 12
"""An axis names at most so many values of its own."""
LABEL_LENGTH = 26
"""Characters of a value or a key, the rest is cut."""

Ranked = Sequence[tuple[TrialRecord, TrialEpoch | None]]


def sweep_plots(trials: Iterable[TrialRecord], metric: str, mode: str) -> dict[str, bytes]:
    """Return the plots that trials have something to show in, PNG by file name."""
    found = ranked(trials, metric, mode)
    plots = {}
    if any(epoch for _, epoch in found):
        if any(isinstance(_changed(r.changes, RATE), int | float) for r, e in found if e):
            plots["learning-rate.png"] = rate_png(found, metric)
        plots["parallel.png"] = parallel_png(found, metric)
        plots["best-so-far.png"] = progress_png(found, metric, mode)
    return plots


def rate_png(trials: Ranked, metric: str) -> bytes:
    """Draw the metric of each trial's best epoch over its learning rate, a line per freeze depth.

    The line joins the best trial of each rate, where rates are few. Trials that failed or
    diverged are crosses at the bottom.
    """
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[float, float, bool]]] = {}
    lost = []
    for record, epoch in trials:
        rate = _changed(record.changes, RATE)
        if isinstance(rate, int | float) and epoch:
            point = (float(rate), _value(epoch, metric), record.state == "stopped")
            series.setdefault(_depth(record.changes), []).append(point)
        elif isinstance(rate, int | float):
            lost.append(float(rate))
    # Through rates that each trial has for itself, a line would only go up and down.
    few = len({rate for points in series.values() for rate, _, _ in points}) <= JOINED
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for place, name in enumerate(sorted(series, key=_in_order)):
        colour, marker = COLOURS[place % 7], MARKERS[(place + place // 7) % 7]
        points = sorted(series[name])
        best: dict[float, float] = {}
        for rate, value, _ in reversed(series[name]):  # best first: the last to be set stays
            best[rate] = value
        if few:
            rates = sorted(best)
            axes.plot(rates, [best[r] for r in rates], color=colour, linewidth=1.5, alpha=0.6)
        for stopped in (False, True):
            some = [(rate, value) for rate, value, early in points if early == stopped]
            axes.plot(
                *([p[i] for p in some] for i in (0, 1)),
                marker=marker,
                linestyle="none",
                color=colour,
                fillstyle="none" if stopped else "full",
                markersize=6,
            )
        axes.plot([], [], color=colour, marker=marker, label=_cut(name))  # the legend's
    if any(early for points in series.values() for _, _, early in points):
        axes.plot(
            [],
            [],
            color=GREY,
            marker="o",
            fillstyle="none",
            linestyle="none",
            label="stopped early",
        )
    if lost:
        axes.plot(
            lost,
            [0.02] * len(lost),
            transform=axes.get_xaxis_transform(),
            color=GREY,
            marker="x",
            linestyle="none",
            label="failed or diverged",
        )
    axes.set_title(f"{_words(metric)} by learning rate")
    axes.set_xlabel("learning rate (logarithmic)")
    axes.set_ylabel(_words(metric))
    _rule(axes)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="frozen")
    return saved(figure, "png")


def parallel_png(trials: Ranked, metric: str) -> bytes:
    """Draw each trial as a line through its values, one axis for each key, and to its metric.

    Lines are coloured by the metric, the best one is thick. Trials without a metric are grey
    and dashed, and end before the last axis.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(key for record, _ in trials for key in record.changes))
    columns = [_Scale([record.changes.get(key) for record, _ in trials]) for key in keys]
    values = [_value(epoch, metric) for _, epoch in trials if epoch]
    columns.append(_Scale(list[JsonValue](values)))
    figure = Figure(figsize=(min(3 + 1.9 * len(keys), 18.0), 5.5), layout="constrained")
    axes = figure.add_subplot()
    least, most = min(values), max(values)
    norm = Normalize(least, most) if least < most else Normalize(least - 0.01, most + 0.01)
    colours: Any = ScalarMappable(norm, "viridis" if METRICS[metric] == "max" else "viridis_r")
    best = next(record.number for record, epoch in trials if epoch)
    # The best last, on top of the others.
    for record, epoch in reversed(trials):
        row = [record.changes.get(key) for key in keys]
        heights = [scale.height(value) for scale, value in zip(columns, row, strict=False)]
        if epoch is None:
            axes.plot(heights, color=GREY, linestyle="--", linewidth=1, alpha=0.6)
            continue
        heights.append(columns[-1].height(_value(epoch, metric)))
        colour = colours.to_rgba(_value(epoch, metric))
        first = record.number == best
        if first:
            axes.plot(heights, color="white", linewidth=6, zorder=3)
        axes.plot(
            heights,
            color=colour,
            linewidth=3.5 if first else 1.3,
            alpha=1 if first else 0.8,
            zorder=4 if first else 2,
            marker="o" if first else None,
            solid_joinstyle="round",
        )
    for place, scale in enumerate(columns):
        axes.axvline(place, color="black", linewidth=0.8, zorder=1)
        for text, height in scale.ticks():
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
    figure.suptitle(f"trials: {len(trials)}; the thick line is the best, trial {best}")
    return saved(figure, "png")


def progress_png(trials: Ranked, metric: str, mode: str) -> bytes:
    """Draw the best metric so far over the sweep's seconds, and each trial at its end."""
    from matplotlib.figure import Figure

    done = sorted(
        (record.ended_s, _value(epoch, metric), record.state == "stopped")
        for record, epoch in trials
        if epoch
    )
    lost = [record.ended_s for record, epoch in trials if epoch is None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    better = max if mode == "max" else min
    seconds: list[float] = []
    best: list[float] = []
    for ended, value, _ in done:
        seconds.append(ended)
        best.append(better(best[-1], value) if best else value)
    end = max([*seconds, *lost])
    axes.step(
        [*seconds, end],
        [*best, best[-1]],
        where="post",
        color=BLUE,
        linewidth=2,
        label="best so far",
    )
    for stopped, text in ((False, "a trial's end"), (True, "stopped early")):
        some = [(ended, value) for ended, value, early in done if early == stopped]
        if some:
            axes.plot(
                *([p[i] for p in some] for i in (0, 1)),
                marker="o",
                linestyle="none",
                color=GREY,
                markersize=5,
                fillstyle="none" if stopped else "full",
                label=text,
            )
    if lost:
        axes.plot(
            lost,
            [0.02] * len(lost),
            transform=axes.get_xaxis_transform(),
            color=ORANGE,
            marker="x",
            linestyle="none",
            label="failed or diverged",
        )
    axes.set_xlim(0, 1.03 * end if end > 0 else 1)
    axes.set_title(f"best {_words(metric)} so far: {best[-1]:.4f}")
    axes.set_xlabel("seconds since the sweep began")
    axes.set_ylabel(_words(metric))
    _rule(axes)
    axes.legend(loc="lower right" if mode == "max" else "upper right")
    return saved(figure, "png")


class _Scale:
    """Heights from 0 to 1 for the values of one axis: numbers, or words in order."""

    def __init__(self, values: Sequence[JsonValue]):
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        self._words: dict[str, float] = {}
        self._low = self._high = 0.0
        self._log = False
        self._own = sorted(set(numbers))
        if len(numbers) < len(values):
            names = sorted({label(value) for value in values}, key=_in_order)
            self._words = {
                name: place / (len(names) - 1) if len(names) > 1 else 0.5
                for place, name in enumerate(names)
            }
            return
        self._low, self._high = float(min(numbers)), float(max(numbers))
        middle = sorted(numbers)[len(numbers) // 2]
        self._log = 0 < LOGARITHMIC * self._low <= self._high and middle < self._high / 4

    def height(self, value: JsonValue) -> float:
        """Return where a value lies."""
        if self._words:
            return self._words[label(value)]
        if not isinstance(value, int | float) or self._high == self._low:
            return 0.5
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[str, float]]:
        """Return texts and heights: the values themselves, or a few numbers among them."""
        if self._words:
            places = list(self._words.items())
            return places[:: math.ceil(len(places) / NUMBERS)]
        few = self._own
        if len(few) > 6:
            fractions = [i / 4 for i in range(5)]
            few = [
                self._low * (self._high / self._low) ** f
                if self._log
                else self._low + f * (self._high - self._low)
                for f in fractions
            ]
        return [(f"{number:.3g}", self.height(number)) for number in few]


def _changed(changes: Changes, key: str) -> JsonValue:
    """Return what a trial has for a key, also where a mapping for its section says it."""
    if key in changes:
        return changes[key]
    section, _, name = key.rpartition(".")
    within = changes.get(section)
    return within.get(name) if isinstance(within, dict) else None


def _depth(changes: Changes) -> str:
    """Return what tells a trial's trunk: architecture and freeze depth, as far as they vary."""
    found = [_changed(changes, f"backbone.{name}") for name in ("arch", "freeze")]
    return " ".join(label(value) for value in found if value is not None) or "as in base"


def _in_order(name: str) -> tuple[Any, ...]:
    """Sort numbers by size, and before words."""
    *front, last = name.split(" ")
    try:
        return (front, 0, float(last), "")
    except ValueError:
        return (front, 1, 0.0, last)


def _value(epoch: TrialEpoch, metric: str) -> float:
    return epoch.val[metric.removeprefix("val.")]


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
    """Return the end of a key, as much as tells it from the others."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _cut(name: str) -> str:
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1].rstrip() + "…"


def _rule(axes: "Axes") -> None:
    axes.grid(which="major", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
