"""`graft store`: look at the store itself."""

from typing import TYPE_CHECKING

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri
from graft.cli.output import console, emit

if TYPE_CHECKING:
    from rich.table import Table

    from graft.probe import Finding

app = typer.Typer(no_args_is_help=True, help="Look at the store itself.")


@app.callback()
def _store() -> None:
    # A callback keeps `check` a command of its own while it is the only one.
    pass


@app.command()
def check(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """Try what the store's storage really guarantees, also when writers race.

    Writes about 20 MB below a folder of its own, and removes it. Exit code 1 where
    something does not hold that Graft cannot do without.
    """
    from dataclasses import asdict

    from graft.probe import probe
    from graft.store import Store

    opened = Store.open(store)
    with console.status(f"trying {opened.uri}"):
        findings = list(probe(opened))
    usable = all(finding.holds for finding in findings if finding.required)
    document = {
        "store": opened.uri,
        "usable": usable,
        "checks": [asdict(finding) for finding in findings],
    }
    emit(document, json, lambda: _table(opened.uri, findings))
    if not usable:
        raise typer.Exit(1)


def _table(uri: str, findings: "list[Finding]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("guarantee", "holds", "seen", title=escape(uri), title_justify="left")
    for finding in findings:
        holds = "[green]yes" if finding.holds else "[red]no"
        means = "" if finding.holds else f"\n[bold]{finding.otherwise}"
        table.add_row(finding.guarantee, holds, escape(finding.seen) + means)
    return table
