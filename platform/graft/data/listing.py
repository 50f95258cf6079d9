"""The files below a folder or a prefix, by their paths in it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from graft.data.file_reader import FileReader
from graft.data.walk import LISTED_EACH, ignored_name, walk
from graft.store import bucket_and_key


@dataclass(frozen=True)
class ListedFile:
    """A file as it was listed."""

    path: str
    """Relative to the source."""
    location: str
    """Local path or s3:// URI; that of an empty folder ends with ``/``."""
    size: int | None = None
    """Bytes of an S3 object."""


@dataclass(frozen=True)
class Listing:
    """What lies below a folder or a prefix."""

    uri: str
    """The source, for errors."""
    files: list[ListedFile]
    """Sorted by their paths."""
    refused: dict[str, str] = field(default_factory=dict)
    """Paths that are not read, such as links to folders, and why not."""
    ignored: Counter[str] = field(default_factory=Counter)
    """How many files and folders of each name were passed by."""
    real: dict[str, str] = field(default_factory=dict)
    """By path, the location without links of each file that a link leads to."""

    def without(self, location: str) -> "Listing":
        """Return the listing without a file that lies there and is no part of the source."""
        files = [file for file in self.files if file.location != location]
        return replace(self, files=files)

    def notes(self) -> list[str]:
        """Say which names were passed by."""
        if not self.ignored:
            return []
        counts = ", ".join(f"{name} ({count:,})" for name, count in sorted(self.ignored.items()))
        return [f"names of systems and storage boxes are ignored: {counts}"]


def list_folder(uri: str, root: Path, progress: Callable[[int], object]) -> Listing:
    """List a folder of this machine.

    Raises:
        DataError: a folder cannot be listed.
    """
    tree = walk(root, progress)
    files = [ListedFile(path, location) for path, location in sorted(tree.files.items())]
    return Listing(uri, files, tree.links, tree.ignored, tree.real)


def list_prefix(uri: str, reader: FileReader, progress: Callable[[int], object]) -> Listing:
    """List a prefix of a bucket.

    Raises:
        StoreError: the bucket cannot be used.
    """
    bucket, prefix = bucket_and_key(uri)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    files: list[ListedFile] = []
    refused: dict[str, str] = {}
    passed_by: dict[tuple[str, ...], str] = {}  # the name by the path up to it
    for number, (full, size) in enumerate(reader.bucket(bucket).scan(prefix), start=1):
        if number % LISTED_EACH == 0:
            progress(number)
        key = full.removeprefix(prefix)
        parts = key.split("/")
        names = [ignored_name(part) for part in parts]
        if first := next((i for i, name in enumerate(names) if name), -1) + 1:
            passed_by[tuple(parts[:first])] = names[first - 1] or ""
        elif not key.endswith("/"):
            files.append(ListedFile(key, f"s3://{bucket}/{full}", size))
        elif size:  # else a folder that somebody made in a console
            refused[key] = "its name ends with /"
    files.sort(key=lambda file: file.path)
    return Listing(uri, files, refused, Counter(passed_by.values()))
