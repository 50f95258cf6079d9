"""A shard: one safetensors file with one tensor (rows, ...), written in batches, read mapped.

Rows lie in memory as the trunk left them (channels_last for convolutional networks,
tokens by features for transformers), so that the tail gets from a mapped file the very
layout it gets from the trunk, without a copy.
"""

import contextlib
import json
import math
import struct
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graft.activations.index import Part
from graft.activations.key import BYTES, Dtype, Key
from graft.errors import SpecError, StoreError
from graft.store import Store
from graft.store.backend import explained

SHARD_BYTES = 64 << 20
"""Largest size of a shard, in bytes; one image's activations are never divided."""

_TENSOR = "activations"
_DATA_START = 4096
"""Offset of the numbers in a file: a whole page, so that they are aligned where it is mapped."""
_NAMES = {"float32": "F32", "float16": "F16"}
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_FLOAT16 = torch.finfo(torch.float16).max

_mapped: "WeakValueDictionary[tuple[str, str, str], Tensor]" = WeakValueDictionary()
"""Shards that this process has checked and mapped, for as long as something uses them."""


class ShardWriter:
    """Writes a shard of so many rows, batch by batch: memory holds no more than a batch."""

    def __init__(self, path: Path, rows: int, row_shape: tuple[int, ...], dtype: Dtype):
        self.path = path
        self.rows_left = rows
        """Rows that are still to be appended."""
        self._dtype = dtype
        size = rows * math.prod(row_shape) * BYTES[dtype]
        header = json.dumps(
            {
                _TENSOR: {
                    "dtype": _NAMES[dtype],
                    "shape": [rows, *row_shape],
                    "data_offsets": [0, size],
                }
            }
        ).encode()
        header = header.ljust(_DATA_START - 8)  # safetensors allows blanks at the end
        with self._explained():
            self._file = path.open("wb")
            self._file.write(struct.pack("<Q", len(header)) + header)

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


def open_shard(store: Store, key: Key, part: Part) -> Tensor:
    """Map a shard: (rows, ...) with its axes in memory order.

    Nothing may write into it. The mapping is private, so that a write would change this
    process's numbers alone, and neither the file nor another process's.

    Raises:
        StoreError: the shard is not what its index lists.
    """
    name = (store.uri, key.folder, part.shard.name)
    if (mapped := _mapped.get(name)) is not None:
        return mapped
    for retry in (True, False):
        path = store.fetch(key.folder, part.shard)
        try:
            tensor = _map(path)
            break
        except FileNotFoundError:  # evicted from the node-local cache since
            if not retry:
                raise
        except SafetensorError as error:
            raise StoreError(f"{path} is no shard of activations: {error}") from error
    row_shape = tuple(part.shape[axis] for axis in part.order)
    if tensor.shape != (len(part.images), *row_shape) or tensor.dtype != _DTYPES[key.dtype]:
        raise StoreError(
            f"{store.uri}/{key.folder}/{part.shard.name} holds {tuple(tensor.shape)} "
            f"{tensor.dtype}, its index says {(len(part.images), *row_shape)} {key.dtype}"
        )
    _mapped[name] = tensor
    return tensor


def _map(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(_TENSOR)
    return tensor
