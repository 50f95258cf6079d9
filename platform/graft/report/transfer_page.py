"""The page and pictures of a transfer report; charts are made as those of `training.plots` are."""

from typing import TYPE_CHECKING

from graft.report.answers import Answers, BackboneAnswers
from graft.report.design import ARMS
from graft.report.page import data_uri, render_page
from graft.report.reports import PAGE
from graft.spec import TransferReport, dump_job
from graft.training.plots import BLUE, GREY, ORANGE, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "scratch": "from scratch",
    "features": "feature extraction",
    "partial": "partial freeze",
    "full": "full fine-tuning",
}
STYLES = {
    "scratch": (GREY, "o"),
    "features": (BLUE, "s"),
    "partial": (ORANGE, "^"),
    "full": ("#009E73", "D"),
}
"""Colour and marker: told apart without colour vision, and in print."""


def transfer_files(answers: Answers, spec: TransferReport) -> dict[str, bytes]:
    """Return the page and the pictures, by file name."""
    files: dict[str, bytes] = {}
    sections = []
    for place, found in enumerate(answers.backbones):
        figures = {
            "labels": labels_figure(found, answers.images),
            "gain": gain_figure(found),
            "corruptions": corruptions_figure(found),
        }
        ending = f"-{place + 1}" if place else ""
        files |= {f"{name}{ending}.png": saved(one, "png") for name, one in figures.items()}
        pictures = {name: data_uri(saved(f, "svg"), "svg+xml") for name, f in figures.items()}
        sections.append({"found": found, "pictures": pictures})
    files[PAGE] = render_page(
        "transfer.html.j2", a=answers, names=NAMES, sections=sections, spec=dump_job(spec)
    )
    return files


def labels_figure(answers: BackboneAnswers, tested: int) -> "Figure":
    """Draw the accuracy of each arm over the number of labels; `tested`: on how many images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for place, arm in enumerate(ARMS):
        points = [point for point in answers.points if point.arm == arm]
        colour, marker = STYLES[arm]
        # Beside each other, so that intervals can be seen.
        x = [point.images * 1.03 ** (place - 1.5) for point in points]
        y = [100 * point.accuracy.value for point in points]
        axes.plot(x, y, color=colour, marker=marker, label=NAMES[arm])
        for where, point in zip(x, points, strict=True):
            if point.accuracy.interval:
                ends = [100 * point.accuracy.interval.low, 100 * point.accuracy.interval.high]
                axes.plot([where, where], ends, color=colour, linewidth=1, alpha=0.7)
            else:
                seeds = [100 * value for value in point.accuracy.seeds]
                axes.plot([where] * len(seeds), seeds, ".", color=colour, alpha=0.5)
    images = sorted({point.images for point in answers.points})
    axes.set_xscale("log")
    axes.set_xticks(images, [f"{count:,}" for count in images])
    axes.minorticks_off()
    _label(axes, "Accuracy against labels", "labelled images to train on (logarithmic)")
    axes.set_ylabel(f"accuracy on {tested:,} test images (%)")
    axes.legend(loc="best")
    return figure


def gain_figure(answers: BackboneAnswers) -> "Figure":
    """Draw what each arm gains over scratch, by label budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, linewidth=1)
    budgets = sorted({gain.labels for gain in answers.gains})
    for place, arm in enumerate(ARMS[1:]):
        colour, marker = STYLES[arm]
        for number, labels in enumerate(budgets):
            gain = next(g for g in answers.gains if (g.arm, g.labels) == (arm, labels))
            x, y = number + 0.15 * (place - 1), 100 * gain.difference.value
            axes.plot(x, y, color=colour, marker=marker, label=NAMES[arm] if not number else None)
            if interval := gain.difference.interval:
                axes.plot([x, x], [100 * interval.low, 100 * interval.high], color=colour)
    shown = [f"{100 * b:g} %" if b <= 1 else f"{b:g} a class" for b in budgets]
    axes.set_xticks(range(len(budgets)), shown)
    _label(axes, "Gain over training from scratch", "labels")
    axes.set_ylabel("difference of accuracy (points)")
    axes.legend(loc="best")
    return figure


def corruptions_figure(answers: BackboneAnswers) -> "Figure":
    """Draw accuracy on corrupted images, a panel for each corruption."""
    from matplotlib.figure import Figure

    names = list(answers.generalisation[0].corrupted)
    figure = Figure(figsize=(2.1 * len(names) + 0.8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for one in answers.generalisation:
            colour, marker = STYLES[one.arm]
            clean = next(
                p.accuracy.value
                for p in reversed(answers.points)
                if p.arm == one.arm and p.labels == max(q.labels for q in answers.points)
            )
            corrupted = (strength.value for strength in one.corrupted[name])
            values = [100 * value for value in (clean, *corrupted)]
            axes.plot(range(len(values)), values, color=colour, marker=marker, label=NAMES[one.arm])
        _label(axes, name, "strength")
        axes.set_xticks(range(4), ["none", "1", "2", "3"])
    panels[0].set_ylabel("accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _label(axes: "Axes", title: str, x: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
