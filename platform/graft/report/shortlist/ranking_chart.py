"""The chart of a shortlist: what the backbones' features are worth, and what they cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.report.shortlist.candidates import Candidate
from graft.training.charts import BLUE, GREY, draw_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ranking_figure(candidates: Sequence[Candidate]) -> "Figure":
    """Draw the accuracy of each candidate over what an epoch of head-only training costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for candidate in candidates:
        seconds, accuracy = candidate.costs[0].epoch_s, candidate.accuracy
        axes.errorbar(
            seconds, accuracy, candidate.deviation, fmt="o", color=BLUE, ecolor=GREY, capsize=3
        )
        axes.annotate(
            f"{candidate.arch}\n{candidate.weights.rpartition('/')[2]}",
            (seconds, accuracy),
            xytext=(8, -4),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    axes.set_xscale("log")
    axes.margins(x=0.3, y=0.15)
    axes.set_title("Frozen features: accuracy against cost")
    axes.set_xlabel("an epoch of the head alone, nothing cached (s, logarithmic)")
    axes.set_ylabel("accuracy of a linear probe, cross-validated (± 1 s.d. over folds)")
    draw_grid(axes)
    return figure
