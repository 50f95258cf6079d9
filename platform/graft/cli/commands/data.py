"""`graft data import|ls|show`: the dataset versions in the store."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, grouped_options, open_store

if TYPE_CHECKING:
    from rich.table import Table

app = noun("Import labelled images; list and show datasets.")


@dataclass(frozen=True)
class ImportOptions:
    """The options of `graft data import`, by the names that `import_dataset` has for them."""

    max_side: Annotated[
        int,
        typer.Option(
            min=1,
            max=16383,
            help="Images with a longer side, in pixels, are stored shrunk to it. The default "
            "keeps what training at 224 needs, up to an aspect ratio of 2:1.",
        ),
    ] = 512
    val_fraction: Annotated[
        float | None,
        typer.Option(
            show_default="0.2",
            help="Part of each class that validates, where the source has no val split.",
        ),
    ] = None
    test_fraction: Annotated[
        float | None,
        typer.Option(
            show_default="0.1",
            help="Part of each class's train images held out for a test of the final model, where "
            "the source has no test split; 0 for none.",
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(show_default="0", help="Seeds the choice of splits.")
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that are no usable images.")
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="one a CPU",
            help="Threads that read and decode; S3 sources gain from more.",
        ),
    ] = None


@app.command("import")
@grouped_options
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
    options: ImportOptions,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Import labelled images as an immutable dataset version.

    The same files with the same settings are the same version, and write nothing.

    Example: graft data import photos --name ants-bees --val-fraction 0.3
    """
    from graft.cli.show.dataset import description, document, import_progress
    from graft.cli.show.output import emit, note
    from graft.data.importing import import_dataset
    from graft.data.manifest import DatasetVersion

    opened = open_store(store)
    start = time.perf_counter()
    with import_progress() as progress:
        imported = import_dataset(opened, source, name, **asdict(options), progress=progress)
    seconds = time.perf_counter() - start
    manifest = imported.manifest
    if not imported.written:
        note(f"{manifest.ref} holds these images already; nothing was written")
    dataset = DatasetVersion(opened, manifest)
    speed = {
        "written": imported.written,
        "seconds": round(seconds, 3),
        "images_per_second": round(manifest.images / seconds, 1),
    }
    emit(document(dataset) | speed, json, lambda: description(dataset))


@app.command()
def ls(store: StoreUri = DEFAULT_STORE, json: Json = False) -> None:
    """List dataset versions.

    Example: graft data ls
    """
    from graft.cli.show.output import LeftOut, emit
    from graft.data.manifest import latest, list_datasets
    from graft.store import unless_damaged

    opened, left_out = open_store(store), LeftOut()
    manifests = list_datasets(opened, left_out.add)
    pointers = {
        name: unless_damaged(partial(latest, opened, name), left_out.add)
        for name in {manifest.name for manifest in manifests}
    }
    rows = [
        {
            "name": manifest.name,
            "version": manifest.version,
            "latest": pointers[manifest.name] == manifest.version,
            "classes": len(manifest.classes),
            "images": {split: sum(counts.values()) for split, counts in manifest.counts.items()},
            "bytes": manifest.bytes,
            "created": manifest.created,
        }
        for manifest in manifests
    ]

    def table() -> "Table":
        from rich.table import Column, Table

        table = Table(
            Column("dataset", no_wrap=True), "latest", "classes", "images", "MB", "created"
        )
        for manifest, row in zip(manifests, rows, strict=True):
            table.add_row(
                manifest.ref,
                "yes" if row["latest"] else "",
                str(row["classes"]),
                str(manifest.images),
                f"{manifest.bytes / 1e6:.1f}",
                manifest.created[:10],
            )
        return table

    emit({"datasets": rows}, json, table)
    left_out.tell()


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Which dataset.")],
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show a version's classes, splits and sizes, and what import found wrong.

    Example: graft data show ants-bees
    """
    from graft.cli.dataset_refs import open_dataset_ref
    from graft.cli.show.dataset import description, document
    from graft.cli.show.output import emit

    version = open_dataset_ref(open_store(store), dataset)
    emit(document(version), json, lambda: description(version))
