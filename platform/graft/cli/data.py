"""`graft data`: import labelled images, list dataset versions, show one."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.options import DEFAULT_STORE, Debug, Json, StoreUri

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import TaskID
    from rich.table import Table
    from rich.text import Text

    from graft.data.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="Import labelled images, list and show datasets.")

CLASSES_SHOWN = 50
FILES_SHOWN = 10


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A directory or s3:// prefix with a folder for each class, with or without "
            "train, val and test folders around them; or a .csv or .parquet table with the "
            "columns path, label and, if it chooses them, split.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")],
    max_side: Annotated[
        int,
        typer.Option(
            min=1,
            max=16383,
            help="Images with a longer side, in pixels, are stored shrunk to it. The default "
            "keeps what training at 224 needs, up to an aspect ratio of 2:1.",
        ),
    ] = 512,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            show_default="0.2",
            help="Part of each class that validates, where the source has no val split.",
        ),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            show_default="0", help="Part of each class held out for a test of the final model."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(show_default="0", help="Seeds the choice of splits.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no usable images.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="one a CPU",
            help="Threads that read and decode; S3 sources gain from more.",
        ),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Import labelled images as an immutable dataset version.

    The same files with the same settings are the same version, and write nothing.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from graft.cli.output import console, emit
    from graft.data.importing import import_dataset
    from graft.store import Store

    opened = Store.open(store)
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, rate="")
            per_second = f"{done / (time.perf_counter() - start):,.0f} images/s"
            rate = per_second if what == "reading" else ""
            bars.update(tasks[what], completed=done, rate=rate)

        imported = import_dataset(
            opened,
            source,
            name,
            max_side=max_side,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
            skip_bad=skip_bad,
            threads=threads,
            progress=show,
        )
    seconds = time.perf_counter() - start
    manifest = imported.manifest
    if not imported.written:
        console.print(
            f"{manifest.ref} holds these images already; nothing was written", highlight=False
        )
    document = {
        **manifest.model_dump(mode="json"),
        "written": imported.written,
        "seconds": round(seconds, 3),
        "images_per_second": round(manifest.images / seconds, 1),
    }
    emit(document, json, lambda: _description(manifest))


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False, debug: Debug = False) -> None:
    """List dataset versions."""
    from graft.cli.output import emit
    from graft.data.manifest import latest, list_datasets
    from graft.store import Store

    opened = Store.open(store)
    manifests = list_datasets(opened)
    pointers = {name: latest(opened, name) for name in {found.name for found in manifests}}
    rows = [
        {
            "name": found.name,
            "version": found.version,
            "latest": pointers[found.name] == found.version,
            "classes": len(found.classes),
            "images": {split: sum(counts.values()) for split, counts in found.counts.items()},
            "bytes": found.bytes,
            "created": found.created,
        }
        for found in manifests
    ]

    def table() -> "Table":
        from rich.table import Column, Table

        table = Table(
            Column("dataset", no_wrap=True), "latest", "classes", "images", "MB", "created"
        )
        for found, row in zip(manifests, rows, strict=True):
            table.add_row(
                found.ref,
                "yes" if row["latest"] else "",
                str(row["classes"]),
                str(found.images),
                f"{found.bytes / 1e6:.1f}",
                found.created[:10],
            )
        return table

    emit({"datasets": rows}, json, table)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Which dataset.")],
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a version's classes, splits and sizes, and what import found wrong."""
    from graft.cli.output import emit
    from graft.data.manifest import LATEST, open_dataset
    from graft.store import Store

    name, _, version = dataset.partition("@")
    manifest = open_dataset(Store.open(store), name, version or LATEST).manifest
    emit(manifest.model_dump(mode="json"), json, lambda: _description(manifest))


def _description(manifest: "Manifest") -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = manifest.settings.made
    splits = (
        f"val {made.val_fraction:g}, test {made.test_fraction:g} of train, seed {made.seed}"
        if made
        else "as in the source"
    )
    facts = Table.grid(padding=(0, 2))
    for what, value in (
        ("dataset", manifest.ref),
        ("source", manifest.source),
        ("created", manifest.created[:19].replace("T", " ") + " UTC"),
        ("images", f"{manifest.images:,} in {len(manifest.classes)} classes"),
        ("stored", f"{manifest.bytes / 1e6:.1f} MB, sides up to {manifest.settings.max_side}"),
        ("splits", splits),
        *(
            (what, f"{spread.min} to {spread.max} pixels, median {spread.median}")
            for what, spread in (("width", manifest.width), ("height", manifest.height))
        ),
    ):
        facts.add_row(what, Text(value))

    table = Table("class", *manifest.counts)
    for name in manifest.classes[:CLASSES_SHOWN]:
        table.add_row(Text(name), *(str(counts[name]) for counts in manifest.counts.values()))
    if len(manifest.classes) > CLASSES_SHOWN:
        table.add_row(f"and {len(manifest.classes) - CLASSES_SHOWN} more")
    table.add_section()
    table.add_row("all", *(str(sum(counts.values())) for counts in manifest.counts.values()))

    return Group(
        facts,
        table,
        *_found("left out", [f"{file.path}: {file.reason}" for file in manifest.skipped]),
        *_found(
            "in several splits (leakage)",
            [f"{', '.join(leak.paths)}: {', '.join(leak.splits)}" for leak in manifest.leakage],
        ),
        *_found(
            "the same image under different labels",
            [f"{', '.join(found.paths)}" for found in manifest.conflicts],
        ),
    )


def _found(what: str, lines: list[str]) -> "list[Text]":
    """Name the first few of what import found, where it found any."""
    from rich.text import Text

    if not lines:
        return []
    shown = [f"{what}: {len(lines)}", *(f"  {line}" for line in lines[:FILES_SHOWN])]
    if len(lines) > FILES_SHOWN:
        shown.append(f"  and {len(lines) - FILES_SHOWN} more; --json lists all")
    return [Text("\n".join(shown))]
