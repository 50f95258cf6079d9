"""The reliability diagram of an evaluation: is the model as often right as it is sure?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.report.evaluation.scores import Bin
from graft.training.charts import BLUE, GREY, ORANGE, draw_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_figure(bins: Sequence[Bin], ece: float) -> "Figure":
    """Draw accuracy over confidence, and below it how many images each bin has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = [b for b in bins if b.images]
    accuracies = [b.accuracy or 0.0 for b in filled]
    width = bins[0].high - bins[0].low
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    above.bar(
        [b.low for b in filled],
        accuracies,
        width,
        align="edge",
        color=BLUE,
        edgecolor="white",
        label="accuracy of the bin's images",
    )
    above.plot(
        [b.confidence or 0.0 for b in filled],
        accuracies,
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
        draw_grid(axes)
    return figure
