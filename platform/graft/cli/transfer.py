"""`graft report transfer SPEC`: what did transfer buy, measured."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, Out, StoreUri

if TYPE_CHECKING:
    from rich.console import Group

    from graft.report.answers import Answers
    from graft.report.reports import Report
    from graft.store import Store


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
    from rich.table import Column, Table
    from rich.text import Text

    points = Table(
        "arm",
        *(
            Column(name, justify="right")
            for name in ("images", "accuracy", "95 %", "scratch needs")
        ),
        title=f"{answers.arch} on {answers.dataset}: {answers.images:,} images of {answers.split}",
        title_justify="left",
    )
    needs = {(match.arm, match.images): match for match in answers.matches}
    for point in answers.points:
        interval, match = point.accuracy.interval, needs.get((point.arm, point.images))
        points.add_row(
            point.arm,
            f"{point.images:,}",
            f"{point.accuracy.value:.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}" if interval else "–",
            ""
            if match is None
            else f"more than {match.at_least:,}"
            if match.scratch_images is None
            else f"{match.scratch_images:,.0f}",
        )
    largest = max(gain.labels for gain in answers.gains)
    times = Table(
        "arm",
        *(
            Column(name, justify="right")
            for name in ("against scratch", "shown", "reaches its best after", "empty cache")
        ),
        *(Column(name, justify="right") for name in ("train less test", "calibration")),
        title="with all labels",
        title_justify="left",
    )
    for when, general in zip(answers.plateaus, answers.generalisation, strict=True):
        gain = next((g for g in answers.gains if (g.arm, g.labels) == (when.arm, largest)), None)
        times.add_row(
            when.arm,
            f"{100 * gain.difference.value:+.1f}" if gain else "",
            gain.outcome if gain else "",
            "never" if when.seconds is None else f"{when.seconds:.1f} s",
            "never" if when.cold_seconds is None else f"{when.cold_seconds:.1f} s",
            f"{100 * general.gap:+.1f}",
            f"{general.ece:.3f}",
        )
    lines = [Text(f"take {answers.take}: {answers.why}", style="bold")]
    lines += [Text(f"warning: {one}") for one in answers.warnings]
    return Group(points, times, *lines)
