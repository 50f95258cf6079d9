"""`graft runs`: list runs, show one, go on with one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from rich.table import Table

    from graft.spec import Finetune
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
    run: RunId, store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False
) -> None:
    """Show a run's recorded spec, its attempts and its result."""
    from rich.console import Group
    from rich.syntax import Syntax

    from graft.cli.output import emit
    from graft.spec import dump_job
    from graft.store import Store
    from graft.training.runs import read_head, read_result, read_spec

    opened = Store.open(store)
    spec = read_spec(opened, run)
    head, result = read_head(opened, run), read_result(opened, run)
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
    run: RunId, store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False
) -> None:
    """Go on with a run from its last checkpoint; an unbroken run gives the same weights."""
    from graft.cli.train import run_and_show
    from graft.store import Store

    run_and_show(Store.open(store), run, json)


def result_table(result: "Result", spec: "Finetune") -> "Table":
    """Return what a person wants to know of a finished run."""
    from rich.table import Table

    val = result.metrics["val"]
    table = Table(show_header=False, title=result.run, title_justify="left")
    table.add_row("model", result.model or "not registered (the spec has no `register`)")
    table.add_row("weights", f"{result.weights}, of epoch {result.epoch}/{spec.train.epochs}")
    table.add_row("val accuracy", f"{val['accuracy']:.4f}")
    table.add_row("val loss", f"{val['loss']:.4f}")
    if "top5_accuracy" in val:
        table.add_row("val top-5 accuracy", f"{val['top5_accuracy']:.4f}")
    table.add_row("val macro-F1", f"{val['macro_f1']:.4f}")
    for name, recall in list(val["recall"].items())[:12]:
        table.add_row(f"recall of {name}", "no images" if recall is None else f"{recall:.4f}")
    table.add_row("trunk", f"{result.trunk_digest[:12]} ({result.freeze} stages frozen)")
    table.add_row("dataset", result.dataset)
    table.add_row("time", f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s")
    return table
