"""Cached activations of a split, open for reading, and how they come to exist."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from graft.activations.index import Part, commit_index, find_index, missing
from graft.activations.key import BYTES, Key
from graft.activations.shards import logical, open_shard
from graft.data.manifest import DatasetVersion
from graft.store import Store

__all__ = ["Activations", "commit", "find", "missing"]


class Activations:
    """Activations of images; shards are fetched, checked and mapped on first use.

    Keep it as long as batches are wanted: a shard that nobody holds is checked again.
    """

    def __init__(
        self, store: Store, key: Key, parts: Sequence[Part], images: Sequence[str] | None = None
    ):
        self.key = key
        self.parts = tuple(parts)
        self.shape: tuple[int, ...] = parts[0].shape
        """Of one image's activations: (C, H, W), (tokens, D), (D,)."""
        self._store = store
        self._order = parts[0].order
        self._shards: dict[int, Tensor] = {}
        places = {
            image: (number, row)
            for number, part in enumerate(parts)
            for row, image in enumerate(part.images)
        }
        self.images: tuple[str, ...] = tuple(places if images is None else images)
        """SHA-256 of each image's source, in the split's order."""
        self._places = {image: places[image] for image in self.images}

    @property
    def nbytes(self) -> int:
        """Bytes that the images' activations take in the store."""
        return len(self._places) * torch.Size(self.shape).numel() * BYTES[self.key.dtype]

    def __len__(self) -> int:
        return len(self.images)

    def __contains__(self, image: object) -> bool:
        return image in self._places

    def take(self, images: Sequence[str]) -> Tensor:
        """Return the activations of images, which may repeat: (b, *shape) float32.

        They lie in memory as the trunk leaves them. Consecutive rows of a float32 shard
        come as a view of the mapped file, which must not be written to; all else is one copy.

        Raises:
            KeyError: an image is not among `images`.
            StoreError: a shard is damaged.
        """
        places = [self._places[image] for image in images]
        numbers = {number for number, _ in places}
        if len(numbers) == 1:
            shard = self._shard(places[0][0])
            rows = [row for _, row in places]
            if all(b == a + 1 for a, b in pairwise(rows)):
                return logical(shard[rows[0] : rows[0] + len(rows)].float(), self._order)
            return logical(shard.index_select(0, torch.tensor(rows)).float(), self._order)
        row_shape = [self.shape[axis] for axis in self._order]
        out = torch.empty((len(places), *row_shape))
        for number in numbers:
            here = [position for position, place in enumerate(places) if place[0] == number]
            rows = [places[position][1] for position in here]
            gathered = self._shard(number).index_select(0, torch.tensor(rows))
            out[torch.tensor(here)] = gathered.float()
        return logical(out, self._order)

    def _shard(self, number: int) -> Tensor:
        if number not in self._shards:
            self._shards[number] = open_shard(self._store, self.key, self.parts[number])
        return self._shards[number]


def find(store: Store, dataset: DatasetVersion, split: str, key: Key) -> Activations | None:
    """Return the activations of a split, None where they are not committed.

    Raises:
        StoreError: they are, and are no longer whole.
    """
    index = find_index(store, dataset, split, key)
    return _opened(store, dataset, split, key, index.parts) if index else None


def commit(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[Part]
) -> Activations:
    """Make the activations of a split exist, out of `parts` that hold all of its images.

    Where another writer was first, its activations are returned.
    """
    index = commit_index(store, dataset, split, key, parts)
    return _opened(store, dataset, split, key, index.parts)


def _opened(
    store: Store, dataset: DatasetVersion, split: str, key: Key, parts: Sequence[Part]
) -> Activations:
    return Activations(store, key, parts, [image.sha256 for image in dataset.images(split)])
