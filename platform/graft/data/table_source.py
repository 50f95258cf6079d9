"""Images that a table names, a row each: a .csv or .parquet file."""

import os
import re
from pathlib import Path

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.image_source import ImageSource, LabelledFile
from graft.data.split_folders import SPLIT_NAMES
from graft.data.table import Row, read_table
from graft.errors import DataError
from graft.store import bucket_and_key

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
"""Begins what is no local path."""
_WINDOWS = re.compile(r"[A-Za-z]:/|.*\\")


def open_table(uri: str, reader: FileReader, labelled: bool = True) -> ImageSource:
    """List what a table names.

    Args:
        uri: local path or s3:// URI of the table.
        reader: what table and files are read with.
        labelled: False: labels come from elsewhere, and the table's own are not looked at.

    Raises:
        DataError: it is no table, or labels a file in two ways.
        StoreError: an S3 bucket cannot be used.
    """
    folder = table_folder(uri)
    names = ClassNames()
    files: list[LabelledFile] = []
    splits: set[str] = set()
    first_rows: dict[str, tuple[str, str]] = {}  # by location: label and position
    for row in read_table(reader, uri, ("path", "label") if labelled else ("path",)):
        path, label = row.text("path"), names.of(row.text("label")) if labelled else ""
        split = row.split(SPLIT_NAMES) if "split" in row.values else None
        location = table_location(row, folder)
        first_label, first_position = first_rows.setdefault(location, (label, row.position))
        if first_label != label:
            raise DataError(
                f"{uri}: {path} is labelled '{first_label}' ({first_position}) and "
                f"'{label}' ({row.position}); give it one label"
            )
        if location.startswith("s3://"):
            reader.bucket(bucket_and_key(location)[0])  # refuses a name that can be no bucket's
        files.append(LabelledFile(path, location, label, split or "train"))
        splits |= {split} if split else set()
    if not files:
        raise DataError(f"{uri}: found no row")
    return ImageSource(files, [], splits, reader, names.notes())


def table_folder(uri: str) -> str:
    """Return the folder of a table or a list, to which its paths are relative."""
    if uri.startswith("s3://"):
        return uri.rpartition("/")[0]
    return str(Path(uri).expanduser().parent)


def table_location(row: Row, folder: str) -> str:
    """Return where a table's row points: `folder` is the table's.

    Raises:
        DataError: it is neither a path nor an s3:// URI.
    """
    path = row.text("path")
    location = _resolved(folder, path)
    if not location.startswith("s3://"):
        if SCHEME.match(path):
            row.refuse(f"path is '{path}'; only local paths and s3:// are read")
        if _WINDOWS.match(path) and not os.path.lexists(location):
            row.refuse(
                f"there is no '{path}'; folders are separated by /, not by \\, and drives "
                "have no letters"
            )
    elif not all(bucket_and_key(location)):
        row.refuse(f"path is '{path}'; expected s3://BUCKET/KEY")
    return location


def _resolved(folder: str, path: str) -> str:
    if path.startswith("s3://"):
        return path
    if not folder.startswith("s3://"):
        return os.path.normpath(os.path.join(folder, path))
    bucket, prefix = bucket_and_key(folder)
    parts = prefix.split("/") if prefix else []
    for part in path.split("/"):  # an empty one is a part of the key
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return f"s3://{bucket}/{'/'.join(parts)}"
