"""`graft report transfer SPEC`: what did transfer buy, measured."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, Out, StoreUri

if TYPE_CHECKING:
    from rich.console import Group

    from graft.report.answers import Answers, BackboneAnswers
    from graft.report.gain import Estimate, Match, Plateau
    from graft.report.reports import Report
    from graft.store import Store

GENERALISATION = (
    ("gap", "train-test gap, points", "+.1f", 100),
    ("ece", "calibration error", ".3f", 1),
    ("corrupted_mean", "corrupted, accuracy %", ".1f", 100),
)
"""Figures of an arm: field, name, form, and what it is multiplied by."""


def transfer(
    spec: Annotated[
        str | None,
        typer.Argument(help="Job spec (YAML), kind: transfer-report.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: seeds=3."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with a report that was stopped; instead of a spec."),
    ] = None,
    out: Out = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what transfer buys on a dataset: labels, accuracy, time, generalisation.

    Trains from scratch, by feature extraction, with a partial freeze and in full, at several
    label budgets and with several seeds, and says what the differences show.
    """
    from graft.cli.output import console, emit
    from graft.errors import InputError
    from graft.report.reports import PAGE, check_out, write_out
    from graft.spec import TransferReport, load_job
    from graft.store import Store

    check_out(out)
    opened = Store.open(store)
    if resume is not None:
        if spec is not None or set_:
            raise InputError("--resume goes on with a report as it was recorded; it takes no spec")
        report = resume
    else:
        if spec is None:
            raise InputError("expected a spec, such as jobs/transfer-report.yaml, or --resume ID")
        job = load_job(spec, set_ or [], None)
        if not isinstance(job, TransferReport):
            raise InputError(f"{spec}: kind is {job.kind}; expected transfer-report")

        from graft.report.transfer import create_transfer

        report = create_transfer(opened, job)
    made = run_and_show(opened, report)
    if out:
        write_out(opened, made, out)
        console.print(f"the page: {out / PAGE}", highlight=False, soft_wrap=True)

    from graft.report.answers import Answers

    emit(made.document(), json, lambda: answers_page(Answers.model_validate(made.found)))


def run_and_show(store: "Store", report: str) -> "Report":
    """Run, or go on with, a recorded report, and show how far it is; return it."""
    from graft.cli.output import console, counting
    from graft.cli.sweeping import finish_showing
    from graft.errors import Interrupted
    from graft.report.transfer import run_transfer

    console.print(f"report {report}", highlight=False)
    try:
        with counting("testing", "models") as progress:
            return run_transfer(store, report, lambda s: finish_showing(store, s), progress)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            "stopped; trainings that are done stay. Go on with: "
            f"graft report transfer --resume {report}"
        ) from None


def answers_page(answers: "Answers") -> "Group":
    """Return a report's answers for people to read."""
    from rich.console import Group
    from rich.text import Text

    title = f"{answers.dataset}: {answers.images:,} images of {answers.split}"
    parts = [_of_backbone(found, title) for found in answers.backbones]
    if answers.why:
        best = answers.backbones[answers.take]
        told = f"take {best.title}, {best.take}: {answers.why}"
        return Group(*parts, Text(told, style="bold"))
    return Group(*parts)


def _of_backbone(found: "BackboneAnswers", title: str) -> "Group":
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        right = (Column(name, justify="right") for name in columns)
        return Table("arm", *right, title=title, title_justify="left")

    points = table(f"{found.title} on {title}", "images", "accuracy %", "95 %")
    for point in found.points:
        accuracy = point.accuracy
        points.add_row(point.arm, f"{point.images:,}", *_estimate(accuracy, ".1f", 100))
    labels = table("fewer labels?", "images", "scratch needs", "95 %", "shown")
    for match in found.matches:
        labels.add_row(match.arm, f"{match.images:,}", *_needed(match, found.points[-1].images))
    largest = max(gain.labels for gain in found.gains)
    better = table("with all labels: better?", "points above scratch", "95 %", "shown")
    for gain in found.gains:
        if gain.labels == largest:
            better.add_row(gain.arm, *_estimate(gain.difference, "+.1f", 100), gain.outcome)
    sooner = table("with all labels: when as good as scratch's best?", "epochs", "95 %")
    for name in ("images", "s", "s, cache cold", "shown"):
        sooner.add_column(name, justify="right")
    for when in found.plateaus:
        sooner.add_row(when.arm, *_sooner(when))
    general = table("with all labels: on other images?", "", "value", "95 %", "against scratch")
    for one in found.generalisation:
        for number, (name, told, form, times) in enumerate(GENERALISATION):
            against = one.against[name].outcome if one.against else ""
            estimate = _estimate(getattr(one, name), form, times)
            general.add_row("" if number else one.arm, told, *estimate, against)
    lines = [Text(f"take {found.take}: {found.why}", style="bold")]
    lines += [Text(f"warning: {one}") for one in found.warnings]
    return Group(points, labels, better, sooner, general, *lines)


def _estimate(found: "Estimate", form: str, times: float) -> tuple[str, str]:
    """Return a figure and its interval."""
    ends = found.interval
    spread = f"{times * ends.low:{form}} to {times * ends.high:{form}}" if ends else "–"
    return f"{times * found.value:{form}}", spread


def _needed(match: "Match", most: int) -> tuple[str, str, str]:
    """Return how many labels scratch needs, the interval of that, and what is shown."""
    more = f"more than {most:,}"

    def told(value: float | None) -> str:
        return more if value is None else f"{value:,.0f}"

    shown = {"better": "more", "worse": "fewer"}.get(match.outcome, match.outcome)
    spread = "–"
    if match.interval:
        low, high = told(match.interval.low), told(match.interval.high)
        spread = low if low == more else f"{low} to {high}"
    return told(match.scratch_images), spread, shown


def _sooner(when: "Plateau") -> tuple[str, ...]:
    """Return when an arm reaches scratch's best: epochs, images, seconds, and what is shown."""

    def told(value: float | None) -> str:
        return "never" if value is None else f"{value:g}"

    interval = when.interval
    spread = f"{told(interval.low)} to {told(interval.high)}" if interval else "–"
    if interval and interval.low is None:
        spread = "never"
    seconds = ["–" if s is None else f"{s:.1f}" for s in (when.seconds, when.cold_seconds)]
    shown = {"better": "sooner", "worse": "later"}.get(when.outcome, when.outcome)
    return (
        told(when.epochs),
        spread,
        "–" if when.images is None else f"{when.images:,.0f}",
        *seconds,
        "" if when.arm == "scratch" else shown,
    )
