"""`graft sweeps`: list sweeps, show one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="List and show sweeps.")


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """List sweeps with their state and best trial."""
    from graft.cli.output import emit
    from graft.store import Store
    from graft.sweep.results import (
        best_trial,
        list_sweeps,
        read_plan,
        read_sweep,
        read_sweep_result,
        read_trials,
    )

    opened = Store.open(store)
    rows: list[dict[str, Any]] = []
    for sweep_id in list_sweeps(opened):
        search = read_sweep(opened, sweep_id).search
        trials, result = read_trials(opened, sweep_id), read_sweep_result(opened, sweep_id)
        best = best_trial(trials, search.metric, search.mode)
        rows.append(
            {
                "sweep": sweep_id,
                "state": "finished" if result else "unfinished",
                "done": len(trials),
                "trials": read_plan(opened, sweep_id).count,
                "metric": search.metric,
                "best": best.model_dump(mode="json") if best else None,
                "model": result.model if result else None,
            }
        )

    def table() -> "Table":
        from rich.table import Column, Table

        # An id is there to be copied.
        table = Table(Column("sweep", no_wrap=True), Column("state", no_wrap=True))
        table.add_column("trials", justify="right")
        table.add_column("best", overflow="fold")
        table.add_column("model", overflow="fold")
        for row in rows:
            best = row["best"]
            table.add_row(
                row["sweep"],
                row["state"],
                f"{row['done']}/{row['trials']}",
                f"{row['metric']} {best['value']:.4f} (trial {best['number']})" if best else "",
                row["model"] or "",
            )
        return table

    emit({"sweeps": rows}, json, table)


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
    debug: Debug = False,
) -> None:
    """Show a sweep's recorded spec, its trials and its result."""
    from rich.console import Group
    from rich.syntax import Syntax

    from graft.cli.output import console, emit
    from graft.cli.sweeping import sweep_table, trial_table
    from graft.errors import InputError
    from graft.spec import dump_job
    from graft.store import Store
    from graft.sweep.results import read_plan, read_sweep, read_sweep_result, read_trials

    opened = Store.open(store)
    spec = read_sweep(opened, sweep)
    result, trials = read_sweep_result(opened, sweep), tuple(read_trials(opened, sweep))
    count = read_plan(opened, sweep).count
    if plots:
        from graft.backend import Directory
        from graft.sweep.plots import sweep_plots

        if not trials:
            raise InputError(f"{sweep} has no trial that is done yet; there is nothing to draw")
        for name, png in sweep_plots(trials, spec.search.metric, spec.search.mode).items():
            Directory(plots.absolute()).write(name, png)
            console.print(f"wrote {plots / name}", markup=False, highlight=False, soft_wrap=True)
    document = {
        "sweep": sweep,
        "state": "finished" if result else "unfinished",
        "trials": count,
        "done": [record.model_dump(mode="json") for record in trials],
        "spec": spec.model_dump(mode="json", by_alias=True),
        "result": result.model_dump(mode="json") if result else None,
    }

    def text() -> Group:
        recorded = Syntax(dump_job(spec), "yaml", background_color="default")
        if result:
            return Group(recorded, sweep_table(result))
        search = spec.search
        return Group(
            recorded,
            f"unfinished, {len(trials)} of {count} trials done: graft sweep --resume {sweep}",
            trial_table(trials, search.metric, search.mode),
        )

    emit(document, json, text)
