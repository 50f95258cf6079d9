"""A shard: one safetensors file with one tensor (rows, ...), written in batches, read mapped.

Rows lie in memory as the trunk left them (channels_last for convolutional networks,
tokens by features for transformers), so that the tail gets from a mapped file the very
layout it gets from the trunk, without a copy.
"""

import contextlib
import json
import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from graft.activations.index import Part
from graft.activations.key import BYTES, Dtype, Key
from graft.errors import SpecError, StoreError
from graft.store import Store
from graft.store.backend import explained

_TENSOR = "activations"
_DATA_START = 4096
"""Offset of the numbers in a file: a whole page, so that they are aligned where it is mapped."""
_NAMES = {"float32": "F32", "float16": "F16"}
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_FLOAT16 = torch.finfo(torch.float16).max

_mapped: "WeakValueDictionary[tuple[str, str], MappedShard]" = WeakValueDictionary()
"""Shards that this process has checked and mapped, for as long as something uses them; by the
store and the key in it."""


class ActivationWriter:
    """Writes a shard of so many rows, batch by batch: memory holds no more than a batch."""

    def __init__(self, path: Path, rows: int, row_shape: tuple[int, ...], dtype: Dtype):
        self.path = path
        self.rows_left = rows
        """Rows that are still to be appended."""
        self._dtype = dtype
        with self._explained():
            self._file = path.open("wb")
            self._file.write(_header(rows, row_shape, dtype))

    def append(self, rows: Tensor) -> None:
        """Append activations as they lie in memory: (b, *row_shape) contiguous float32.

        `b` is at most `rows_left`.

        Raises:
            StoreError: the disk is full.
            SpecError: a number is too large for the dtype.
        """
        if self._dtype == "float16" and (largest := rows.abs().max().item()) > _LARGEST_FLOAT16:
            raise SpecError(
                f"activations up to {largest:.3g} do not fit into float16, whose largest number "
                "is 65,504; use cache_dtype: float32"
            )
        data = rows.to(_DTYPES[self._dtype]).view(-1).view(torch.uint8).numpy().data
        self.rows_left -= len(rows)
        with self._explained():
            self._file.write(data)

    def close(self) -> None:
        """Finish the file."""
        with self._explained():
            self._file.close()
        if self.rows_left:
            raise ValueError(f"{self.rows_left} rows of {self.path} were not written")

    def abandon(self) -> None:
        """Close a file that will not be finished."""
        with contextlib.suppress(OSError):  # a full disk, met again by what was buffered
            self._file.close()

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return explained(f"activations in {self.path.parent}")


def memory_order(batch: Tensor) -> tuple[int, ...]:
    """Return the axes of one image's activations, outermost in memory first.

    (B, C, H, W) in channels_last gives (1, 2, 0).
    """
    strides = batch.stride()[1:]
    return tuple(sorted(range(len(strides)), key=lambda axis: -strides[axis]))


def stored(batch: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return a batch with its axes in memory order, contiguous: (B, ...) to (B, ...)."""
    return batch.permute(0, *(axis + 1 for axis in order)).contiguous()


def logical(rows: Tensor, order: tuple[int, ...]) -> Tensor:
    """Undo `stored`, without a copy: (B, ...) to (B, ...)."""
    back = sorted(range(len(order)), key=lambda position: order[position])
    return rows.permute(0, *(axis + 1 for axis in back))


class Shard(Protocol):
    """A shard, open for reading."""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return rows, which may repeat: (len(numbers), ...) with its axes in memory order.

        Nothing may write into them: consecutive ones can be a view of the mapped file.
        """


@dataclass(frozen=True)
class MappedShard:
    """A shard in a local file."""

    tensor: Tensor
    """(rows, ...) with its axes in memory order. The mapping is private: to write would change
    this process's numbers alone. It holds the file in the node-local cache."""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return rows, see `Shard`."""
        if _consecutive(numbers):
            return self.tensor[numbers[0] : numbers[0] + len(numbers)]
        return self.tensor.index_select(0, torch.tensor(numbers))


@dataclass(frozen=True)
class RemoteShard:
    """A shard in a bucket, for which the node-local cache has no room: each row is fetched."""

    store: Store
    name: str
    """Key in the store."""
    dtype: Dtype
    row_shape: tuple[int, ...]

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Return rows, see `Shard`."""
        row = math.prod(self.row_shape) * BYTES[self.dtype]
        runs = [numbers] if _consecutive(numbers) else [[number] for number in numbers]
        data = bytearray()
        for run in runs:
            data += self.store.read_range(self.name, _DATA_START + run[0] * row, len(run) * row)
        return torch.frombuffer(data, dtype=_DTYPES[self.dtype]).view(-1, *self.row_shape)


def open_shard(store: Store, key: Key, part: Part, cacheable: bool = True) -> Shard:
    """Open a shard: mapped, or, where it is not `cacheable` or has no room, in the store.

    Raises:
        StoreError: the shard is not what its index lists.
    """
    name = f"{key.folder}/{part.shard.name}"
    if (mapped := _mapped.get((store.uri, name))) is not None:
        return mapped
    row_shape = tuple(part.shape[axis] for axis in part.order)
    header = _header(part.row_count, row_shape, key.dtype)
    file = store.open_file(key.folder, part.shard) if cacheable else None
    if file is None:
        if store.read_range(name, 0, len(header)) != header:
            raise _other_content(store, name, part, key)
        return RemoteShard(store, name, key.dtype, row_shape)
    with file:
        size = len(header) + part.row_count * math.prod(row_shape) * BYTES[key.dtype]
        if part.shard.size != size or file.read(len(header)) != header:
            raise _other_content(store, name, part, key)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    flat = torch.frombuffer(data, dtype=_DTYPES[key.dtype], offset=len(header))
    _mapped[store.uri, name] = shard = MappedShard(flat.view(-1, *row_shape))
    return shard


def _other_content(store: Store, name: str, part: Part, key: Key) -> StoreError:
    return StoreError(
        f"{store.uri}/{name} is no shard of {part.row_count} times {part.shape} {key.dtype}, "
        "as its index says"
    )


def _header(rows: int, row_shape: tuple[int, ...], dtype: Dtype) -> bytes:
    """Return what a shard's file begins with, up to its numbers."""
    content = {
        "dtype": _NAMES[dtype],
        "shape": [rows, *row_shape],
        "data_offsets": [0, rows * math.prod(row_shape) * BYTES[dtype]],
    }
    header = json.dumps({_TENSOR: content}).encode()
    # safetensors allows blanks at the end
    return struct.pack("<Q", _DATA_START - 8) + header.ljust(_DATA_START - 8)


def _consecutive(numbers: Sequence[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(numbers))
