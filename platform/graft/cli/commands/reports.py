"""`graft reports ls|show|transfer|rm`: what was measured once, and stays in the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.commands.removals import rm_report
from graft.cli.commands.sweep import run_with_progress
from graft.cli.help import noun
from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, Json, Out, Settings, StoreUri, open_store

if TYPE_CHECKING:
    from graft.store import Store
    from graft.sweep.sweep_records import SweepResult

app = noun("List, show, make and remove reports.")
app.command("rm")(rm_report)


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List reports.

    Example: graft reports ls
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.cli.show.tables import text_table
    from graft.report.publishing import list_reports

    left_out = LeftOut()
    reports = list_reports(open_store(store), left_out.add)

    cells = (
        (report.report, report.kind, report.created[:19].replace("T", " "))
        for report in sorted(reports, key=lambda report: report.created)
    )
    document = {"reports": [report.model_dump(mode="json") for report in reports]}
    emit(document, json, lambda: text_table(("report", "kind", "created"), cells))
    left_out.tell()


@app.command()
def show(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="A report's id.")],
    out: Out = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show a report's figures; --out writes its page.

    Example: graft reports show ants-bees-20260101-120000-1a2b --out page
    """
    from graft.cli.show.report import show_report
    from graft.report.publishing import check_out, read_report

    check_out(out)
    opened = open_store(store)
    show_report(opened, read_report(opened, report), out, json)


@app.command()
def transfer(
    spec: Annotated[
        str | None,
        typer.Argument(help="Job spec (YAML), kind: transfer-report.", show_default=False),
    ] = None,
    set_: Settings = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with a report that was stopped; instead of a spec."),
    ] = None,
    out: Out = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Measure what transfer buys on a dataset.

    Trains from scratch, by feature extraction, with a partial freeze and in full, with several
    numbers of labels and several seeds. Says what transfer saves in labels and in time, what it
    adds in accuracy and on other images, and which of the differences are shown.

    Example: graft reports transfer jobs/transfer-report.yaml --set seeds=3
    """
    from graft.errors import InputError
    from graft.report.publishing import check_out
    from graft.spec import TransferReport, load_job

    check_out(out)
    opened = open_store(store)
    if resume is not None:
        if spec is not None or set_:
            raise InputError("--resume goes on with a report as it was recorded; it takes no spec")
        finish_transfer(opened, resume, out, json)
        return
    if spec is None:
        raise InputError("expected a spec, such as jobs/transfer-report.yaml, or --resume ID")
    job = load_job(spec, set_ or [], TransferReport)

    from graft.report.transfer.run_transfer import create_transfer

    finish_transfer(opened, create_transfer(opened, job), out, json)


def finish_transfer(
    store: "Store", report: str, out: Path | None, json: bool, take_over: bool = False
) -> None:
    """Run, or go on with, a recorded report; show its progress and then its answers.

    `take_over` as `hold_attempt` has it.

    Raises:
        Interrupted: the user pressed Ctrl-C; what was trained stays.
    """
    from functools import partial

    from graft.cli.show.output import counting, note
    from graft.cli.show.report import show_report
    from graft.cluster.local_ray import ray_session
    from graft.errors import Interrupted
    from graft.report.transfer.ray_tasks import test_cells_on_ray
    from graft.report.transfer.run_transfer import Runners, run_transfer

    note(f"report {report}")
    try:
        with counting("testing", "models") as progress:

            def run_sweep(sweep_id: str) -> "SweepResult":
                # Who holds the report holds its sweeps.
                return run_with_progress(store, sweep_id, mover_of("graft reports transfer"), True)

            runners = Runners(run_sweep, partial(test_cells_on_ray, store, ray_session))
            made = run_transfer(store, report, runners, progress, note, take_over)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            "stopped; what is trained and tested stays. Go on with: "
            f"graft reports transfer --resume {report}"
        ) from None
    show_report(store, made, out, json)
