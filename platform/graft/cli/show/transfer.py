"""Drawing the answers of a transfer report."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from graft.cli.show.tables import numbers
from graft.report.uses import used_already

if TYPE_CHECKING:
    from graft.report.transfer.answers import Answers, BackboneAnswers
    from graft.report.transfer.estimates import Estimate, Match, Plateau

GENERALISATION = (
    ("gap", "train-test gap, points", "+.1f", 100),
    ("ece", "calibration error", ".3f", 1),
    ("corrupted_mean", "corrupted, accuracy %", ".1f", 100),
)
"""An arm's figures on other images: field, title, format, and the factor before formatting."""


def answers_page(answers: "Answers") -> Group:
    """Return a report's answers for people to read."""
    title = (
        f"{answers.dataset}: {answers.images:,} images of {answers.split}"
        f"{used_already(answers.used_before)}"
    )
    pages = [_backbone_page(backbone, title) for backbone in answers.backbones]
    left_out = [Text(f"not judged on: {line}") for line in answers.left_out]
    if not answers.why:
        return Group(*pages, *left_out)
    best = answers.backbones[answers.take]
    advice = f"take {best.title}, {best.take}: {answers.why}"
    return Group(*pages, *left_out, Text(advice, style="bold"))


def _backbone_page(answers: "BackboneAnswers", title: str) -> Group:
    points = _arms(f"{answers.title} on {title}", "labels", "accuracy %", "95 %")
    for point in answers.points:
        points.add_row(point.arm, f"{point.labelled:,}", *_estimate(point.accuracy, ".1f", 100))
    labels = _arms("fewer labels?", "labels", "scratch needs", "95 %", "shown")
    for match in answers.matches:
        labels.add_row(match.arm, f"{match.images:,}", *_needed(match, answers.points[-1].labelled))
    most_labels = max(gain.labels for gain in answers.gains)
    better = _arms("with all labels: better?", "points above scratch", "95 %", "shown")
    for gain in answers.gains:
        if gain.labels == most_labels:
            better.add_row(gain.arm, *_estimate(gain.difference, "+.1f", 100), gain.outcome)
    sooner = _arms(
        "with all labels: when as good as scratch's best?",
        *("epochs", "95 %", "images", "s", "s, cache cold", "shown"),
    )
    for plateau in answers.plateaus:
        sooner.add_row(plateau.arm, *_sooner(plateau))
    general = _arms("with all labels: on other images?", "", "value", "95 %", "against scratch")
    for arm in answers.generalisation:
        for row, (name, figure, form, factor) in enumerate(GENERALISATION):
            against = arm.against[name].outcome if arm.against and name != "ece" else ""
            estimate = _estimate(getattr(arm, name), form, factor)
            general.add_row("" if row else arm.arm, figure, *estimate, against)
    lines = [Text(f"take {answers.take}: {answers.why}", style="bold")]
    lines += [Text(f"warning: {warning}") for warning in answers.warnings]
    return Group(points, labels, better, sooner, general, *lines)


def _arms(title: str, *columns: str) -> Table:
    """Return an empty table with a row for each arm to come."""
    return Table("arm", *numbers(*columns), title=title, title_justify="left")


def _estimate(estimate: "Estimate", form: str, factor: float) -> tuple[str, str]:
    """Return an estimate's value and its interval, both multiplied and formatted."""
    ends = estimate.interval
    spread = f"{factor * ends.low:{form}} to {factor * ends.high:{form}}" if ends else "–"
    return f"{factor * estimate.value:{form}}", spread


def _needed(match: "Match", most: int) -> tuple[str, str, str]:
    """Return how many labels scratch needs, their interval, and what is shown.

    `most`: labels of the largest budget; where scratch needs more, their number is not known.
    """
    more = f"more than {most:,}"

    def labels(count: float | None) -> str:
        return more if count is None else f"{count:,.0f}"

    shown = {"better": "more", "worse": "fewer"}.get(match.outcome, match.outcome)
    spread = "–"
    if match.interval:
        low, high = labels(match.interval.low), labels(match.interval.high)
        spread = low if low == more else f"{low} to {high}"
    return labels(match.scratch_images), spread, shown


def _sooner(plateau: "Plateau") -> tuple[str, ...]:
    """Return when an arm reaches scratch's best: epochs, images, seconds, and what is shown."""

    def epochs(count: float | None) -> str:
        return "never" if count is None else f"{count:g}"

    interval = plateau.interval
    spread = f"{epochs(interval.low)} to {epochs(interval.high)}" if interval else "–"
    if interval and interval.low is None:
        spread = "never"
    seconds = ["–" if s is None else f"{s:.1f}" for s in (plateau.seconds, plateau.cold_seconds)]
    shown = {"better": "sooner", "worse": "later"}.get(plateau.outcome, plateau.outcome)
    return (
        epochs(plateau.epochs),
        spread,
        "–" if plateau.images is None else f"{plateau.images:,.0f}",
        *seconds,
        "" if plateau.arm == "scratch" else shown,
    )
