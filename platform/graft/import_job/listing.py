"""The source of an import as it was listed when it began: what is added later changes nothing."""

import io
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from sys import intern

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.file_reader import FileReader
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.label_table import LabelRow, LabelTable
from graft.data.manifest import SkippedFile
from graft.import_job.records import Begun
from graft.spec import Section
from graft.store import ObjectRef, Store, document_bytes, parse_document

_FILES = pa.schema(
    [
        ("path", pa.string()),
        ("location", pa.binary()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("size", pa.int64()),
    ]
)
"""Of the file of a source's files; a location may be no UTF-8."""
_LABELS = pa.schema([(name, pa.string()) for name in ("sha256", "label", "split", "position")])


class Listing(Section):
    """All of a source but its files: ``listing-*.json``."""

    stray: tuple[SkippedFile, ...]
    splits: tuple[str, ...]
    notes: tuple[str, ...]
    labels: str | None
    """The table whose labels go by SHA-256; null: none."""


def put_files(
    store: Store, folder: str, files: list[LabelledFile], part_files: int, scratch: Path
) -> ObjectRef:
    """Write the files of a source, a row group for each part."""
    path = scratch / "files.parquet"
    with pq.ParquetWriter(path, _FILES) as writer:
        for start in range(0, len(files), part_files):
            part = files[start : start + part_files]
            columns = [
                [file.path for file in part],
                [os.fsencode(file.location) for file in part],
                [file.label for file in part],
                [file.split for file in part],
                [file.size for file in part],
            ]
            writer.write_table(pa.table(columns, schema=_FILES))
    return store.put(folder, path.name, path)


def read_files(files: pq.ParquetFile, part: int) -> list[LabelledFile]:
    """Return the files of a part."""
    rows = files.read_row_group(part).to_pylist()
    return [
        LabelledFile(
            row["path"],
            os.fsdecode(row["location"]),
            intern(row["label"]),  # of all files of a class, one text
            intern(row["split"]),
            row["size"],
        )
        for row in rows
    ]


def open_payload(store: Store, folder: str, ref: ObjectRef) -> pq.ParquetFile:
    """Map a Parquet file of the store: each part of it is read as it is asked for."""
    file = store.open_file(folder, ref)
    if file is None:  # the node's cache has no room
        return pq.ParquetFile(pa.BufferReader(store.get(folder, ref)))
    with file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pq.ParquetFile(pa.BufferReader(pa.py_buffer(mapped)))


def put_listing(store: Store, folder: str, source: ImageSource) -> ObjectRef:
    """Write all of a source but its files and its table of labels."""
    table = source.labels_by_digest
    listing = Listing(
        stray=tuple(source.stray),
        splits=tuple(sorted(source.splits)),
        notes=tuple(source.notes),
        labels=table and table.uri,
    )
    return store.put(folder, "listing.json", document_bytes(listing))


def put_labels(store: Store, folder: str, source: ImageSource) -> ObjectRef | None:
    """Write the table of labels by SHA-256, if the source has one."""
    if source.labels_by_digest is None:
        return None
    rows = [
        {"sha256": digest, "label": row.label, "split": row.split, "position": row.position}
        for digest, row in source.labels_by_digest.rows.items()
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _LABELS), file)
    return store.put(folder, "labels.parquet", file.getvalue())


def read_source(store: Store, begun: Begun) -> ImageSource:
    """Return a source as it was listed, without its files: `read_files` has those."""
    data = store.get(begun.folder, begun.listing)
    listing = parse_document(store, f"{begun.folder}/{begun.listing.name}", data, Listing)
    table = None
    if begun.labels and listing.labels:
        rows = open_payload(store, begun.folder, begun.labels).read().to_pylist()
        table = LabelTable(listing.labels, "sha256", _label_rows(rows))
    return ImageSource(
        files=[],
        stray=list(listing.stray),
        splits=set(listing.splits),
        reader=FileReader(),
        notes=list(listing.notes),
        labels_by_digest=table,
    )


def _label_rows(rows: Iterable[dict[str, str]]) -> dict[str, LabelRow]:
    return {row["sha256"]: LabelRow(row["label"], row["split"], row["position"]) for row in rows}
