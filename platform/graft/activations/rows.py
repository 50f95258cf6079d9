"""Where each image's activations lie: rows of shards, sorted by image.

Of a committed split that is an Arrow file, which the processes of a node map and share, so that a
process which reads a few images of ten million holds a few rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graft.data.arrow_file import ArrowFile, digest_column, digests_of, numbers_of, write_arrow
from graft.data.digests import DIGEST_BYTES, DTYPE, Digests, first_bytes, sorting_order

ROWS = pa.schema([("sha256", pa.binary(DIGEST_BYTES)), ("part", pa.int32()), ("row", pa.int32())])
_FEW = 100_000
"""Images that are looked up one by one; of more it is faster to sort them first."""


@dataclass(frozen=True)
class ShardRows:
    """Rows of one shard, in any order."""

    digests: Digests
    """(n,): the image of each."""
    row: NDArray[np.int32]
    """(n,)."""

    @classmethod
    def all_of(cls, digests: Digests) -> Self:
        """Return all rows of a shard, of which these are the images."""
        return cls(digests, np.arange(len(digests), dtype=np.int32))


@dataclass(frozen=True)
class Rows:
    """Rows of shards, by the image whose activations they hold; an image comes once."""

    digests: Digests
    """(n,), sorted."""
    part: NDArray[np.int32]
    """(n,): position of the shard among the parts."""
    row: NDArray[np.int32]
    """(n,): the row of the shard."""

    def __len__(self) -> int:
        return len(self.digests)

    @classmethod
    def of(cls, shards: "Sequence[ShardRows]") -> Self:
        """Return the rows of shards together; of an image that several have, the first one's."""
        digests = np.concatenate([np.empty(0, DTYPE), *(shard.digests for shard in shards)])
        row = np.concatenate([np.empty(0, np.int32), *(shard.row for shard in shards)])
        counts = [len(shard.digests) for shard in shards]
        part = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        order = sorting_order(digests)
        digests = digests[order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = digests[1:] != digests[:-1]
        return cls(digests[is_first], part[order[is_first]], row[order[is_first]])

    @classmethod
    def read(cls, file: BinaryIO, row_counts: Sequence[int]) -> Self:
        """Return the rows of an Arrow file, which is mapped; of these shards, by their row counts.

        Raises:
            ValueError, pa.ArrowException: it is damaged.
        """
        batch = ArrowFile.read(file, ROWS).batch
        part, row = (numbers_of(batch[name], np.int32) for name in ("part", "row"))
        counts = np.array(row_counts, np.int32)
        if len(part) and (part.min() < 0 or part.max() >= len(counts)):
            raise ValueError(f"it names a shard other than 0 to {len(counts) - 1}")
        if (row < 0).any() or (row >= counts[part]).any():
            raise ValueError("it names a row that its shard has not")
        digests = digests_of(batch["sha256"])
        if (digests[1:] <= digests[:-1]).any():
            raise ValueError("its images are not in order")
        return cls(digests, part, row)

    def write(self, path: Path) -> None:
        """Write the Arrow file of these rows, which the same rows give byte for byte."""
        columns = [digest_column(self.digests), pa.array(self.part), pa.array(self.row)]
        write_arrow(path, pa.RecordBatch.from_arrays(columns, schema=ROWS))

    def find(self, digests: Digests) -> NDArray[np.int64]:
        """Return the place here of each image, -1 of one without activations: (k,)."""
        if not len(self):
            return np.full(len(digests), -1)
        if len(digests) < _FEW:
            places = np.searchsorted(self.digests, digests)
        else:
            places = self._find_many(digests)
        there = np.minimum(places, len(self) - 1)
        return np.where(self.digests[there] == digests, there, -1)

    def by_shard(self, shards: int) -> "list[ShardRows]":
        """Return the rows of each of so many shards."""
        order = np.argsort(self.part, kind="stable")
        ends = np.searchsorted(self.part[order], np.arange(1, shards))
        return [
            ShardRows(self.digests[of_shard], self.row[of_shard])
            for of_shard in np.split(order, ends)
        ]

    def _find_many(self, digests: Digests) -> NDArray[np.int64]:
        """Return the first place that is no less than each: by eight bytes, and then by all."""
        begins = first_bytes(digests)
        order = np.argsort(begins)
        places = np.empty(len(digests), np.int64)
        places[order] = np.searchsorted(first_bytes(self.digests), begins[order])
        while True:
            there = np.minimum(places, len(self) - 1)
            behind = (places < len(self)) & (self.digests[there] < digests)
            if not behind.any():
                return places
            places[behind] += 1
