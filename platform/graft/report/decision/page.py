"""The page of a decision: what it promises, what it costs, and what the images that judge say."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graft.decisions.calibration import Floats
from graft.decisions.promises import Promise, Target
from graft.decisions.records import DecisionDraft
from graft.decisions.rules import Sets, Thresholds
from graft.report.charts import chart_files, embedded_charts
from graft.report.decision.measured import Measured
from graft.report.evaluation.compute_scores import reliability, share_interval
from graft.report.evaluation.predictions import Predictions
from graft.report.evaluation.reliability_chart import reliability_figure
from graft.report.page import render_page
from graft.report.publishing import PAGE
from graft.report.uses import used_already
from graft.training.charts import BLUE, GREY, ORANGE, draw_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CURVES = 12
"""Targets whose trade-off is drawn."""


def page_files(
    draft: DecisionDraft, measured: Measured, fitting: Predictions | None = None
) -> dict[str, bytes]:
    """Return the page of a decision and its pictures, by file name.

    Args:
        draft: the decision.
        measured: its calibration, on images that it does not come from.
        fitting: the images that thresholds come from. Those that certify are in no picture: who
            asks for what these show has it promised by what it was chosen on.
    """
    figures = {
        name: reliability_figure(reliability(p.max(axis=1), measured.right(p)), error)
        for name, p, error in (
            ("reliability-before", measured.before, measured.error_before),
            ("reliability-after", measured.after, measured.error_after),
        )
    }
    curves = {} if fitting is None else dict(_curves(draft, fitting))
    embedded = embedded_charts(figures | curves)
    page = render_page(
        "decision.html.j2",
        d=draft,
        promises=[_row(draft, promise) for promise in draft.promises],
        judged=[]
        if draft.held is None
        else [_row(draft, promise) for promise in draft.held.promises],
        before=embedded["reliability-before"],
        after=embedded["reliability-after"],
        curves=[embedded[name] for name in curves],
        measured=len(measured.labels),
        used_already=used_already(draft.used_before),
    )
    return chart_files(figures | curves) | {PAGE: page}


def _row(draft: DecisionDraft, promise: Promise) -> dict[str, str]:
    """Return what a table says of a promise, or of what images that judge say of it."""
    if promise.mean_cost is not None:
        figure, interval = f"{promise.mean_cost:.4g}", ""
    elif not promise.images:
        figure, interval = "no such images", ""
    else:
        wilson = share_interval(promise.kept, promise.images)
        share, low, high = promise.kept / promise.images, wilson.low, wilson.high
        if promise.target.kind == "false-accepts":
            share, low, high = 1 - share, 1 - high, 1 - low
        figure = f"{100 * share:.1f} %"
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
    thresholds = {}
    if isinstance(draft.rule, Thresholds):
        thresholds = {single.name: single.threshold for single in draft.rule.by_class}
        thresholds[""] = draft.rule.others
    threshold = thresholds.get(promise.target.name or "")
    return {
        "target": str(promise.target),
        "threshold": "" if threshold is None else f"{threshold:.4g}",
        "images": f"{promise.images:,}",
        "found": figure,
        "interval": interval,
        "p": f"{promise.p_value:.2g}",
    }


def _curves(draft: DecisionDraft, on: Predictions) -> Iterator[tuple[str, "Figure"]]:
    """Yield the trade-off of each target, or of sets, as a chart, by its name."""
    p = draft.calibration.apply(on.logits)
    if isinstance(draft.rule, Sets):
        yield "sets", _sets_figure(p, on.labels, draft.rule.threshold)
    if not isinstance(draft.rule, Thresholds):
        return
    thresholds = {single.name: single.threshold for single in draft.rule.by_class}
    for number, promise in enumerate(draft.promises[:MOST_CURVES], 1):
        target = promise.target
        if target.name is None:
            scores, hits = p.max(axis=1), p.argmax(axis=1) == on.labels
            yield f"trade-off-{number}", _answered_figure(target, scores, hits, draft.rule.others)
        else:
            position = on.classes.index(target.name)
            is_class = on.labels == position
            threshold = thresholds[target.name]
            yield f"trade-off-{number}", _class_figure(target, p[:, position], is_class, threshold)


def _class_figure(
    target: Target, scores: Floats, is_class: NDArray[np.bool_], threshold: float
) -> "Figure":
    """Draw what a class's threshold trades: what it finds against what it wrongly takes."""
    order = np.argsort(-scores, kind="stable")
    hits, taken = np.cumsum(is_class[order]), np.arange(1, len(order) + 1)
    recall, precision = hits / max(is_class.sum(), 1), hits / taken
    accepted = (taken - hits) / max((~is_class).sum(), 1)
    chosen = max(int((scores >= threshold).sum()) - 1, 0)
    name = target.name or ""
    if target.kind == "false-accepts":
        axis = f"images of {name} that are found"
        wrong = f"images of others that are taken for {name}"
        return _figure(target, (accepted, wrong), (recall, axis), chosen, threshold, across=True)
    axis = f"images of {name} that are found (recall)"
    right = f"answers '{name}' that are right (precision)"
    across = target.kind == "recall"
    return _figure(target, (recall, axis), (precision, right), chosen, threshold, across)


