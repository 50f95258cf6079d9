"""In which order an epoch's images are trained on, and which worker takes which of them.

A pure function of the seed, the epoch and the `Shuffle` that is recorded with the run: whoever
resumes the run repeats it, and global batches are the same at any number of workers.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graft.data.index import Images
from graft.data.loader import BatchSlice
from graft.data.manifest import DatasetVersion
from graft.data.read_ahead import BLOCK_BYTES, block_numbers
from graft.spec import Finetune, Section

READERS = 48
"""Readers of a block shuffle for up to half as many workers: any of 1, 2, 3, 4, 6, 8, 12, 16 or 24
have equally many of them."""


class FullShuffle(Section):
    """All images in one random order, whose neighbours lie anywhere in the shards."""

    kind: Literal["full"] = "full"


class BlockShuffle(Section):
    """A random order whose neighbours come from `readers` times `buffer` random blocks of shards.

    A block is what is trained on of `block_bytes` of a shard, and is read at once. Blocks are dealt
    at random to the readers; each mixes the images of `buffer` blocks that follow one another, and
    the order takes an image of each reader in turn.
    """

    kind: Literal["blocks"] = "blocks"
    block_bytes: Annotated[int, Field(gt=0, le=1 << 30)] = BLOCK_BYTES
    readers: Annotated[int, Field(gt=0, le=1 << 18)] = READERS
    buffer: Annotated[int, Field(gt=0, le=1 << 10)] = 16

    @classmethod
    def for_workers(cls, workers: int) -> Self:
        """Return the shuffle of a training that begins with so many workers."""
        return cls(readers=READERS if 2 * workers <= READERS else math.lcm(READERS, workers))


Shuffle = Annotated[FullShuffle | BlockShuffle, Field(discriminator="kind")]
FULL = FullShuffle()


def choose_shuffle(spec: Finetune, dataset: DatasetVersion) -> Shuffle:
    """Return what `train.shuffle` means on this node.

    Raises:
        ResourceError: the node-local cache has no room even for one shard.
    """
    setting = spec.train.shuffle
    if setting == "full" or (setting == "auto" and dataset.fits_node):
        return FULL
    return BlockShuffle.for_workers(spec.scaling.workers)


@dataclass(frozen=True)
class EpochOrder:
    """The order of every epoch of a training."""

    images: Images
    """What is trained on."""
    shuffle: Shuffle
    seed: int

    def slices(
        self, epoch: int, batch_size: int, rank: int = 0, workers: int = 1
    ) -> list[BatchSlice]:
        """Split an epoch (from 0) into this worker's slices, the last short batch included.

        The workers' slices of a batch differ by one image at most. If a batch has fewer images
        than there are workers, a worker without an image takes the first at weight 0, since all
        must take part in the exchange of gradients.
        """
        draw = np.random.default_rng([self.seed, epoch])
        workers_of = None
        if isinstance(self.shuffle, BlockShuffle):
            order, readers = _by_blocks(self.images, self.shuffle, draw)
            workers_of = _deal(readers % workers, batch_size, workers)
        else:
            order = draw.permutation(len(self.images))
        slices = []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            if workers_of is None:  # its images have nothing in common
                mine = batch[rank::workers]
            else:
                mine = batch[workers_of[start : start + batch_size] == rank]
            weights = np.ones(len(mine), np.float32)
            if not len(mine):
                mine, weights = batch[:1], np.zeros(1, np.float32)
            slices.append(BatchSlice(mine, weights, len(batch)))
        return slices


def _by_blocks(
    images: Images, shuffle: BlockShuffle, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an epoch's order: positions in the list of images, and the reader of each: (n,)."""
    block = block_numbers(images, shuffle.block_bytes)
    sizes = np.bincount(block)
    blocks = draw.permutation(np.flatnonzero(sizes))
    # Reader r gets the blocks that begin in the r-th part of all images, so that all of them end
    # within a block's images of one another.
    before = np.cumsum(sizes[blocks]) - sizes[blocks]
    reader = before * shuffle.readers // max(1, len(images))
    # A block's images are spread over `buffer` blocks of its reader around it. At either end of the
    # reader's stream they are reflected, else an epoch's last images would be of its last blocks
    # alone, and BatchNorm's running statistics with them.
    counts = np.bincount(reader, minlength=shuffle.readers)
    numbers = np.arange(len(blocks))
    first, end, middle, width = np.empty((4, len(sizes)))
    first[blocks] = (np.cumsum(counts) - counts)[reader]
    end[blocks] = np.cumsum(counts)[reader]
    middle[blocks] = numbers + 0.5
    width[blocks] = np.minimum(shuffle.buffer, counts)[reader]
    places = middle[block] + width[block] * (draw.random(len(images)) - 0.5)
    np.abs(places - first[block], out=places)
    places = end[block] - np.abs(end[block] - first[block] - places)
    # Stable, since what ties gives must not depend on the machine.
    streams = np.argsort(places, kind="stable")
    lengths = np.bincount(reader, sizes[blocks], shuffle.readers).astype(np.int64)
    turns = np.full((lengths.max(initial=0), shuffle.readers), -1)
    for number, stream in enumerate(np.split(streams, np.cumsum(lengths)[:-1])):
        turns[: len(stream), number] = stream
    turn, readers = np.nonzero(turns >= 0)
    return turns[turn, readers], readers


def _deal(workers_of: NDArray[np.int64], batch_size: int, workers: int) -> NDArray[np.int64]:
    """Return which worker takes each image of an order: (n,), so that all have equally many.

    `workers_of` is the worker of each image's reader, (n,). Only where a batch has more of one
    worker's readers, as at an epoch's end, others take images of theirs.
    """
    images = len(workers_of)
    batch = np.arange(images) // batch_size
    batches = -(-images // batch_size)
    counts = np.bincount(batch * workers + workers_of, minlength=batches * workers)
    counts = counts.reshape(batches, workers)
    uneven = counts.max(1) - counts.min(1) > 1
    if uneven.any():
        workers_of = workers_of.copy()
    for number in np.flatnonzero(uneven):
        part = workers_of[number * batch_size : (number + 1) * batch_size]
        least, more = divmod(len(part), workers)
        share = np.full(workers, least)
        share[np.argsort(-counts[number], kind="stable")[:more]] += 1
        # Its place among the images of its worker, by which the last ones are given away.
        order = np.argsort(part, kind="stable")
        place = np.empty(len(part), np.int64)
        place[order] = (
            np.arange(len(part)) - (np.cumsum(counts[number]) - counts[number])[part[order]]
        )
        missing = np.maximum(share - counts[number], 0)
        part[place >= share[part]] = np.repeat(np.arange(workers), missing)
    return workers_of
