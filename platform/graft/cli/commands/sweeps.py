"""`graft sweeps ls|show|rm`: the sweeps in the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.commands.removals import rm_sweep
from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

app = noun("List, show and remove sweeps.")
app.command("rm")(rm_sweep)


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List sweeps with their state and best trial.

    Example: graft sweeps ls
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.sweep.sweep_list import list_sweep_rows

    left_out = LeftOut()
    rows = list_sweep_rows(open_store(store), left_out.add)

    def table() -> "Table":
        from graft.cli.show.tables import id_table, numbers

        table = id_table("sweep", "state", *numbers("trials"), "best", "model")
        for row in rows:
            best = row.best
            table.add_row(
                row.sweep,
                row.state,
                f"{row.done}/{row.trials}",
                f"{row.metric} {best.value:.4f} (trial {best.number})" if best else "",
                row.model or "",
            )
        return table

    emit({"sweeps": [row.model_dump(mode="json") for row in rows]}, json, table)
    left_out.tell()


@app.command()
def show(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id.")],
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            help="Also draw the trials, as PNG files in a folder.",
        ),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show a sweep's recorded spec, its trials and its result.

    Example: graft sweeps show ants-bees-20260101-120000-1a2b --plots plots
    """
    from graft.cli.show.output import emit, note, write_file
    from graft.cli.show.sweep import result_page, trial_table
    from graft.cli.show.tables import recorded_page, unfinished
    from graft.errors import InputError
    from graft.sweep.sweep_records import read_plan, read_sweep, read_sweep_result, read_trials

    opened = open_store(store)
    spec = read_sweep(opened, sweep)
    search = spec.search
    result = read_sweep_result(opened, sweep)
    trials = result.trials if result else tuple(read_trials(opened, sweep))
    count = read_plan(opened, sweep).count
    if plots:
        from graft.sweep.sweep_charts import sweep_plots

        if not trials:
            raise InputError(f"{sweep} has no trial that is done yet; there is nothing to draw")
        for name, png in sweep_plots(trials, search.metric, search.mode).items():
            write_file(plots / name, png)
            note(f"wrote {plots / name}")
    document = {
        "sweep": sweep,
        "state": "finished" if result else "unfinished",
        "trials": count,
        "done": [record.model_dump(mode="json") for record in trials],
        "spec": spec.model_dump(mode="json", by_alias=True),
        "result": result.model_dump(mode="json") if result else None,
    }

    def page() -> "Group":
        if result:
            return recorded_page(spec, result_page(result))
        progress = f"{len(trials)} of {count} trials done"
        return recorded_page(
            spec,
            unfinished(progress, f"graft sweep --resume {sweep}"),
            trial_table(trials, search.metric, search.mode),
        )

    emit(document, json, page)