def _answered_figure(
    target: Target, scores: Floats, right: NDArray[np.bool_], threshold: float
) -> "Figure":
    """Draw what the least probability trades: how much is answered, and how often it is right."""
    order = np.argsort(-scores, kind="stable")
    taken = np.arange(1, len(order) + 1)
    answered, accuracy = taken / len(order), np.cumsum(right[order]) / taken
    chosen = max(int((scores >= threshold).sum()) - 1, 0)
    return _figure(
        target,
        (answered, "images that are answered"),
        (accuracy, "answers that are right"),
        chosen,
        threshold,
        across=False,
    )


def _sets_figure(p: Floats, labels: NDArray[np.int64], threshold: float) -> "Figure":
    """Draw what a set's threshold trades: classes in a set against true classes that are in it."""
    of_labels = np.sort(np.take_along_axis(p, labels[:, None], axis=1)[:, 0])[::-1]
    ordered = np.sort(p, axis=None)
    sizes = (len(ordered) - np.searchsorted(ordered, of_labels)) / len(p)
    covered = np.arange(1, len(of_labels) + 1) / len(of_labels)
    chosen = max(int((of_labels >= threshold).sum()) - 1, 0)
    axes, figure = _axes("Sets: how many classes they hold")
    axes.plot(covered, sizes, color=BLUE, linewidth=2)
    axes.plot(covered[chosen], sizes[chosen], "o", color=ORANGE, label=f"chosen: {threshold:.3g}")
    axes.set_xlabel("sets that hold the true class")
    axes.set_ylabel("classes in a set, on average")
    axes.legend(loc="best")
    return figure


def _figure(
    target: Target,
    x: tuple[Floats, str],
    y: tuple[Floats, str],
    chosen: int,
    threshold: float,
    across: bool,
) -> "Figure":
    """Draw a trade-off with its chosen point, and the target: `across`, it is one of x."""
    axes, figure = _axes(str(target))
    axes.plot(x[0], y[0], color=BLUE, linewidth=2, label="at each threshold")
    line = axes.axvline if across else axes.axhline
    line(target.value, color=GREY, linestyle="--", linewidth=1, label=f"asked: {target.value:g}")
    point = x[0][chosen], y[0][chosen]
    axes.plot(*point, "o", color=ORANGE, markersize=8, label=f"chosen: {threshold:.3g}")
    axes.set_xlabel(x[1], parse_math=False)
    axes.set_ylabel(y[1], parse_math=False)
    axes.set_ylim(min(0.98 * float(y[0].min()), 0.95), 1.01)
    if target.kind == "false-accepts":
        axes.set_xlim(-0.005, max(4 * target.value, 2 * float(point[0]), 0.02))
    axes.legend(loc="best")
    return figure


def _axes(title: str) -> "tuple[Axes, Figure]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    draw_grid(axes)
    return axes, figure
