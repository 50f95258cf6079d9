"""`graft runs ls|show|resume|rm`: the training runs in the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.commands.removals import rm_run
from graft.cli.commands.train import finish_run
from graft.cli.help import noun
from graft.cli.mover import mover_of
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graft.store import Store
    from graft.training.run_records import Result

app = noun("List, show, resume and remove training runs.")
app.command("rm")(rm_run)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List runs with their state and result.

    Example: graft runs ls
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.training.run_records import list_run_rows

    left_out = LeftOut()
    rows = list_run_rows(open_store(store), left_out.add)

    def table() -> "Table":
        from graft.cli.show.tables import id_table

        table = id_table("run", "state", "backbone", "accuracy", "model")
        for row in rows:
            accuracy = "" if row.accuracy is None else f"{row.accuracy:.3f}"
            table.add_row(row.run, row.state, row.backbone, accuracy, row.model or "")
        return table

    emit({"runs": [row.model_dump(mode="json") for row in rows]}, json, table)
    left_out.tell()


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
) -> None:
    """Show a run's recorded spec, its attempts and its result, or where it would go on.

    Example: graft runs show ants-bees-20260101-120000-1a2b --confusion map.png
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.cli.show.tables import recorded_page, unfinished
    from graft.cli.show.training import result_page
    from graft.training.attempt_pointer import read_pointer
    from graft.training.run_position import run_position
    from graft.training.run_records import read_result, read_spec, run_folder, with_classes
    from graft.training.stalls import read_stalls

    opened = open_store(store)
    spec, result = read_spec(opened, run), read_result(opened, run)
    pointer = read_pointer(opened, run_folder(run))
    attempt = pointer.attempt if pointer else 0
    position = None if result else run_position(opened, run)
    left_out = LeftOut()
    stalls = read_stalls(opened, run, left_out.add)
    if confusion:
        _write_confusion(opened, run, result, confusion)
    if result:
        result = with_classes(opened, result)
    document = {
        "run": run,
        "state": "finished" if result else "unfinished",
        "attempt": attempt,
        "stalls": [stall.model_dump(mode="json") for stall in stalls],
        "goes_on": position.model_dump(mode="json") if position else None,
        "spec": spec.model_dump(mode="json", by_alias=True),
        "result": result.model_dump(mode="json") if result else None,
    }

    def outcome() -> "RenderableType":
        if result:
            return result_page(result, spec)
        progress = f"attempt {attempt}" + (f", goes on {position}" if position else "")
        return unfinished(progress, f"graft runs resume {run}")

    emit(document, json, lambda: recorded_page(spec, *map(str, stalls), outcome()))
    left_out.tell()


@app.command()
def resume(
    run: RunId,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Go on otherwise: train.epochs, scaling.* or loader.*; several times.",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            help="The run's last attempt has ended; needed where the storage cannot fence it off."
        ),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Go on with a run from its last checkpoint.

    An unbroken run gives the same weights, unless it goes on with other workers. The alias that the
    spec names moves only if nobody has moved it since an attempt registered the version.

    Example: graft runs resume ants-bees-20260101-120000-1a2b
    """
    from graft.cli.options import changes_of
    from graft.errors import InputError
    from graft.spec import Finetune
    from graft.store.probe import fences
    from graft.store.recorded_specs import read_recorded_spec
    from graft.training.amendments import amend_run
    from graft.training.attempt_pointer import read_pointer
    from graft.training.run_records import read_result, read_spec, run_folder

    opened = open_store(store)
    read_spec(opened, run)
    pointer = None if read_result(opened, run) else read_pointer(opened, run_folder(run))
    if pointer and not (take_over or opened.is_directory or fences(opened)):
        raise InputError(
            f"{run}: conditional writes at {opened.uri} are not exclusive, so attempt "
            f"{pointer.attempt}, if it still runs, and a new one could both commit; make sure "
            "that it has ended, then add --take-over"
        )
    mover = mover_of("graft runs resume")
    if set_:
        recorded = read_recorded_spec(opened, "run", run, Finetune)
        amend_run(opened, run, recorded, mover.who, changes_of(set_))
    finish_run(opened, run, json, mover)


def _write_confusion(store: "Store", run: str, result: "Result | None", file: Path) -> None:
    """Write a finished run's confusion matrix to a file, which is whole or not there."""
    from graft.cli.show.output import note, write_file
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
    write_file(file, store.get(f"runs/{run}", result.confusion_png))
    note(f"wrote {file}")
