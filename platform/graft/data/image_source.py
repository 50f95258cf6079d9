"""What an import reads: labelled files, what is no labelled file, and how each is read."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from graft.data.file_reader import FileReader
from graft.data.label_table import LabelRow, LabelTable
from graft.data.manifest import SkippedFile
from graft.errors import DataError, ImageError


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file, or a part of one, that should be an image."""

    path: str
    """The path that is shown and recorded: relative to the source, or as its table has it."""
    location: str
    """Local path, s3:// URI, or a part of such a file: `graft.data.locations`."""
    label: str
    """Name of its class; empty until the file is read, where labels go by SHA-256."""
    split: str
    """``train`` if the source has no splits."""
    size: int | None = None
    """Bytes of an S3 object as it was listed; None: not listed, or a part of a file."""

    def with_label_of(self, row: LabelRow) -> "LabelledFile":
        """Return the file as a row of labels has it."""
        return replace(self, label=row.label, split=row.split or self.split)


@dataclass(frozen=True)
class ImageSource:
    """The files that an import reads."""

    files: list[LabelledFile]
    stray: list[SkippedFile]
    """Files without a label."""
    splits: set[str]
    """The splits that the source has; empty if it leaves them to Graft."""
    reader: FileReader
    """What the files are read with."""
    notes: list[str] = field(default_factory=list)
    """What was passed by or put together, for people to read."""
    labels_by_digest: LabelTable | None = None
    """Labels by SHA-256, which take the place of the source's own."""

    def read(self, file: LabelledFile) -> bytes:
        """Return a file's bytes; thread-safe.

        Raises:
            ImageError: the file does not exist, cannot be read or is too large.
        """
        return self.reader.read(file.location, file.size)

    def relabelled(self, table: LabelTable) -> "ImageSource":
        """Return the same files with the labels, and splits, of a table.

        Raises:
            DataError: the table names files by path, and none of them.
        """
        splits = table.splits or self.splits
        notes = [*self.notes, *table.notes, f"labels are those of {table.uri}, by {table.key}"]
        if table.key == "sha256":
            return replace(self, splits=splits, notes=notes, labels_by_digest=table)
        files: list[LabelledFile] = []
        stray = list(self.stray)
        paths = set()
        for file in self.files:
            path = posixpath.normpath(file.path)
            if row := table.rows.get(path):
                files.append(file.with_label_of(row))
                paths.add(path)
            else:
                stray.append(SkippedFile(path=file.path, reason=f"no row of {table.uri} names it"))
        if not files:
            raise DataError(
                f"{table.uri}: none of its {len(table.rows):,} paths, such as "
                f"'{next(iter(table.rows))}', is one of the source's, such as "
                f"'{self.files[0].path}'; expected paths as the source has them"
            )
        stray += table.rows_without_image(paths)
        return replace(self, files=files, stray=stray, splits=splits, notes=notes)

    def labelled(self, file: LabelledFile, sha256: str) -> LabelledFile:
        """Return a file with its label, once its SHA-256 is known.

        Raises:
            ImageError: labels go by SHA-256, and no row has this one.
        """
        table = self.labels_by_digest
        if table is None:
            return file
        if row := table.rows.get(sha256):
            return file.with_label_of(row)
        raise ImageError(f"no row of {table.uri} has its SHA-256, {sha256}")

    def rows_without_image(self, digests: Iterable[str]) -> list[SkippedFile]:
        """Return the rows of labels by SHA-256 that name none of the images that have `digests`."""
        table = self.labels_by_digest
        return table.rows_without_image(digests) if table else []
