"""Labels in a table of their own, for images that lie elsewhere: `--labels`."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from graft.data.class_names import ClassNames
from graft.data.file_reader import FileReader
from graft.data.manifest import SkippedFile
from graft.data.split_folders import SPLIT_NAMES
from graft.data.table import Row, read_table
from graft.errors import DataError

KEYS = ("sha256", "path")
"""The columns that say which image a row is of; the first that a table has counts."""


@dataclass(frozen=True)
class LabelRow:
    """What a table says of one image."""

    label: str
    split: str
    """Empty where the table leaves splits alone."""
    position: str
    """The row's line or number, for errors."""


@dataclass(frozen=True)
class LabelTable:
    """The labels of images, by path or by the SHA-256 of their files."""

    uri: str
    key: str
    """The column that says which image a row is of: one of `KEYS`."""
    rows: dict[str, LabelRow]
    """By path without ``.`` and ``..``, or by digest."""
    notes: list[str] = field(default_factory=list)
    """Which class names were put together, for people to read."""

    @property
    def splits(self) -> set[str]:
        """The splits that the table chooses; empty if it has no such column."""
        return {row.split for row in self.rows.values() if row.split}

    def rows_without_image(self, keys: Iterable[str]) -> list[SkippedFile]:
        """Return the rows that name none of the images that have `keys`, as files left out."""
        images = set(keys)
        return [
            SkippedFile(
                path=key, reason=f"{self.uri} names it ({row.position}), and the source has it not"
            )
            for key, row in self.rows.items()
            if key not in images
        ]


def read_labels(reader: FileReader, uri: str) -> LabelTable:
    """Read a .csv or .parquet table with the columns path or sha256, label and perhaps split.

    Raises:
        DataError: it is no such table, or labels an image in two ways.
        StoreError: an S3 bucket cannot be used.
    """
    if not uri.lower().endswith((".csv", ".parquet")):
        raise DataError(f"--labels {uri}: expected a table, .csv or .parquet")
    names = ClassNames()
    key, labels = "", dict[str, LabelRow]()
    for row in read_table(reader, uri, wanted=("label",)):
        key = key or _key(row)
        split = row.split(SPLIT_NAMES) if "split" in row.values else ""
        label = LabelRow(names.of(row.text("label")), split, row.position)
        first = labels.setdefault(_image(row, key), label)
        if (first.label, first.split) != (label.label, label.split):
            raise DataError(
                f"{uri}: {row.text(key)} is {_said(first)} ({first.position}) and {_said(label)} "
                f"({label.position}); leave one row of it"
            )
    if not labels:
        raise DataError(f"{uri}: found no row")
    return LabelTable(uri, key, labels, names.notes())


def _key(row: Row) -> str:
    """Return the column that says which image a row is of."""
    for key in KEYS:
        if key in row.values:
            return key
    columns = ", ".join(map(str, row.values))
    raise DataError(f"{row.uri}: found columns {columns}; expected path or sha256, and label")


def _image(row: Row, key: str) -> str:
    """Return what names the image of a row."""
    if key == "path":
        return posixpath.normpath(row.text("path"))
    digest = row.text("sha256").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        row.refuse(f"sha256 is '{digest}'; expected 64 hexadecimal digits")
    return digest


def _said(row: LabelRow) -> str:
    return f"'{row.label}'" + (f" in {row.split}" if row.split else "")
