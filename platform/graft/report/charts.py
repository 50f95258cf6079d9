"""Charts of reports; made as those of `training.plots` are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.report.ranking import Ranked
from graft.report.scores import Bin
from graft.training.plots import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_figure(bins: Sequence[Bin], ece: float) -> "Figure":
    """Draw accuracy over confidence, and below it how many images each bin has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    having = [b for b in bins if b.images]
    width = bins[0].high - bins[0].low
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    above.bar(
        [b.low for b in having],
        [b.accuracy or 0.0 for b in having],
        width,
        align="edge",
        color=BLUE,
        edgecolor="white",
        label="accuracy of the bin's images",
    )
    above.plot(
        [b.confidence or 0.0 for b in having],
        [b.accuracy or 0.0 for b in having],
        "o",
        color=ORANGE,
        markersize=4,
        label="at their mean confidence",
    )
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    above.set_title(f"Reliability: calibration error {ece:.3f}")
    above.legend(loc="upper left")
    below.bar([b.low for b in bins], [b.images for b in bins], width, align="edge", color=GREY)
    below.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
    for axes in (above, below):
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def ranking_figure(found: Sequence[Ranked]) -> "Figure":
    """Draw the accuracy of each candidate over what an epoch of head-only training costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for one in found:
        seconds = one.costs[0].epoch_s
        axes.errorbar(
            seconds, one.accuracy, one.deviation, fmt="o", color=BLUE, ecolor=GREY, capsize=3
        )
        axes.annotate(
            f"{one.arch}\n{one.weights.rpartition('/')[2]}",
            (seconds, one.accuracy),
            xytext=(8, -4),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    axes.set_xscale("log")
    axes.margins(x=0.3, y=0.15)
    axes.set_title("Frozen features: accuracy against cost")
    axes.set_xlabel("an epoch of the head alone, nothing kept (s, logarithmic)")
    axes.set_ylabel("accuracy of a linear probe, cross-validated (± 1 s.d. over folds)")
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure
