"""`graft models`: what the registry holds, and which version an alias points at."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri
from graft.cli.output import emit

if TYPE_CHECKING:
    from rich.table import Table

    from graft.registry import ModelVersion

app = typer.Typer(no_args_is_help=True, help="List, show and promote registered models.")

Ref = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]")]


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """List every version of every model."""
    from rich.markup import escape
    from rich.table import Table

    from graft.registry import aliases, list_models
    from graft.store import Store

    opened = Store.open(store)
    versions = list_models(opened)
    pointers = {name: aliases(opened, name) for name in {version.name for version in versions}}
    rows = [_summary(version, pointers[version.name]) for version in versions]

    def table() -> Table:
        table = Table()
        for name in ("model", "aliases", "arch", "accuracy", "run", "created"):
            table.add_column(name, overflow="fold")
        for row in rows:
            cells = [row["model"], ", ".join(row["aliases"]), row["arch"]]
            cells += [_accuracy(row["metrics"]), row["run"], row["created"][:10]]
            table.add_row(*map(escape, cells))
        return table

    emit({"models": rows}, json, table)


@app.command()
def show(
    ref: Ref, store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False
) -> None:
    """Show one version: the champion, or the newest, where only a name is given."""
    from graft.registry import aliases, get_model
    from graft.store import Store

    opened = Store.open(store)
    version = get_model(opened, ref)
    pointing = _pointing(version, aliases(opened, version.name))
    document = {"model": version.ref, "aliases": pointing, **version.model_dump(mode="json")}
    emit(document, json, lambda: _details(version, pointing))


@app.command()
def promote(
    ref: Ref,
    alias: Annotated[str, typer.Option(help="The alias to move, or to make.")] = "champion",
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Point an alias at a version; a model's bare name then means its champion."""
    from graft.registry import promote
    from graft.store import Store

    version = promote(Store.open(store), ref, alias)
    emit({"model": version.ref, "alias": alias}, json, lambda: f"{alias} is now {version.ref}")


def _pointing(version: "ModelVersion", aliases: dict[str, int]) -> list[str]:
    return sorted(alias for alias, number in aliases.items() if number == version.version)


def _summary(version: "ModelVersion", aliases: dict[str, int]) -> dict[str, Any]:
    return {
        "model": version.ref,
        "name": version.name,
        "version": version.version,
        "aliases": _pointing(version, aliases),
        "arch": version.arch,
        "classes": len(version.classes),
        "metrics": version.metrics,
        "run": version.lineage.run,
        "created": version.created,
    }


def _accuracy(metrics: dict[str, Any]) -> str:
    accuracy = metrics.get("val", {}).get("accuracy")
    return "" if accuracy is None else f"{accuracy:.4f}"


def _details(version: "ModelVersion", aliases: list[str]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    lineage, contract = version.lineage, version.contract
    trained = f"epoch {version.epoch} ({version.weights}) of {lineage.run}"
    rows = {
        "model": version.ref,
        "aliases": ", ".join(aliases) or "none",
        "created": version.created,
        "architecture": f"{version.arch}, {version.freeze} stages frozen",
        "classes": ", ".join(version.classes),
        "input": f"{contract.crop} × {contract.crop}, cut from {contract.resize}",
        "accuracy": _accuracy(version.metrics),
        "weights": trained,
        "pretrained": lineage.weights,
        "dataset": f"{lineage.dataset}@{lineage.dataset_version}",
        "trunk": version.trunk_digest,
        "tail": f"{version.tail.sha256} ({version.tail.size:,} bytes)",
        "packages": ", ".join(f"{name} {number}" for name, number in lineage.packages.items()),
        "commit": lineage.git_commit or "unknown",
    }
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
