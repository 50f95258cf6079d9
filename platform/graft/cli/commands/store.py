"""`graft store check`: what the store's storage guarantees."""

from typing import TYPE_CHECKING

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store
from graft.cli.show.output import console, emit

if TYPE_CHECKING:
    from rich.table import Table

    from graft.store.probe import Finding

app = noun("Check what the store's storage guarantees.")


@app.callback()
def _store() -> None:
    # Without a callback, typer makes `graft store` of `check`, which is the only command.
    pass


@app.command()
def check(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """Try what the storage really guarantees when writers race.

    Writes about 20 MB into a new folder of the store, and removes it. The exit code is 1 where a
    guarantee that Graft needs does not hold.

    Example: graft store check --store s3://bucket/prefix
    """
    from dataclasses import asdict

    from graft.store.probe import probe

    opened = open_store(store)
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
