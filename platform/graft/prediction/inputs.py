"""What is predicted: all files of a source, without labels, in an order that stays."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.bundle_source import images_in, is_bundle, is_document, only_bundles
from graft.data.file_reader import FileReader
from graft.data.image_source import LabelledFile
from graft.data.listing import ListedFile
from graft.data.manifest import LATEST, DatasetVersion, open_dataset
from graft.data.source import listing_of_file, names_bundle
from graft.data.table import TABLES, Row, read_table
from graft.data.table_source import table_folder, table_location
from graft.data.walk import LISTED_EACH, ignored_name, shown_path, walk
from graft.errors import DataError
from graft.spec.prediction import DATASET_SCHEME
from graft.store import Store, bucket_and_key

SCHEMA = pa.schema([("path", pa.string()), ("location", pa.string()), ("size", pa.int64())])
"""Of a list of inputs; the columns are those of `Input`."""
LIST = ".txt"

Listed = Callable[[int], object]
"""Is told now and then how many files were listed."""


@dataclass(frozen=True)
class Input:
    """A file that should be an image."""

    path: str
    """As it is shown, relative to the source."""
    location: str | None
    """A local path, an s3:// URI, a part of such a file (`graft.data.locations`), or the SHA-256 of
    a dataset's image; None: the file's name is not UTF-8, and nothing records it."""
    size: int | None = None
    """Bytes of an S3 object, as it was listed."""


def list_inputs(store: Store, source: str, listed: Listed = lambda files: None) -> Iterator[Input]:
    """Yield all inputs of a source, in the order of their paths.

    Tables and lists keep their own order; a file that stands in them twice is predicted twice.

    Raises:
        DataError: there is no file at `source`, or a line of it is none.
        NotFoundError: there is no such dataset.
        StoreError: an S3 bucket, or the dataset, cannot be read.
    """
    inputs = _inputs(store, source, listed)
    first = next(inputs, None)
    if first is None:
        raise DataError(f"source '{source}': found no file; expected images in it, or below it")
    yield first
    yield from inputs


def _inputs(store: Store, source: str, listed: Listed) -> Iterator[Input]:
    if source.startswith(DATASET_SCHEME):
        return _of_dataset(dataset_of(store, source))
    reader = FileReader()
    if not source.startswith("s3://"):
        source = str(Path(source).expanduser())
        if Path(source).is_dir():  # whatever it is called
            return _of_files(_of_folder(source, listed), reader, listed)
    if names_bundle(source, reader):
        return _of_bundles(listing_of_file(source).files, reader, listed)
    if source.lower().endswith(TABLES):
        return _of_rows(source, read_table(reader, source, wanted=("path",)), reader)
    if source.lower().endswith(LIST):
        return _of_rows(source, _lines(source, reader), reader)
    if source.startswith("s3://"):
        return _of_files(_of_prefix(source, reader, listed), reader, listed)
    sort = "is a file" if Path(source).exists() else "does not exist"
    raise DataError(
        f"source '{source}' {sort}; expected a folder, an s3:// prefix, a table (.csv, .parquet), "
        f"files that hold images (.parquet, .tar), a list of files (.txt), or {DATASET_SCHEME}NAME"
    )


def dataset_of(store: Store, source: str) -> DatasetVersion:
    """Return the dataset version that a source of `DATASET_SCHEME` names."""
    name, _, version = source.removeprefix(DATASET_SCHEME).partition("@")
    return open_dataset(store, name, version or LATEST)


def write_inputs(path: Path, inputs: Iterable[Input], part_images: int) -> int:
    """Write a list of inputs, a row group for each part, as they come; return how many they are."""
    count = 0
    inputs = iter(inputs)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        while part := list(islice(inputs, part_images)):
            count += len(part)
            columns = map(list, zip(*map(astuple, part), strict=True))
            writer.write_table(pa.table(list(columns), schema=SCHEMA))
    return count


def read_part(file: pq.ParquetFile, part: int) -> list[Input]:
    """Return the inputs of a part of a list, numbered from 0."""
    return [Input(**row) for row in file.read_row_group(part).to_pylist()]


def _of_dataset(dataset: DatasetVersion) -> Iterator[Input]:
    for split in dataset.manifest.counts:
        for image in dataset.images(split):
            yield Input(image.path, image.sha256)


def _of_files(files: Iterator[Input], reader: FileReader, listed: Listed) -> Iterator[Input]:
    """Yield files as they are; or, where all of them hold many images each, these images."""
    first: list[Input] = []
    for file in files:
        first.append(file)
        if not (file.location and (is_bundle(file.path) or is_document(file.path))):
            yield from first
            yield from files
            return
    listing = [ListedFile(file.path, str(file.location), file.size) for file in first]
    if not only_bundles(listing):
        yield from first
        return
    yield from _of_bundles([file for file in listing if is_bundle(file.path)], reader, listed)


def _of_bundles(
    bundles: Sequence[ListedFile], reader: FileReader, listed: Listed
) -> Iterator[Input]:
    for image in images_in(reader, bundles, splits=None, names=None, progress=listed):
        if isinstance(image, LabelledFile):
            yield Input(image.path, image.location)


def _of_folder(source: str, listed: Listed) -> Iterator[Input]:
    for path, location in sorted(walk(Path(source), listed).files.items()):
        if not location.endswith("/"):
            recordable = shown_path(location) == location
            yield Input(shown_path(path), os.path.abspath(location) if recordable else None)


def _of_prefix(source: str, reader: FileReader, listed: Listed) -> Iterator[Input]:
    bucket, prefix = bucket_and_key(source)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    # S3 lists keys in the order of their bytes in UTF-8, which is that of paths.
    for number, (key, size) in enumerate(reader.bucket(bucket).scan(prefix), start=1):
        if number % LISTED_EACH == 0:
            listed(number)
        path = key.removeprefix(prefix)
        if not key.endswith("/") and not any(map(ignored_name, path.split("/"))):
            yield Input(shown_path(path), f"s3://{bucket}/{key}", size)


def _of_rows(source: str, table: Iterable[Row], reader: FileReader) -> Iterator[Input]:
    """Yield the files that a table or a list names, relative to its folder."""
    folder = table_folder(source)
    buckets: set[str] = set()
    for row in table:
        location = table_location(row, folder)
        if not location.startswith("s3://"):
            location = os.path.abspath(location)
        elif (place := bucket_and_key(location))[0] not in buckets:
            reader.bucket(place[0]).size(place[1])  # refuses a bucket that is none, or not ours
            buckets.add(place[0])
        yield Input(row.text("path"), location)


def _lines(source: str, reader: FileReader) -> Iterator[Row]:
    """Yield the lines of a list of files as rows of a table, comments left out: `# ...`."""
    try:
        text = reader.read_source(source).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"source '{source}': not a list of files in UTF-8: {error}") from error
    # Not `splitlines`, which also breaks at characters that names may have.
    for number, line in enumerate(re.split(r"\r?\n", text), start=1):
        if line.strip() and not re.match(r"#(\s|$)", line):
            yield Row(source, f"line {number}", {"path": line})
