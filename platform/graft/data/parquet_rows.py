"""Images in a Parquet file, row by row: at its quickest from the first to the last."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graft.errors import ImageError

BUFFER = 4 << 20
"""Bytes of a column that are read from its file at once."""
BATCH = 8
"""Rows that are decoded at once. A file's dictionary may make a large image of each row, so that a
whole row group of them could have any size."""
WAITING_BYTES = 64 << 20
"""Images that were passed on the way to a later row wait for their thread, up to so many bytes."""


@contextmanager
def parquet_explained() -> Iterator[None]:
    """Turn what pyarrow raises of a Parquet file into the reason why it cannot be read.

    Raises:
        ImageError: pyarrow refused the file.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"not a Parquet file that can be read: {reason}") from error


def open_parquet(source: pa.NativeFile, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file so that a column is read part by part, and not as a whole."""
    return pq.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False, **options)


def image_column(schema: pa.Schema) -> str | None:
    """Return the path of the column that has images' bytes: ``image.bytes``, or ``image``.

    It is the only one that holds bytes, alone or as the `bytes` of a struct, as Hugging Face has
    it; of several, the one that is called `image`. None: there is no such column.

    Raises:
        ImageError: there are several, or a column `path` that names files as well.
    """
    paths = [path for field in schema if (path := _bytes_path(field))]
    if paths and "path" in (name.strip().lower() for name in schema.names):
        raise ImageError(
            f"found the column path, which names files, and images' bytes in {', '.join(paths)}; "
            "leave one"
        )
    if len(paths) > 1:
        called = [path for path in paths if path.removesuffix(".bytes") == "image"]
        if len(called) != 1:
            raise ImageError(
                f"found bytes in the columns {', '.join(paths)}; expected one, or one called image"
            )
        return called[0]
    return paths[0] if paths else None


def _bytes_path(field: pa.Field) -> str:
    if _holds_bytes(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type):
        index = field.type.get_field_index("bytes")
        if index >= 0 and _holds_bytes(field.type.field(index).type):
            return f"{field.name}.bytes"
    return ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


class RowReader:
    """Reads the images of one Parquet file; thread-safe.

    A row group is decoded from its first row on, and each row that was decoded is given out once:
    reading in order decodes each once, and a row that was given out begins its row group anew.
    """

    def __init__(self, source: pa.NativeFile):
        with parquet_explained():
            self._file = open_parquet(source)
            metadata = self._file.metadata
            column = image_column(self._file.schema_arrow)
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if column is None:
            raise ImageError("no column has images' bytes")
        self._column = column
        self._starts = [0, *accumulate(groups)]
        self._lock = Lock()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._current = len(groups)  # the row group of `_batches`; at first none
        self._next = 0  # the row that `_batches` has next
        self._waiting: dict[int, bytes | None] = {}
        self._waiting_bytes = 0

    def read(self, row: int) -> bytes:
        """Return the bytes of a row, from 0.

        Raises:
            ImageError: the row has none, or cannot be read.
        """
        if not 0 <= row < self._starts[-1]:
            raise ImageError(f"the file has {self._starts[-1]:,} rows")
        with self._lock, parquet_explained():
            if row not in self._waiting:
                self._decode_up_to(row)
            data = self._waiting.pop(row)
            self._waiting_bytes -= len(data or b"")
        if data is None:
            raise ImageError(f"no bytes in its column {self._column}")
        return data

    def _decode_up_to(self, row: int) -> None:
        group = self._group(row)
        if row < self._next or group != self._current:
            if group == self._current + 1:  # others still ask for the last rows before it
                with suppress(ImageError), parquet_explained():
                    self._advance(self._starts[group] - 1)
            self._current, self._next = group, self._starts[group]
            self._batches = self._file.iter_batches(
                BATCH, row_groups=[group], columns=[self._column], use_threads=False
            )
        self._advance(row)
        while self._waiting_bytes > WAITING_BYTES and (first := next(iter(self._waiting))) != row:
            self._waiting_bytes -= len(self._waiting.pop(first) or b"")

    def _advance(self, row: int) -> None:
        while self._next <= row:
            batch = next(self._batches, None)
            if batch is None:
                raise ImageError("its row group ends before it")
            for value in batch.column(0).to_pylist():
                self._keep(value.get("bytes") if isinstance(value, dict) else value)

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _keep(self, data: bytes | None) -> None:
        self._waiting_bytes += len(data or b"") - len(self._waiting.pop(self._next, None) or b"")
        self._waiting[self._next] = data
        self._next += 1
