"""The page and charts of a transfer report."""

from typing import TYPE_CHECKING

from graft.report.charts import chart_files, embedded_charts
from graft.report.page import render_page
from graft.report.publishing import PAGE
from graft.report.transfer.answers import Answers, BackboneAnswers
from graft.report.transfer.design import ARMS, label_budget
from graft.report.uses import used_already
from graft.spec import TransferReport, dump_job
from graft.training.charts import BLUE, GREY, ORANGE, draw_grid

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
"""Colour and marker of each arm, distinct without colour vision and in print."""


def transfer_files(answers: Answers, spec: TransferReport) -> dict[str, bytes]:
    """Return the page and the charts, by file name."""
    files: dict[str, bytes] = {}
    sections = []
    for number, backbone in enumerate(answers.backbones, 1):
        figures = {
            "labels": labels_figure(backbone, answers.images),
            "gain": gain_figure(backbone),
            "corruptions": corruptions_figure(backbone),
        }
        files |= chart_files(figures, f"-{number}" if number > 1 else "")
        sections.append({"backbone": backbone, "charts": embedded_charts(figures)})
    files[PAGE] = render_page(
        "transfer.html.j2",
        a=answers,
        names=NAMES,
        sections=sections,
        used_already=used_already(answers.used_before),
        label_budget=label_budget,
        spec=dump_job(spec),
    )
    return files


def labels_figure(answers: BackboneAnswers, tested: int) -> "Figure":
    """Draw the accuracy of each arm, on `tested` test images, over the number of labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for place, arm in enumerate(ARMS):
        points = [point for point in answers.points if point.arm == arm]
        colour, marker = STYLES[arm]
        # Arms are drawn beside each other, so that their intervals can be seen.
        x = [point.labelled * 1.03 ** (place - 1.5) for point in points]
        y = [100 * point.accuracy.value for point in points]
        axes.plot(x, y, color=colour, marker=marker, label=NAMES[arm])
        for position, point in zip(x, points, strict=True):
            if interval := point.accuracy.interval:
                ends = [100 * interval.low, 100 * interval.high]
                axes.plot([position, position], ends, color=colour, linewidth=1, alpha=0.7)
            else:
                seeds = [100 * value for value in point.accuracy.seeds]
                axes.plot([position] * len(seeds), seeds, ".", color=colour, alpha=0.5)
    images = sorted({point.labelled for point in answers.points})
    axes.set_xscale("log")
    axes.set_xticks(images, [f"{count:,}" for count in images])
    axes.minorticks_off()
    _label(
        axes,
        "Accuracy against labels",
        "labelled images, to train on and to be tuned by (logarithmic)",
    )
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
    axes.set_xticks(range(len(budgets)), [label_budget(labels) for labels in budgets])
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
    largest = max(point.labels for point in answers.points)
    clean = {p.arm: p.accuracy for p in answers.points if p.labels == largest}
    for axes, name in zip(panels, names, strict=True):
        for by_arm in answers.generalisation:
            colour, marker = STYLES[by_arm.arm]
            strengths = (clean[by_arm.arm], *by_arm.corrupted[name])
            y = [100 * accuracy.value for accuracy in strengths]
            axes.plot(range(len(y)), y, color=colour, marker=marker, label=NAMES[by_arm.arm])
        _label(axes, name, "strength")
        axes.set_xticks(range(4), ["none", "1", "2", "3"])
    panels[0].set_ylabel("accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _label(axes: "Axes", title: str, x: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    draw_grid(axes)
