"""Arrow files of one table: written byte for byte alike, and mapped by the processes of a node."""

import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graft.data.digests import DIGEST_BYTES, DTYPE, Digests


@dataclass(frozen=True)
class ArrowFile:
    """A table whose columns lie in a mapped file, or in memory."""

    batch: pa.RecordBatch
    _mapped: mmap.mmap | None

    @classmethod
    def read(cls, file: BinaryIO, schema: pa.Schema) -> Self:
        """Map a file, which may be closed afterwards; what is no regular file is read.

        Raises:
            ValueError, pa.ArrowException: it is none with these columns, or it is damaged.
        """
        mapped: mmap.mmap | None = None
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except io.UnsupportedOperation:
            data = pa.py_buffer(file.read())
        else:
            data = pa.py_buffer(mapped)
        return cls(one_batch(pa.ipc.open_file(data).read_all(), schema), mapped)

    def let_go(self) -> None:
        """Give back the memory of pages that were read; whoever needs one reads it again."""
        if self._mapped:
            self._mapped.madvise(mmap.MADV_DONTNEED)


def one_batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """Return a table as one batch, without a copy where it is one.

    Raises:
        ValueError, pa.ArrowException: it has other columns, a value is missing, or it is damaged.
    """
    if not table.schema.equals(schema):
        raise ValueError(f"its columns are {', '.join(map(str, table.schema))}")
    batches = table.combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema)
    batch.validate()
    for column in batch.columns:
        if column.null_count:
            raise ValueError("a value is missing")
        if pa.types.is_large_string(column.type):
            column.validate(full=True)
    return batch


def write_arrow(path: Path, batch: pa.RecordBatch) -> None:
    """Write a table."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def numbers_of(column: pa.Array, dtype: Any) -> NDArray[Any]:
    """Return a column of a fixed width, without a copy."""
    _, values = column.buffers()
    if values is None:
        return np.empty(0, dtype)
    numbers: NDArray[Any] = np.frombuffer(values, dtype)
    return numbers[column.offset : column.offset + len(column)]


def digests_of(column: pa.FixedSizeBinaryArray) -> Digests:
    """Return a column of digests, without a copy."""
    return numbers_of(column, DTYPE)


def digest_column(digests: Digests) -> pa.FixedSizeBinaryArray:
    """Return digests as a column, without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(digests))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(digests), buffers)
