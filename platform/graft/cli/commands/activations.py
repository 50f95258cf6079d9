"""`graft activations ls|rm`: the activations that the store caches."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store
from graft.units import size

if TYPE_CHECKING:
    from rich.table import Table

app = noun("List and remove cached activations.")


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List cached activations: trunk, view, datasets, size.

    Example: graft activations ls --json
    """
    from graft.activations.list_and_remove import SHORT, list_activations
    from graft.cli.show.output import emit

    entries = list_activations(open_store(store))
    rows = [
        {
            "trunk": entry.key.trunk,
            "arch": entry.arch,
            "stage": entry.stage,
            "view": entry.key.view,
            "dtype": entry.key.dtype,
            "backend": entry.key.backend,
            "datasets": entry.datasets,
            "images": entry.images,
            "bytes": entry.bytes,
        }
        for entry in entries
    ]

    def table() -> "Table":
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("trunk", no_wrap=True), "through", "view", "stored as", "datasets")
        table.add_column("images", justify="right")
        table.add_column("MB", justify="right")
        for entry in entries:
            table.add_row(
                entry.key.trunk[:SHORT],
                f"{entry.arch} {entry.stage}" if entry.arch else "?",
                entry.key.view,
                f"{entry.key.dtype} {entry.key.backend}",
                escape("\n".join(entry.datasets)),
                str(entry.images),
                f"{entry.bytes / 1e6:.1f}",
            )
        return table

    emit({"activations": rows, "bytes": sum(entry.bytes for entry in entries)}, json, table)


@app.command()
def rm(
    trunk: Annotated[
        str, typer.Argument(metavar="TRUNK", help="A trunk digest, or the beginning of one.")
    ],
    view: Annotated[
        str | None, typer.Option(help="Only this view, as listed, or its number: v1.")
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a trunk's activations.

    A job that needs them computes them again.

    Example: graft activations rm 3f2a9c --view v1
    """
    from graft.activations.list_and_remove import SHORT, remove_activations
    from graft.cli.show.output import emit

    removed = remove_activations(open_store(store), trunk, view)
    emit(
        {
            "trunk": removed.trunk,
            "views": list(removed.views),
            "objects": removed.objects,
            "bytes": removed.bytes,
        },
        json,
        lambda: (
            f"{removed.trunk[:SHORT]}: removed {', '.join(removed.views)}; "
            f"{size(removed.bytes)} freed"
        ),
    )
