"""Plots as PNG files.

Matplotlib is imported where a plot is made, and used without pyplot, which would keep every
figure in a global list and ask for a window system.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"
"""Okabe and Ito's palette, whose colours differ in print and to the colour-blind."""
NUMBERED_CLASSES = 25
"""With more classes than this, a confusion matrix has no numbers in its cells."""
LABELS = 50
"""Most classes that an axis names; they are evenly spaced."""
LABEL_LENGTH = 24
"""Most characters of a class's name; a longer one is cut."""


def confusion_png(confusion: ArrayLike, classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix: (C, C) counts, rows are true classes, columns predictions."""
    return saved(confusion_figure(confusion, classes), "png")


def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> "Figure":
    """Draw a confusion matrix: (C, C) counts, rows are true classes, columns predictions."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    rows = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(rows, 1)
    many = len(classes)
    side = min(max(0.5 * many, 2.5), 11.0)
    figure = Figure(figsize=(side + 3, side + 2), layout="constrained")
    axes = figure.add_subplot()
    # The root brings out rare confusions, which are what a reader looks for.
    norm = PowerNorm(0.5, 0, 1)
    image = axes.imshow(shares, cmap="Blues", norm=norm)
    right, images = int(counts.trace()), int(counts.sum())
    axes.set_title(f"{right:,} of {images:,} images predicted right ({right / images:.1%})")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    places = range(0, many, math.ceil(many / LABELS))
    names = [_cut(classes[place]) for place in places]
    axes.set_xticks(places, names, rotation=90, parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    axes.tick_params(labelsize=9 if many <= NUMBERED_CLASSES else 7)
    if many <= NUMBERED_CLASSES:
        cell = 72 * side / many  # points
        size = min(10.0, 1.4 * cell / len(str(counts.max())))
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if norm(shares[row, column]) > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", size=size, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100"])
    bar.set_label("share of the true class's images (%)")
    return figure


def rate_curve_png(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggested: float | None,
) -> bytes:
    """Draw losses over growing learning rates, all of one length and finite."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color=GREY, linewidth=0.8, alpha=0.7, label="loss of each batch")
    axes.plot(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
    if suggested is not None:
        axes.axvline(
            suggested, color=ORANGE, linestyle="--", label=f"suggested rate: {suggested:.2g}"
        )
    axes.set_xscale("log")
    # Where the loss runs away it would flatten the rest, which is what a reader looks at.
    low, high = min(losses), 1.5 * max(losses[: max(1, len(losses) // 2)])
    if max(losses) > high:
        axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set_title("Learning rate range test")
    axes.set_xlabel("learning rate (logarithmic)")
    axes.set_ylabel("training loss (cross-entropy, nats)")
    draw_grid(axes)
    axes.legend(loc="best")
    return saved(figure, "png")


def _cut(name: str) -> str:
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1].rstrip() + "…"


def draw_grid(axes: "Axes") -> None:
    """Draw the grid that all charts of Graft have, behind what they show."""
    axes.grid(which="major", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def saved(figure: "Figure", kind: Literal["png", "svg"]) -> bytes:
    """Return a figure as a file; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "graft"}):
        # Names in a script that matplotlib's own font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    return buffer.getvalue()
