"""`graft runs`: list runs, show one, go on with one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from graft.store import Store
    from graft.training.runs import Result

app = typer.Typer(no_args_is_help=True, help="List, show and resume training runs.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """List runs with their state and result."""
    from rich.table import Column, Table

    from graft.cli.output import emit
    from graft.store import Store
    from graft.training.runs import list_runs, read_head, read_result, read_spec

    opened = Store.open(store)
    rows: list[dict[str, Any]] = []
    for run in list_runs(opened):
        spec, head, result = (
            read_spec(opened, run),
            read_head(opened, run),
            read_result(opened, run),
        )
        rows.append(
            {
                "run": run,
                "state": "finished" if result else "unfinished",
                "attempt": head.attempt if head else 0,
                "backbone": spec.backbone.arch,
                "dataset": f"{spec.dataset.name}@{spec.dataset.version}",
                "accuracy": result.metrics["val"]["accuracy"] if result else None,
                "model": result.model if result else None,
            }
        )

    def table() -> Table:
        # An id is there to be copied.
        table = Table(Column("run", no_wrap=True), Column("state", no_wrap=True))
        for name in ("backbone", "accuracy", "model"):
            table.add_column(name, overflow="fold")
        for row in rows:
            accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
            table.add_row(row["run"], row["state"], row["backbone"], accuracy, row["model"] or "")
        return table

    emit({"runs": rows}, json, table)


@app.command()
def show(
    run: RunId,
    confusion: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            dir_okay=False,
            help="Also write the confusion matrix, as a picture, to this file.",
        ),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a run's recorded spec, its attempts and its result."""
    from rich.console import Group
    from rich.syntax import Syntax

    from graft.cli.output import emit
    from graft.cli.training import result_table
    from graft.spec import dump_job
    from graft.store import Store
    from graft.training.runs import read_head, read_result, read_spec

    opened = Store.open(store)
    spec = read_spec(opened, run)
    head, result = read_head(opened, run), read_result(opened, run)
    if confusion:
        _write_confusion(opened, run, result, confusion)
    document = {
        "run": run,
        "state": "finished" if result else "unfinished",
        "attempt": head.attempt if head else 0,
        "spec": spec.model_dump(mode="json", by_alias=True),
        "result": result.model_dump(mode="json") if result else None,
    }
    text = Syntax(dump_job(spec), "yaml", background_color="default")
    end = result_table(result, spec) if result else f"unfinished, attempt {document['attempt']}"
    emit(document, json, lambda: Group(text, end))


@app.command()
def resume(
    run: RunId,
    take_over: Annotated[
        bool,
        typer.Option(
            help="The run's last attempt has ended; needed where the storage cannot fence it off."
        ),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with a run from its last checkpoint; an unbroken run gives the same weights."""
    from graft.cli.training import run_and_show
    from graft.errors import InputError
    from graft.probe import fences
    from graft.store import Store
    from graft.training.runs import read_head, read_result, read_spec

    opened = Store.open(store)
    read_spec(opened, run)
    head = None if read_result(opened, run) else read_head(opened, run)
    if head and not (take_over or opened.is_directory or fences(opened)):
        raise InputError(
            f"{run}: conditional writes at {opened.uri} are not exclusive, so attempt "
            f"{head.attempt}, if it still runs, and a new one could both commit; make sure that "
            "it has ended, then add --take-over"
        )
    run_and_show(opened, run, json)


def _write_confusion(store: "Store", run: str, result: "Result | None", file: Path) -> None:
    """Write a finished run's confusion matrix to a file, which is whole or not there."""
    from graft.backend import Directory
    from graft.cli.output import console
    from graft.errors import InputError

    if result is None:
        raise InputError(
            f"{run} is unfinished and has no confusion matrix yet; "
            f"go on with it: graft runs resume {run}"
        )
    if result.confusion_png is None:
        raise InputError(
            f"{run} has no picture of its confusion matrix: it was finished before Graft drew "
            "them; its counts are in --json"
        )
    png = store.get(f"runs/{run}", result.confusion_png)
    Directory(file.parent.absolute()).write(file.name, png)
    console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
