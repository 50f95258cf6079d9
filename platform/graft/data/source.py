"""What can be imported: a folder, an S3 prefix, or a table of paths and labels.

`open_source` lists the files and how each is labelled; no image is opened before
`ImageSource.read`.
"""

import csv
import io
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.manifest import SkippedFile
from graft.data.splits import SPLITS
from graft.errors import DataError, ImageError, ObjectNotFound
from graft.spec import nearest
from graft.store import Store

SPLIT_NAMES = {split: split for split in SPLITS} | {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}
"""The split of each name that a folder or a table's `split` may have, in upper or lower case."""

LAYOUT = "SRC/CLASS/image or SRC/train/CLASS/image and SRC/val/CLASS/image"

MAX_BYTES = 512 << 20
"""A larger file is refused unread: no image that may be decoded needs as many bytes."""

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class LabelledFile:
    """A file that should be an image."""

    path: str
    """The path that is shown and recorded: relative to the source, or as its table has it."""
    location: str
    """Local path or s3:// URI."""
    label: str
    """Name of its class."""
    split: str
    """``train`` if the source has no splits."""


@dataclass(frozen=True)
class ImageSource:
    """The files that an import reads."""

    files: list[LabelledFile]
    stray: list[SkippedFile]
    """Files without a label."""
    splits: set[str]
    """The splits that the source has; empty if it leaves them to Graft."""
    buckets: dict[str, Store]
    """The stores that S3 files are read from, by bucket."""

    def read(self, file: LabelledFile) -> bytes:
        """Return a file's bytes; thread-safe.

        Raises:
            ImageError: the file does not exist, cannot be read or is too large.
        """
        try:
            if file.location.startswith("s3://"):
                bucket, key = _bucket_and_key(file.location)
                return self.buckets[bucket].read(key).data
            with open(file.location, "rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        except ObjectNotFound as error:
            raise ImageError("does not exist") from error
        if len(data) > MAX_BYTES:
            raise ImageError(f"more than {MAX_BYTES >> 20} MB")
        return data


def open_source(uri: str) -> ImageSource:
    """List a directory, an s3:// prefix, or a .csv or .parquet table.

    Raises:
        DataError: there is nothing usable at `uri`; the message says what is missing.
        StoreError: an S3 bucket cannot be used.
    """
    if uri.lower().endswith((".csv", ".parquet")):
        return _open_table(uri)
    if uri.startswith("s3://"):
        bucket, prefix = _bucket_and_key(uri)
        stores = {bucket: Store.open(f"s3://{bucket}")}
        prefix = prefix.rstrip("/") + "/" if prefix else ""
        keys = [key.removeprefix(prefix) for key, _ in stores[bucket].scan(prefix)]
        files = {
            key: f"s3://{bucket}/{prefix}{key}"
            for key in keys
            if not key.endswith("/") and not any(map(_is_hidden, key.split("/")))
        }
        return _by_folders(uri, files, stores)
    root = Path(uri).expanduser()
    if not root.exists():
        raise DataError(
            f"source '{uri}' does not exist; expected a directory, an s3:// prefix, "
            "or a .csv or .parquet file"
        )
    if not root.is_dir():
        raise DataError(f"source '{uri}' is a file; expected a directory, .csv or .parquet")
    return _by_folders(uri, dict(_walk(root)), {})


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Yield relative path and location of each file below `root`, and of each empty folder."""

    def fail(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(root, onerror=fail, followlinks=True):
        relative = Path(parent).relative_to(root).as_posix()
        start = "" if relative == "." else relative + "/"
        folders[:] = [name for name in folders if not _is_hidden(name)]
        files = [name for name in names if not _is_hidden(name)]
        if start and not folders and not files:
            yield start, parent
        for name in files:
            yield start + name, os.path.join(parent, name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _by_folders(uri: str, files: dict[str, str], buckets: dict[str, Store]) -> ImageSource:
    """Label each file by its folder.

    Args:
        uri: the source, for errors.
        files: location of each file by its relative path; that of an empty folder ends with ``/``.
        buckets: see `ImageSource.buckets`.
    """
    with_splits = _has_split_folders(uri, files)
    labelled, stray = [], []
    for path, location in sorted(files.items()):
        *folders, name = path.split("/")
        split = SPLIT_NAMES.get(folders[0].lower()) if with_splits and folders else None
        labels = folders[1:] if with_splits else folders
        shown = path.encode(errors="replace").decode()
        if shown != path:
            stray.append(SkippedFile(path=shown, reason="its name is not UTF-8"))
        elif with_splits and split is None:
            stray.append(SkippedFile(path=path, reason="outside the split folders"))
        elif name and labels:
            labelled.append(LabelledFile(path, location, labels[0], split or "train"))
        elif name:
            stray.append(SkippedFile(path=path, reason="outside any class folder"))
        elif len(labels) == 1:
            stray.append(SkippedFile(path=path, reason="an empty class folder"))
    if not labelled:
        raise DataError(
            f"{uri}: found {len(stray)} files and no class folder with a file; expected {LAYOUT}"
        )
    splits = {SPLIT_NAMES[top] for path in files if (top := _top(path)) in SPLIT_NAMES}
    if not with_splits:
        return ImageSource(labelled, stray, set(), buckets)
    for split in splits - {file.split for file in labelled}:
        raise DataError(f"{uri}: the {split} folder holds no image; fill it or remove it")
    return ImageSource(labelled, stray, splits, buckets)


def _has_split_folders(uri: str, paths: Iterable[str]) -> bool:
    """Whether the outermost folders are splits: classes may be called `train` or `test`, too."""
    top = {_top(path) for path in paths if "/" in path}
    splits = {SPLIT_NAMES[name] for name in top if name in SPLIT_NAMES}
    if "train" in splits:
        return splits != {"train"} or top <= SPLIT_NAMES.keys()
    if top and top <= SPLIT_NAMES.keys():
        raise DataError(f"{uri}: found {', '.join(sorted(top))} but no train; expected {LAYOUT}")
    return False


def _top(path: str) -> str:
    return path.partition("/")[0].lower()


def _open_table(uri: str) -> ImageSource:
    if uri.startswith("s3://"):
        bucket, key = _bucket_and_key(uri)
        buckets = {bucket: Store.open(f"s3://{bucket}")}
        try:
            data = buckets[bucket].read(key).data
        except ObjectNotFound as error:
            raise DataError(f"source '{uri}' does not exist") from error
        folder = uri.rpartition("/")[0]
    else:
        buckets = {}
        try:
            data = Path(uri).expanduser().read_bytes()
        except OSError as error:
            raise DataError(f"cannot read source '{uri}': {error.strerror}") from error
        folder = str(Path(uri).expanduser().parent)

    files: list[LabelledFile] = []
    splits: set[str] = set()
    first_rows: dict[str, tuple[str, str]] = {}  # by location: label and position
    for row in _rows(uri, data):
        path, label = row.text("path"), row.text("label")
        split = row.split() if "split" in row.values else None
        location = _resolve(folder, path)
        first_label, first_position = first_rows.setdefault(location, (label, row.position))
        if first_label != label:
            raise DataError(
                f"{uri}: {path} is labelled '{first_label}' ({first_position}) and "
                f"'{label}' ({row.position}); give it one label"
            )
        if location.startswith("s3://") and (bucket := _bucket_and_key(location)[0]) not in buckets:
            buckets[bucket] = Store.open(f"s3://{bucket}")
        files.append(LabelledFile(path, location, label, split or "train"))
        splits |= {split} if split else set()
    if not files:
        raise DataError(f"{uri}: found no row")
    return ImageSource(files, [], splits, buckets)


@dataclass(frozen=True)
class _Row:
    """A row of a table; its methods raise `DataError` for what they cannot read."""

    uri: str
    """The table."""
    position: str
    """The row's line or number, for errors."""
    values: dict[str, Any]
    """By column."""

    def text(self, column: str) -> str:
        value = self.values.get(column)
        text = str(value).strip() if isinstance(value, str | int) else ""
        if not text:
            raise DataError(
                f"{self.uri}: {self.position}: {column} is {value!r}; "
                "expected a text or a whole number"
            )
        return text

    def split(self) -> str:
        name = self.text("split").lower()
        if name not in SPLIT_NAMES:
            raise DataError(
                f"{self.uri}: {self.position}: split is '{name}'{nearest(name, SPLIT_NAMES)}"
            )
        return SPLIT_NAMES[name]


def _rows(uri: str, data: bytes) -> Iterator[_Row]:
    if uri.lower().endswith(".csv"):
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            reader.fieldnames = _columns(uri, reader.fieldnames or [])
            for row in reader:
                yield _Row(uri, f"line {reader.line_num}", row)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{uri}: not a CSV file in UTF-8: {error}") from error
    else:
        try:
            table = pq.read_table(io.BytesIO(data))
        except pa.ArrowException as error:
            raise DataError(f"{uri}: not a Parquet file: {error}") from error
        table = table.rename_columns(_columns(uri, table.column_names))
        for number, row in enumerate(table.to_pylist()):
            yield _Row(uri, f"row {number}", row)


def _columns(uri: str, header: Iterable[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    if not {"path", "label"} <= set(columns):
        raise DataError(
            f"{uri}: found columns {', '.join(columns) or 'none'}; "
            "expected path, label and, if it is to choose them, split"
        )
    return columns


def _resolve(folder: str, path: str) -> str:
    if path.startswith("s3://"):
        return path
    if folder.startswith("s3://"):
        bucket, prefix = _bucket_and_key(folder)
        return f"s3://{bucket}/{posixpath.normpath(posixpath.join(prefix, path))}"
    return os.path.normpath(os.path.join(folder, path))


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
