"""Tables of images, as CSV or Parquet: their rows, each with its place for errors."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.file_reader import FileReader
from graft.errors import DataError
from graft.spec import nearest

TABLES = (".csv", ".parquet")
"""Ends of the names of tables."""

_COLUMNS = ("path", "sha256", "label", "split")


@dataclass(frozen=True)
class Row:
    """A row of a table; its methods raise `DataError` for what they cannot read."""

    uri: str
    """The table."""
    position: str
    """The row's line or number, for errors."""
    values: dict[str, Any]
    """By column."""

    def refuse(self, why: str) -> NoReturn:
        """Raise the error of this row."""
        raise DataError(f"{self.uri}: {self.position}: {why}")

    def text(self, column: str) -> str:
        """Return a text, or a whole number as a text."""
        value = self.values.get(column)
        text = str(value).strip() if isinstance(value, str | int) else ""
        if not text or "\0" in text:
            self.refuse(f"{column} is {value!r}; expected a text or a whole number")
        return text

    def split(self, names: Mapping[str, str]) -> str:
        """Return the split that this row chooses; `names`: the split of each name."""
        name = self.text("split").lower()
        if name not in names:
            self.refuse(f"split is '{name}'{nearest(name, names)}")
        return names[name]


def read_table(reader: FileReader, uri: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of the table at `uri`, a local path or s3:// URI, with its `wanted` columns.

    Raises:
        DataError: it cannot be read, is no table, lacks a column, or has a row that the header does
            not fit.
        StoreError: an S3 bucket cannot be used.
    """
    data = reader.read_source(uri)
    if uri.lower().endswith(".csv"):
        try:
            lines = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            lines.fieldnames = _columns(uri, lines.fieldnames or [], wanted)
            for values in lines:
                row = Row(uri, f"line {lines.line_num}", values)
                if surplus := values.get(None):
                    columns = len(lines.fieldnames)
                    row.refuse(
                        f"{columns + len(surplus)} fields, where the header has {columns}; put a "
                        'text that holds a comma into quotes, as in "ants, red"'
                    )
                yield row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{uri}: not a CSV file in UTF-8: {error}") from error
    else:
        try:
            # Not `read_table`, which reports columns of one name in its own words.
            table = pq.ParquetFile(io.BytesIO(data)).read()
            table = table.rename_columns(_columns(uri, table.column_names, wanted))
            records = table.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{uri}: not a Parquet file with texts in UTF-8: {reason}") from error
        for number, values in enumerate(records):
            yield Row(uri, f"row {number}", values)


def _columns(uri: str, header: Iterable[str], wanted: Sequence[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    if not set(wanted) <= set(columns):
        more = " and, if it is to choose them, split" if "label" in wanted else ""
        raise DataError(
            f"{uri}: found columns {', '.join(columns) or 'none'}; expected "
            f"{', '.join(wanted)}{more}"
        )
    for name in _COLUMNS:
        if columns.count(name) > 1:
            raise DataError(f"{uri}: found {columns.count(name)} columns {name}; expected one")
    return columns
