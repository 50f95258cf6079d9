"""What can be imported: a folder, an S3 prefix, or a table of paths and labels.

`open_source` lists the files and how each is labelled; no image is opened before
`ImageSource.read`.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from graft.data.class_names import ClassNames
from graft.data.manifest import SkippedFile
from graft.data.split_folders import LAYOUT, SPLIT_NAMES, has_split_folders, top_folder
from graft.data.table import rows
from graft.data.walk import LISTED_EACH, ignored_name, walk
from graft.errors import (
    DataError,
    ImageError,
    ObjectDamaged,
    ObjectNotFound,
    ObjectUnreadable,
)
from graft.store import SourceBucket, bucket_and_key

MAX_BYTES = 512 << 20
"""A larger file is refused unread: no image that may be decoded needs as many bytes."""

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""Kinds of file that are not regular: to open one may wait for ever, or act on a device."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_WINDOWS = re.compile(r"[A-Za-z]:/|.*\\")


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
    size: int | None = None
    """Bytes of an S3 object as it was listed; None: not listed."""


@dataclass(frozen=True)
class ImageSource:
    """The files that an import reads."""

    files: list[LabelledFile]
    stray: list[SkippedFile]
    """Files without a label."""
    splits: set[str]
    """The splits that the source has; empty if it leaves them to Graft."""
    buckets: dict[str, SourceBucket]
    """What S3 files are read from, by name."""
    notes: list[str] = field(default_factory=list)
    """What was passed by or put together, for people to read."""

    def read(self, file: LabelledFile) -> bytes:
        """Return a file's bytes; thread-safe.

        Raises:
            ImageError: the file does not exist, cannot be read or is too large.
        """
        try:
            if not file.location.startswith("s3://"):
                return _read_regular(file.location)
            bucket, key = bucket_and_key(file.location)
            size = self.buckets[bucket].size(key) if file.size is None else file.size
            _check_size(size or 0)
            return self.buckets[bucket].read(key, MAX_BYTES).data
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        except ObjectNotFound as error:
            raise ImageError("does not exist") from error
        except ObjectDamaged as error:  # it has grown since it was listed
            raise ImageError(_too_large()) from error
        except ObjectUnreadable as error:
            raise ImageError(f"cannot be read: {error}") from error


def _too_large() -> str:
    return f"more than {MAX_BYTES >> 20} MB"


def _read_regular(location: str) -> bytes:
    """Return a file's bytes; what is no regular file is not opened."""
    status = os.stat(location)
    if not stat.S_ISREG(status.st_mode):
        sort = _SPECIAL.get(stat.S_IFMT(status.st_mode), "something else")
        raise ImageError(f"{sort}, not a regular file")
    _check_size(status.st_size)
    with open(location, "rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    _check_size(len(data))  # it may have grown
    return data


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(_too_large())


def open_source(uri: str, progress: Callable[[int], object] = lambda files: None) -> ImageSource:
    """List a directory, an s3:// prefix, or a .csv or .parquet table.

    `progress` is called now and then with the number of files that were listed so far.

    Raises:
        DataError: there is nothing usable at `uri`; the message says what is missing.
        StoreError: an S3 bucket cannot be used.
    """
    if _SCHEME.match(uri) and not uri.startswith("s3://"):
        raise DataError(
            f"source '{uri}': only local paths and s3:// are read; download it, and import that"
        )
    if uri.lower().endswith((".csv", ".parquet")):
        return _open_table(uri)
    if uri.startswith("s3://"):
        return _open_prefix(uri, progress)
    root = Path(uri).expanduser()
    if not root.exists():
        raise DataError(
            f"source '{uri}' does not exist; expected a directory, an s3:// prefix, "
            "or a .csv or .parquet file"
        )
    if not root.is_dir():
        raise DataError(f"source '{uri}' is a file; expected a directory, .csv or .parquet")
    tree = walk(root, progress)
    source = _by_folders(uri, tree.files, tree.links, tree.ignored, {})
    real = {file.path: tree.real.get(file.path, file.location) for file in source.files}
    if tree.real:
        _check_one_label(uri, ((real[file.path], file.path, file.label) for file in source.files))
    return source


def _open_prefix(uri: str, progress: Callable[[int], object]) -> ImageSource:
    bucket, prefix = bucket_and_key(uri)
    buckets = {bucket: SourceBucket(bucket)}
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    files: dict[str, str] = {}
    refused: dict[str, str] = {}
    sizes: dict[str, int] = {}
    passed_by: dict[tuple[str, ...], str] = {}  # the name by the path up to it
    for number, (full, size) in enumerate(buckets[bucket].scan(prefix), start=1):
        if number % LISTED_EACH == 0:
            progress(number)
        key = full.removeprefix(prefix)
        parts = key.split("/")
        names = [ignored_name(part) for part in parts]
        if first := next((i for i, name in enumerate(names) if name), -1) + 1:
            passed_by[tuple(parts[:first])] = names[first - 1] or ""
        elif not key.endswith("/"):
            files[key], sizes[key] = f"s3://{bucket}/{full}", size
        elif size:  # else a folder that somebody made in a console
            refused[key] = "its name ends with /"
    source = _by_folders(uri, files, refused, Counter(passed_by.values()), buckets)
    listed = [replace(file, size=sizes[file.path]) for file in source.files]
    return replace(source, files=listed)


def _check_one_label(uri: str, files: Iterable[tuple[str, str, str]]) -> None:
    """Refuse a file that has two labels: location without links, path and label of each."""
    first: dict[str, tuple[str, str]] = {}
    for real, path, label in files:
        first_path, first_label = first.setdefault(real, (path, label))
        if first_label != label:
            raise DataError(
                f"{uri}: {first_path} and {path} are one file, by links, labelled '{first_label}' "
                f"and '{label}'; give it one label"
            )


def _by_folders(
    uri: str,
    files: dict[str, str],
    refused: dict[str, str],
    ignored: Counter[str],
    buckets: dict[str, SourceBucket],
) -> ImageSource:
    """Label each file by its folder.

    Args:
        uri: the source, for errors.
        files: location of each file by its relative path; that of an empty folder ends with ``/``.
        refused: paths that are not read, such as links to folders, and why not.
        ignored: how many files and folders of each name were passed by.
        buckets: see `ImageSource.buckets`.
    """
    with_splits = has_split_folders(uri, list(map(_with_named_folders, files)))
    names = ClassNames()
    labelled = []
    stray = [SkippedFile(path=_shown(path), reason=reason) for path, reason in refused.items()]
    for path, location in sorted(files.items()):
        *folders, name = _with_named_folders(path).split("/")
        split = SPLIT_NAMES.get(folders[0].lower()) if with_splits and folders else None
        labels = folders[1:] if with_splits else folders
        if _shown(path) != path:
            stray.append(SkippedFile(path=_shown(path), reason="its name is not UTF-8"))
        elif with_splits and split is None:
            stray.append(SkippedFile(path=path, reason="outside the split folders"))
        elif name and labels:
            label = names.of(labels[0])
            labelled.append(LabelledFile(path, location, label, split or "train"))
        elif name:
            stray.append(SkippedFile(path=path, reason="outside any class folder"))
        elif len(labels) == 1:
            stray.append(SkippedFile(path=path, reason="an empty class folder"))
    if not labelled:
        raise DataError(
            f"{uri}: found {len(stray)} files and no class folder with a file; expected {LAYOUT}"
        )
    notes = names.notes()
    if deeper := sum(file.path.count("/") > 1 + with_splits for file in labelled):
        notes.append(f"in folders below a class's folder, and of that class: {deeper:,} files")
    if ignored:
        counts = ", ".join(f"{name} ({count:,})" for name, count in sorted(ignored.items()))
        notes.append(f"names of systems and storage boxes are ignored: {counts}")
    if not with_splits:
        return ImageSource(labelled, stray, set(), buckets, notes)
    splits = {file.split for file in labelled}
    for split in {
        SPLIT_NAMES[top] for path in files if (top := top_folder(path)) in SPLIT_NAMES
    } - splits:
        if not any(
            SPLIT_NAMES.get(top_folder(file.path)) == split and file.path[-1] != "/"
            for file in stray
        ):
            raise DataError(f"{uri}: the {split} folder holds no image; fill it or remove it")
    return ImageSource(labelled, stray, splits, buckets, notes)


def _with_named_folders(path: str) -> str:
    """Return a path without the folders that have no name, as S3 may have them: `a//1.png`."""
    return re.sub("//+", "/", path).removeprefix("/")


def _shown(path: str) -> str:
    """Return a path as it can be printed and recorded."""
    return path.encode(errors="replace").decode()


def _open_table(uri: str) -> ImageSource:
    if uri.startswith("s3://"):
        bucket, key = bucket_and_key(uri)
        buckets = {bucket: SourceBucket(bucket)}
        try:
            data = buckets[bucket].read(key, MAX_BYTES).data
        except ObjectNotFound as error:
            raise DataError(f"source '{uri}' does not exist") from error
        except ObjectDamaged as error:
            raise DataError(f"cannot read source '{uri}': it is {_too_large()}") from error
        folder = uri.rpartition("/")[0]
    else:
        buckets = {}
        try:
            data = _read_regular(str(Path(uri).expanduser()))
        except OSError as error:
            raise DataError(f"cannot read source '{uri}': {error.strerror}") from error
        except ImageError as error:
            raise DataError(f"cannot read source '{uri}': it is {error}") from error
        folder = str(Path(uri).expanduser().parent)

    names = ClassNames()
    files: list[LabelledFile] = []
    splits: set[str] = set()
    first_rows: dict[str, tuple[str, str]] = {}  # by location: label and position
    for row in rows(uri, data):
        path, label = row.text("path"), names.of(row.text("label"))
        split = row.split(SPLIT_NAMES) if "split" in row.values else None
        location = _resolve(folder, path)
        if not location.startswith("s3://"):
            if _SCHEME.match(path):
                row.refuse(f"path is '{path}'; only local paths and s3:// are read")
            if _WINDOWS.match(path) and not os.path.lexists(location):
                row.refuse(
                    f"there is no '{path}'; folders are separated by /, not by \\, and drives "
                    "have no letters"
                )
        first_label, first_position = first_rows.setdefault(location, (label, row.position))
        if first_label != label:
            raise DataError(
                f"{uri}: {path} is labelled '{first_label}' ({first_position}) and "
                f"'{label}' ({row.position}); give it one label"
            )
        if location.startswith("s3://") and (bucket := bucket_and_key(location)[0]) not in buckets:
            buckets[bucket] = SourceBucket(bucket)
        files.append(LabelledFile(path, location, label, split or "train"))
        splits |= {split} if split else set()
    if not files:
        raise DataError(f"{uri}: found no row")
    return ImageSource(files, [], splits, buckets, names.notes())


def _resolve(folder: str, path: str) -> str:
    """Return where a table's row points: `folder` is the table's."""
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
