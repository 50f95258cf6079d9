"""`graft data import|ls|show|diff|rm`: the dataset versions in the store."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from graft.cli.help import noun
from graft.cli.options import DEFAULT_STORE, Json, StoreUri, grouped_options, open_store

if TYPE_CHECKING:
    from rich.table import Table

app = noun("Import labelled images; list, show, compare and remove datasets.")

DatasetVersionRef = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="Which version; the latest by default.")
]


@dataclass(frozen=True)
class ImportOptions:
    """The options of `graft data import`, by the names that `import_dataset` has for them."""

    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A .csv or .parquet table whose labels take the place of the source's own: the "
            "columns path (as the source has it) or sha256 (of the file), label and, if it chooses "
            "them, split. The source then needs no labels, such as a folder of images.",
        ),
    ] = None
    max_side: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=16383,
            show_default="512",
            help="Images with a longer side, in pixels, are stored shrunk to it. The default "
            "keeps what training at 224 needs, up to an aspect ratio of 2:1.",
        ),
    ] = None
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
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out files that are no usable images, or have no label; and rows of "
            "--labels that are of no image.",
        ),
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="one a CPU, four for S3",
            help="Threads that read and decode, in one process up to four.",
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
            "train, val and test folders around them; or with .parquet files that hold images as "
            "Hugging Face's do, or WebDataset's .tar files; one such file; or a .csv or .parquet "
            "table with the columns path, label and, if it chooses them, split.",
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option("--name", help="Name of the dataset.")] = None,
    add_to: Annotated[
        str | None,
        typer.Option(
            "--add-to",
            metavar="NAME[@VERSION]",
            help="In place of --name: add the images to this version, by default the latest. The "
            "new version has all of its images, in their splits, and its settings.",
        ),
    ] = None,
    options: ImportOptions,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Import labelled images as an immutable dataset version.

    The same files with the same settings are the same version, and write nothing, however they
    come: in folders, in Parquet or in tar files. With --add-to, images that the earlier version has
    already add nothing.

    Example: graft data import photos --name ants-bees --val-fraction 0.3
    """
    from graft.cli.dataset_refs import open_dataset_ref
    from graft.cli.show.dataset import import_progress, show_import
    from graft.data.importing import import_dataset
    from graft.data.manifest import DatasetVersion
    from graft.errors import InputError

    opened, version, start = open_store(store), None, time.perf_counter()
    if add_to is not None and name is None:
        parent = open_dataset_ref(opened, add_to).manifest
        name, version = parent.name, parent.version
    elif add_to is not None or name is None:
        raise InputError(
            "expected either --name NAME, for images that are all of a dataset version, or "
            "--add-to NAME[@VERSION], for images that join those of an earlier one"
        )
    with import_progress() as progress:
        imported = import_dataset(
            opened, source, name, add_to=version, **asdict(options), progress=progress
        )
    dataset, seconds = DatasetVersion(opened, imported.manifest), time.perf_counter() - start
    show_import(dataset, imported.written, imported.other_shards, json, seconds)


@app.command()
def discard(
    import_id: Annotated[str, typer.Argument(metavar="JOB", help="The import, by its job's id.")],
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove what an import on a cluster has left that will not go on.

    One that has succeeded, or has met files that it cannot use, has left nothing. One that was
    cancelled or has failed otherwise keeps what it did, for `graft jobs resume`.

    Example: graft data discard ants-bees-20260101-120000-1a2b
    """
    from rich.text import Text

    from graft.cli.show.output import emit, note
    from graft.import_job.run_import import discard_import

    discard_import(open_store(store), import_id, note)
    emit({"discarded": import_id}, json, lambda: Text(f"nothing of {import_id} is left"))


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


@app.command()
def diff(
    before: DatasetVersionRef,
    after: DatasetVersionRef,
    limit: Annotated[
        int, typer.Option(min=0, help="How many images of each difference are named.")
    ] = 10,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what two versions differ in: images, labels, splits, classes.

    Images are told apart by their files' bytes, and copies count once.

    Example: graft data diff ants-bees@575ff852 ants-bees
    """
    from graft.cli.dataset_refs import open_dataset_ref
    from graft.cli.show.dataset_diff import description
    from graft.cli.show.output import emit
    from graft.data.diff import diff_versions

    opened = open_store(store)
    versions = open_dataset_ref(opened, before), open_dataset_ref(opened, after)
    difference = diff_versions(*versions, limit)
    emit(asdict(difference), json, lambda: description(difference))


@app.command()
def rm(
    dataset: DatasetVersionRef,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove it although models, runs or sweeps refer to it."),
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a version: its name and its manifest.

    Its files stay: versions that were added to it read them, and go on as they are. `latest` then
    points at the newest version that is left. A version is refused that models were trained on, or
    that runs or sweeps still have to read.

    Example: graft data rm ants-bees@575ff852
    """
    from rich.text import Text

    from graft.cli.dataset_refs import full_dataset_ref
    from graft.cli.dataset_users import dataset_users
    from graft.cli.show.output import confirm, emit, note
    from graft.data.removing import remove_version
    from graft.errors import InputError
    from graft.units import size

    opened = open_store(store)
    ref = full_dataset_ref(opened, dataset)
    name, _, version = ref.partition("@")
    users = dataset_users(opened, ref)
    if users and not force:
        raise InputError(f"{ref} is in use: {users}; --force removes it all the same")
    if users:
        note(f"{ref} is in use: {users}")
    if not yes:
        confirm(f"Remove {ref} from {opened.uri}?")
    removed = remove_version(opened, name, version)
    latest = f"latest is {removed.latest}" if removed.latest else f"no version of {name} is left"
    readers = ", ".join(removed.readers) or "no version"
    emit(
        {"removed": ref, **asdict(removed), "users": asdict(users)},
        json,
        lambda: Text(
            f"{ref} is removed; {latest}. Its {removed.files:,} files, {size(removed.bytes)}, stay "
            f"in {opened.uri}, read by {readers}"
        ),
    )
