"""What can be imported: folders, tables, and files that hold many images; here, or in S3.

`open_source` lists the images and how each is labelled; no image is opened before
`ImageSource.read`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from graft.data.bundle_source import is_bundle, only_bundles, open_bundles
from graft.data.file_reader import FileReader
from graft.data.folder_source import label_by_folder
from graft.data.image_source import ImageSource
from graft.data.label_table import read_labels
from graft.data.listing import ListedFile, Listing, list_folder, list_prefix
from graft.data.parquet_source import holds_images
from graft.data.table import TABLES
from graft.data.table_source import SCHEME, open_table
from graft.errors import DataError, ImageError

EXPECTED = "a directory, an s3:// prefix, or a .csv, .parquet or .tar file"

Progress = Callable[[int], object]
"""Called now and then with the number of files that were listed so far."""


def open_source(
    uri: str, progress: Progress = lambda files: None, labels: str | None = None
) -> ImageSource:
    """List the images at `uri`.

    Args:
        uri: a directory or s3:// prefix of class folders, or of .parquet or .tar files that hold
            images; one such file; or a .csv or .parquet table of paths.
        progress: see `Progress`.
        labels: a .csv or .parquet table whose labels take the place of the source's own, which then
            needs none; see `LabelTable`.

    Raises:
        DataError: there is nothing usable at `uri`; the message says what is missing.
        StoreError: an S3 bucket cannot be used.
    """
    if SCHEME.match(uri) and not uri.startswith("s3://"):
        raise DataError(
            f"source '{uri}': only local paths and s3:// are read; download it, and import that"
        )
    reader = FileReader()
    if labels is None:
        return _open(uri, reader, progress)
    table = read_labels(reader, labels)
    return _open(uri, reader, progress, labels).relabelled(table)


def _open(
    uri: str, reader: FileReader, progress: Progress, labels: str | None = None
) -> ImageSource:
    labelled = labels is None
    root = None if uri.startswith("s3://") else Path(uri).expanduser()
    if root and root.is_dir():  # whatever it is called
        listing = list_folder(uri, root, progress)
    elif names_bundle(uri, reader):
        return open_bundles(listing_of_file(uri), reader, labelled, progress)
    elif uri.lower().endswith(TABLES):
        return open_table(uri, reader, labelled)
    elif root:
        sort = "is a file" if root.exists() else "does not exist"
        raise DataError(f"source '{uri}' {sort}; expected {EXPECTED}")
    else:
        listing = list_prefix(uri, reader, progress)
    if labels is not None:
        listing = listing.without(_location(labels, follow=True))
    if only_bundles(listing.files):
        return open_bundles(listing, reader, labelled, progress)
    return label_by_folder(listing, reader, labelled)


def names_bundle(uri: str, reader: FileReader) -> bool:
    """Whether a source is one file that holds many images; a .parquet file may also be a table.

    Raises:
        DataError: it is a .parquet file that cannot be read, or holds both images and paths.
    """
    if not uri.lower().endswith(".parquet"):
        return is_bundle(uri)
    try:
        return holds_images(reader, _location(uri))
    except ImageError as error:
        raise DataError(f"source '{uri}': {error}") from error


def listing_of_file(uri: str) -> Listing:
    """Return the listing of a source that is one file."""
    location = _location(uri)
    return Listing(uri, [ListedFile(location.rpartition("/")[2], location)])


def _location(uri: str, follow: bool = False) -> str:
    """Return the absolute path of a source; `follow`: without links, as a walk has it."""
    if uri.startswith("s3://"):
        return uri
    path = Path(uri).expanduser()
    return os.path.realpath(path) if follow else os.path.abspath(path)
