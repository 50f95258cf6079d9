"""`graft store`: look at the store itself."""

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

app = typer.Typer(no_args_is_help=True, help="Look at the store itself.")


@app.command()
def check(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """Probe what the store's storage really guarantees."""
