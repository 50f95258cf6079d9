"""`graft store check|copy`: what the store's storage guarantees, and copies of what is in it."""

from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, open_store
from graft.cli.show.output import console, emit

if TYPE_CHECKING:
    from rich.table import Table

    from graft.store.probe import Finding

app = noun("Check what the store's storage guarantees; copy to another store.")


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


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URI of the store with it.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URI of the store that gets it.")],
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME@VERSION", help="This version, and all that it needs; several times."
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@VERSION]", help="This dataset version; several times."),
    ] = None,
    with_datasets: Annotated[
        bool,
        typer.Option("--with-datasets", help="Also the datasets that the models were trained on."),
    ] = False,
    activations: Annotated[
        bool, typer.Option(help="Of all of a store: also the activations that it caches.")
    ] = True,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Trust files that are there by their size; read none back."),
    ] = False,
    json: Json = False,
) -> None:
    """Copy models, datasets, or all of a store to another store.

    Files go before what names them, aliases last. What is there is not sent again: the same command
    goes on with a copy that was stopped, and brings what is new. Each file is read back, and
    compared with its SHA-256. Left out is what is not finished. Nothing is copied where the target
    has another thing of the same name.

    Example: graft store copy ./graft-store s3://bucket/prefix --model ants-bees@2
    """
    from dataclasses import asdict

    from rich.console import Group

    from graft.cli.show.output import counting
    from graft.errors import InputError
    from graft.units import size
    from graft.upkeep.copying import Wanted
    from graft.upkeep.copying import copy as copy_store

    if with_datasets and not model:
        raise InputError("--with-datasets goes with --model; --dataset names others")
    wanted = Wanted(
        models=tuple(model or ()),
        datasets=tuple(dataset or ()),
        activations=activations,
        with_datasets=with_datasets,
    )
    stores = open_store(source), open_store(target)
    with counting("copying", "objects") as progress:
        copied = copy_store(*stores, wanted, quick, progress)
    document = {"from": stores[0].uri, "to": stores[1].uri, **asdict(copied)}

    def page() -> Group:
        there = copied.objects - copied.sent
        return Group(
            f"{copied.objects:,} objects, {size(copied.bytes)}, are in {stores[1].uri}: "
            f"{copied.sent:,} sent, {size(copied.sent_bytes)}; {there:,} were there",
            *(f"left out: {what}" for what in copied.left_out),
        )

    emit(document, json, page)


def _table(uri: str, findings: "list[Finding]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("guarantee", "holds", "seen", title=escape(uri), title_justify="left")
    for finding in findings:
        holds = "[green]yes" if finding.holds else "[red]no"
        means = "" if finding.holds else f"\n[bold]{finding.otherwise}"
        table.add_row(finding.guarantee, holds, escape(finding.seen) + means)
    return table
