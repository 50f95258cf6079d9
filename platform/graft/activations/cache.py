"""Cached activations: how those of a dataset version are found, committed and read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.activations.activation_shards import Shard, logical, open_shard
from graft.activations.index import (
    Coverage,
    Indexed,
    PartRows,
    commit_index,
    covering,
    find_index,
    remedy,
)
from graft.activations.key import BYTES, CacheEntry, Key, KeyScheme
from graft.activations.use import begin_use
from graft.data.digests import Digests, hexadecimal
from graft.data.index import Images
from graft.data.manifest import DatasetVersion
from graft.errors import ObjectDamaged
from graft.store import Store

MAPS = 64
"""Shards that are mapped at once; each takes a file descriptor, and space in the node-local cache
that nothing else can have."""


class Activations:
    """Activations of images; shards are fetched, checked and mapped on first use.

    Of a bucket's, those for which the node-local cache has no room are read row by row.

    Keep it while batches are read: a shard that nothing refers to is checked again on its next use.
    """

    def __init__(self, store: Store, key: Key, indexed: Indexed, images: Images | None = None):
        self.key = key
        self.indexed = indexed
        self.parts = indexed.parts
        self.shape: tuple[int, ...] = self.parts[0].shape
        """Shape of one image's activations: (C, H, W), (tokens, D), (D,)."""
        self.digests = indexed.rows.digests if images is None else images.digests
        """SHA-256 of each image's source, in the split's order: (n,)."""
        self._store = store
        self._order = self.parts[0].order
        self._shard = lru_cache(MAPS)(self._open)

    @property
    def nbytes(self) -> int:
        """Bytes that the images' activations take in the store."""
        return len(self.digests) * torch.Size(self.shape).numel() * BYTES[self.key.dtype]

    def __len__(self) -> int:
        return len(self.digests)

    def has(self, digests: Digests) -> NDArray[np.bool_]:
        """Return which images have activations here: (n,)."""
        return self.indexed.rows.find(digests) >= 0

    def take(self, digests: Digests) -> Tensor:
        """Return the activations of images, which may repeat: (b,) to (b, *shape) float32.

        They lie in memory as the trunk leaves them. Consecutive rows of a float32 shard
        come as a view of the mapped file, which must not be written to; all else is one copy.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
            StoreError: a shard is damaged, or an image has no activations here.
        """
        places = self.indexed.rows.find(digests)
        if (places < 0).any():
            raise ObjectDamaged(
                f"{self._store.uri}/{self.key.folder} lacks {(places < 0).sum()} of {len(places)} "
                f"images, such as {hexadecimal(digests[places < 0])[0]}; {remedy(self.key.folder)}"
            )
        rows = self.indexed.rows
        part, row = rows.part[places], rows.row[places]
        numbers = np.unique(part)
        if len(numbers) == 1:
            only = self._shard(int(numbers[0])).rows(row.tolist())
            return logical(only.float(), self._order)
        row_shape = [self.shape[axis] for axis in self._order]
        out = torch.empty((len(places), *row_shape))
        for number in numbers:
            positions = np.flatnonzero(part == number)
            taken = self._shard(int(number)).rows(row[positions].tolist())
            out[torch.from_numpy(positions)] = taken.float()
        return logical(out, self._order)

    def _open(self, number: int) -> Shard:
        return open_shard(self._store, self.key, self.parts[number], number < self._cacheable)

    @cached_property
    def _cacheable(self) -> int:
        return self._store.cacheable(self.key.folder, [part.shard for part in self.parts])


@dataclass(frozen=True)
class ActivationCache:
    """The cached activations of one dataset version and one model, in a store."""

    store: Store
    dataset: DatasetVersion
    keys: KeyScheme

    def key(self, entry: CacheEntry) -> Key:
        """Return the key under which an entry lies in the store."""
        return self.keys.key(entry.depth, entry.view)

    def get(self, entry: CacheEntry) -> Activations | None:
        """Return an entry's activations, None where they are not committed.

        Raises:
            StoreError: they are committed, but no longer whole.
        """
        key = self.key(entry)
        index = find_index(self.store, self.dataset, entry.split, key)
        if index and begin_use(self.store, key):
            index = find_index(self.store, self.dataset, entry.split, key)
        return self._open(entry, index) if index else None

    def get_all(self, entries: Iterable[CacheEntry]) -> dict[CacheEntry, Activations]:
        """Return the activations of those entries that are committed.

        Raises:
            StoreError: some are committed, but no longer whole.
        """
        opened = {entry: self.get(entry) for entry in entries}
        return {entry: hit for entry, hit in opened.items() if hit is not None}

    def coverage(self, entry: CacheEntry) -> Coverage:
        """Return which of an entry's images have activations, of whatever run or version."""
        key, images = self.key(entry), self.dataset.images(entry.split).digests
        covered = covering(self.store, key, images)
        if covered.parts and begin_use(self.store, key):
            covered = covering(self.store, key, images)
        return covered

    def count(self, entry: CacheEntry) -> int:
        """Return how many of an entry's images have activations, of whatever run or version."""
        if entry.depth == 0:
            return 0
        if self.get(entry) is not None:
            return len(self.dataset.images(entry.split))
        return int((~self.coverage(entry).absent).sum())

    def commit(self, entry: CacheEntry, parts: Sequence[PartRows]) -> Activations:
        """Make an entry exist, out of `parts` that hold all of its images.

        Where another writer was first, its activations are returned.
        """
        index = commit_index(self.store, self.dataset, entry.split, self.key(entry), parts)
        return self._open(entry, index)

    def _open(self, entry: CacheEntry, indexed: Indexed) -> Activations:
        images = self.dataset.images(entry.split)
        return Activations(self.store, self.key(entry), indexed, images)
