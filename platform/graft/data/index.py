"""The index of a dataset version: columns, of which a row is an image.

It is an Arrow file, which the processes of a node map: they share its pages, and each reads of it
what it asks for. Versions of releases before have a Parquet file, which is read into memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from graft.data.arrow_file import (
    ArrowFile,
    digest_column,
    digests_of,
    numbers_of,
    one_batch,
    write_arrow,
)
from graft.data.digests import DIGEST_BYTES, Digests, from_hexadecimal, hexadecimal
from graft.data.splits import SPLITS

SUFFIX = ".arrow"
_CHECKED_ROWS = 1 << 20
"""Rows that are checked at a time: what that takes in memory is given back."""

INDEX = pa.schema(
    [
        ("sha256", pa.binary(DIGEST_BYTES)),
        ("path", pa.large_string()),
        ("label", pa.int32()),
        ("split", pa.int8()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""Of the Arrow file; a split is its position in `SPLITS`."""
_NUMBERS = [name for name in INDEX.names if name not in ("sha256", "path")]
PARQUET_INDEX = pa.schema(
    [
        ("sha256", pa.string()),
        ("path", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""Of the Parquet file of earlier releases; digests are in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a dataset version: a row of the index."""

    sha256: str
    """Digest of the source file's bytes."""
    path: str
    """The file's path in the source."""
    label: int
    """Position of its class in `Manifest.classes`."""
    split: str
    shard: int
    """Position of its shard in `Manifest.all_shards`."""
    offset: int
    """Bytes from the shard's beginning to the stored image's."""
    size: int
    """Bytes of the stored image."""
    width: int
    """Width of the upright source, in pixels."""
    height: int
    """Likewise its height."""


@dataclass(frozen=True)
class Columns:
    """The columns of an index of N images; they may lie in a mapped file, and are only read."""

    sha256: Digests
    """(N,)."""
    path_ends: NDArray[np.int64]
    """(N + 1,): where in `paths` a path begins, and the one before ends."""
    paths: NDArray[np.uint8]
    """All paths, one after another, in UTF-8."""
    label: NDArray[np.int32]
    split: NDArray[np.int8]
    """Positions in `SPLITS`."""
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.sha256)

    def path(self, row: int) -> str:
        """Return the path of an image in its source.

        Raises:
            ValueError: the column is damaged.
        """
        path: bytes = self.paths[self.path_ends[row] : self.path_ends[row + 1]].tobytes()
        return path.decode()

    def image(self, row: int) -> Image:
        """Return a row.

        Raises:
            ValueError: a column is damaged.
        """
        return Image(
            sha256=self.sha256[row : row + 1].tobytes().hex(),
            path=self.path(row),
            label=int(self.label[row]),
            split=SPLITS[self.split[row]],
            shard=int(self.shard[row]),
            offset=int(self.offset[row]),
            size=int(self.size[row]),
            width=int(self.width[row]),
            height=int(self.height[row]),
        )

    def at(self, rows: NDArray[np.int64]) -> "Columns":
        """Return these rows alone: (n,)."""
        numbers = {name: getattr(self, name)[rows] for name in _NUMBERS}
        paths = self._path_array().take(pa.array(rows))
        return Columns(self.sha256[rows], *_path_buffers(paths), **numbers)

    @classmethod
    def of(cls, images: Iterable[Image]) -> Self:
        """Return the columns of images."""
        images = list(images)
        values: dict[str, Callable[[Image], object]] = {
            name: attrgetter(name) for name in INDEX.names
        }
        values["sha256"] = lambda image: bytes.fromhex(image.sha256)
        values["split"] = lambda image: SPLITS.index(image.split)
        columns = [pa.array(map(values[field.name], images), field.type) for field in INDEX]
        return cls.of_batch(pa.RecordBatch.from_arrays(columns, schema=INDEX))

    @classmethod
    def of_batch(cls, rows: pa.RecordBatch) -> Self:
        """Return the columns of a batch that has the schema `INDEX`, without a copy."""
        numbers = {
            name: numbers_of(rows[name], INDEX.field(name).type.to_pandas_dtype())
            for name in _NUMBERS
        }
        return cls(digests_of(rows["sha256"]), *_path_buffers(rows["path"]), **numbers)

    def write(self, path: Path) -> None:
        """Write the Arrow file of these columns, which the same columns give byte for byte."""
        arrays = {
            "sha256": digest_column(self.sha256),
            "path": self._path_array(),
        }
        for name in _NUMBERS:
            arrays[name] = pa.array(getattr(self, name), INDEX.field(name).type)
        batch = pa.RecordBatch.from_arrays([arrays[name] for name in INDEX.names], schema=INDEX)
        write_arrow(path, batch)

    def _path_array(self) -> pa.LargeStringArray:
        ends, paths = pa.py_buffer(self.path_ends), pa.py_buffer(self.paths)
        return pa.LargeStringArray.from_buffers(len(self), ends, paths)


class Images(Sequence[Image]):
    """Images of an index: rows of its columns, of which an `Image` is made as it is asked for.

    Sent to another process, they are their own rows alone.
    """

    def __init__(self, columns: Columns, rows: "range | NDArray[np.int64]"):
        self._columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> "Images": ...
    def __getitem__(self, place: int | slice) -> "Image | Images":
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1:
                return Images(self._columns, self._rows[start:stop])
            return self.at(np.arange(start, stop, step))
        return self._columns.image(int(self._rows[place]))

    def __iter__(self) -> Iterator[Image]:
        return (self._columns.image(int(row)) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[object, ...]:
        rows = self._rows if isinstance(self._rows, np.ndarray) else np.array(self._rows, np.int64)
        return Images, (self._columns.at(rows), range(len(self)))

    @classmethod
    def of(cls, images: Iterable[Image]) -> "Images":
        """Return images of an index of their own."""
        columns = Columns.of(images)
        return cls(columns, range(len(columns)))

    @property
    def labels(self) -> NDArray[np.int32]:
        """Label of each image: (n,)."""
        return self._columns.label[self._selection]

    @property
    def digests(self) -> Digests:
        """SHA-256 of each image's source: (n,)."""
        return self._columns.sha256[self._selection]

    @property
    def sha256(self) -> list[str]:
        """SHA-256 of each image's source, in hexadecimal digits."""
        return hexadecimal(self.digests)

    def as_stored(self) -> "Images":
        """Return the images in the order in which they lie in the shards."""
        return self.at(np.lexsort((self.offsets, self.shards)))

    def of_first_shard(self, count: int) -> "Images":
        """Return up to so many images of the first one's shard: to read them opens no other."""
        return self.at(np.flatnonzero(self.shards == self.shards[:1])[:count])

    @property
    def shards(self) -> NDArray[np.int32]:
        """Position of each image's shard in `Manifest.all_shards`: (n,)."""
        return self._columns.shard[self._selection]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Bytes from its shard's beginning to each stored image's: (n,)."""
        return self._columns.offset[self._selection]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each stored image: (n,)."""
        return self._columns.size[self._selection]

    @property
    def paths(self) -> list[str]:
        """Path of each image in its source."""
        return [self._columns.path(int(row)) for row in self._rows]

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "Images":
        """Return the images at these places, or where a mask says so: (n,)."""
        rows = self._rows
        every = np.arange(rows.start, rows.stop) if isinstance(rows, range) else rows
        return Images(self._columns, every[places])

    @property
    def _selection(self) -> slice | NDArray[np.int64]:
        """What of a column they are; a slice is no copy."""
        rows = self._rows
        return rows if isinstance(rows, np.ndarray) else slice(rows.start, rows.stop)


def read_columns(file: BinaryIO, is_parquet: bool, classes: int, shards: Sequence[int]) -> Columns:
    """Return an index.

    Args:
        file: with the index; of a regular file pages are mapped, and it may be closed afterwards.
        is_parquet: else it is an Arrow file.
        classes: how many there are.
        shards: bytes of each.

    Raises:
        ValueError, pa.ArrowException: the index is damaged.
    """
    if is_parquet:
        columns = Columns.of_batch(one_batch(_from_parquet(file), INDEX))
        _check(columns, classes, shards)
    else:
        arrow = ArrowFile.read(file, INDEX)
        columns = Columns.of_batch(arrow.batch)
        _check(columns, classes, shards)
        arrow.let_go()  # the check has read them all
    return columns


def images_by_split(columns: Columns) -> dict[str, Images]:
    """Return the images of each split, in the index's order."""
    return {
        split: Images(columns, _rows(columns.split == number))
        for number, split in enumerate(SPLITS)
    }


def _rows(of_split: NDArray[np.bool_]) -> range | NDArray[np.int64]:
    """Return which rows are of a split: a range, where they lie together, as they are written."""
    rows = np.flatnonzero(of_split)
    if len(rows) and len(rows) != rows[-1] - rows[0] + 1:
        return rows
    return range(int(rows[0]), int(rows[-1]) + 1) if len(rows) else range(0)


def _from_parquet(file: BinaryIO) -> pa.Table:
    """Return the index of an earlier release with the columns of this one's."""
    table = pq.read_table(file).cast(PARQUET_INDEX)
    if any(column.null_count for column in table.columns):
        raise ValueError("a value is missing")
    if not pc.all(pc.match_substring_regex(table["sha256"], "^[0-9a-f]{64}$")).as_py():
        raise ValueError("an image's SHA-256 is none")
    splits = pc.index_in(table["split"], pa.array(SPLITS))
    if splits.null_count:
        raise ValueError(f"a split is none of {', '.join(SPLITS)}")
    digests = from_hexadecimal(table["sha256"].to_pylist())
    table = table.set_column(0, "sha256", digest_column(digests))
    return table.set_column(3, "split", splits).cast(INDEX)


def _check(columns: Columns, classes: int, shards: Sequence[int]) -> None:
    """Check what an index says of its images.

    Raises:
        ValueError: a class, a split, a shard or a place in a shard does not exist.
    """
    bytes_of = np.asarray(shards, np.int64)
    for first in range(0, len(columns), _CHECKED_ROWS):
        rows = slice(first, first + _CHECKED_ROWS)
        _check_range("split", columns.split[rows], len(SPLITS))
        _check_range("class", columns.label[rows], classes)
        _check_range("shard", columns.shard[rows], len(shards))
        offset, size = columns.offset[rows], columns.size[rows]
        end = bytes_of[columns.shard[rows]] - size
        if (offset < 0).any() or (size < 0).any() or (offset > end).any():
            raise ValueError("an image lies beyond its shard")


def _check_range(what: str, numbers: NDArray[np.signedinteger], count: int) -> None:
    if numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"it names a {what} other than 0 to {count - 1}")


def _path_buffers(paths: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return where texts begin and end, (n + 1,), and their bytes; see `Columns`."""
    _, ends, data = paths.buffers()
    numbers: NDArray[np.int64] = (
        np.frombuffer(ends, np.int64) if len(paths) else np.zeros(1, np.int64)
    )
    texts: NDArray[np.uint8] = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return numbers[paths.offset : paths.offset + len(paths) + 1], texts
