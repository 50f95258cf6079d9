"""Images' bytes, read ahead of their use in the order in which they will be used.

What fits the node-local cache is fetched by whole shards. Of the rest, a block of a shard is read
at once, and each of its images is held until it is used: what is held has a bound.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import Self

import numpy as np
from numpy.typing import NDArray

from graft.data.index import Image, Images
from graft.data.shards import SHARDS_AT_ONCE, ShardReader

BLOCK_BYTES = 1 << 20
"""What is read of a shard at once: long enough that requests are few, and short, since an order
that is shuffled well has many blocks in memory."""
RANGES_AT_ONCE = 16
"""Blocks that are on their way at once: 320 MB a second, where one takes 50 ms."""
HELD_BYTES = 1 << 30
"""Most bytes of images that a reader holds, those on their way included."""
AHEAD_BYTES = 128 << 20
"""Bytes that a reader holds beyond what the order of use makes it hold."""


def block_numbers(images: Images, block_bytes: int) -> NDArray[np.int64]:
    """Return a number for each image, the same for those in the same part of a shard: (n,).

    A part is `block_bytes` long; images belong where they begin. Numbers rise as shards and offsets
    do, and are hardly larger than there are images.
    """
    parts = images.offsets // block_bytes
    numbers: NDArray[np.int64] = images.shards * (parts.max(initial=0) + 1) + parts
    if numbers.max(initial=0) > 4 * len(images) + (1 << 20):
        numbers = np.unique(numbers, return_inverse=True)[1]
    return numbers


def first_uses(numbers: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """Return the places at which numbers, 0 or more, come for the first time, in order."""
    places = np.arange(len(numbers))
    first = np.empty(numbers.max(initial=-1) + 1, np.int64)
    first[numbers[::-1]] = places[::-1]  # of equal numbers, the last assignment stays
    return np.flatnonzero(first[numbers] == places)


@dataclass(frozen=True)
class Fetches:
    """What is read for images that are used in a certain order, in the order of first use."""

    fetch_of: NDArray[np.int64]
    """(n,): which fetch brings each image."""
    places: NDArray[np.int64]
    """(n,): the images' places in the order of use, those of a fetch together."""
    ends: NDArray[np.int64]
    """(f + 1,): where in `places` a fetch's begin, and the one before's end."""
    held_bytes: int
    """The most that is held at a time, if nothing is read before it must be."""

    @classmethod
    def of(cls, numbers: NDArray[np.int64], sizes: NDArray[np.int64]) -> Self:
        """Fetch images with the same number together; `sizes`: their bytes, (n,) each."""
        begins = first_uses(numbers)
        rank = np.empty(numbers.max(initial=-1) + 1, np.int64)
        rank[numbers[begins]] = np.arange(len(begins))
        fetch_of = rank[numbers]
        counts = np.bincount(fetch_of, minlength=len(begins))
        arriving = np.zeros(len(numbers), np.int64)
        arriving[begins] = np.bincount(fetch_of, sizes, len(begins)).astype(np.int64)
        held = np.cumsum(arriving) - np.cumsum(sizes) + sizes
        return cls(
            fetch_of,
            np.argsort(fetch_of, kind="stable"),
            np.concatenate([[0], np.cumsum(counts)]),
            int(held.max(initial=0)),
        )

    def __len__(self) -> int:
        return len(self.ends) - 1

    def of_fetch(self, number: int) -> NDArray[np.int64]:
        """Return the places of the images that a fetch brings."""
        return self.places[self.ends[number] : self.ends[number + 1]]


def plan_fetches(images: Images, block_bytes: int, room: int) -> Fetches:
    """Return what is read for images that are used in this order: blocks, where `room` holds them.

    An order in which a block's images lie far apart, such as a full shuffle's, would hold nearly
    all of them: then each image is read alone.
    """
    fetches = Fetches.of(block_numbers(images, block_bytes), images.sizes)
    if fetches.held_bytes <= room:
        return fetches
    return Fetches.of(np.arange(len(images)), images.sizes)


class ReadAhead:
    """Reads images in threads of its own, for others that ask for each of them once, in order.

    They may ask a little out of order, as threads do that take one image after another.
    """

    def __init__(
        self,
        shards: ShardReader,
        images: Images,
        max_side: int,
        block_bytes: int = BLOCK_BYTES,
        room: int = HELD_BYTES,
    ):
        """`images`: in the order of use; `max_side`: above it, in pixels, import shrank them."""
        self._shards = shards
        self._max_side = max_side
        numbers = images.shards
        self._is_streamed = numbers >= shards.cacheable
        whole = numbers[~self._is_streamed]
        self._whole = iter(whole[first_uses(whole)].tolist())
        self._streamed = images.at(self._is_streamed)
        self._sizes = self._streamed.sizes
        self._place = np.cumsum(self._is_streamed) - 1
        """Of each streamed image among those."""
        self._fetches = plan_fetches(self._streamed, block_bytes, room)
        self._room = min(room, self._fetches.held_bytes + AHEAD_BYTES)
        self._changed = Condition()  # it guards all that follows
        self._begun = 0
        """How many fetches have begun."""
        self._held = 0
        """Bytes that are held or on their way."""
        self._ready: dict[int, bytes] = {}
        """By place, what has come and is not taken yet."""
        self._unwanted: set[int] = set()
        """Places of what is not to be held when it comes."""
        self._failed: dict[int, Exception] = {}
        """By fetch, why it failed."""
        self._closed = False
        self._pool = ThreadPoolExecutor(SHARDS_AT_ONCE + RANGES_AT_ONCE, "fetch")
        for _ in range(min(SHARDS_AT_ONCE, len(whole))):
            self._pool.submit(self._fetch_shards)
        for _ in range(min(RANGES_AT_ONCE, len(self._fetches))):
            self._pool.submit(self._fetch_blocks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, number: int, image: Image) -> bytes:
        """Return the bytes of the image with this number in the order of use.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
            StoreError: the image cannot be read, or is damaged.
        """
        if not self._is_streamed[number]:
            digest = self._digest(image)
            return self._shards.read(image.shard, image.offset, image.size, digest)
        place = int(self._place[number])
        fetch = int(self._fetches.fetch_of[place])
        with self._changed:
            while not (place in self._ready or fetch in self._failed or self._closed):
                self._changed.wait()
            if place in self._ready:
                data = self._ready.pop(place)
                self._free(len(data))
                return data
            raise self._failed.get(fetch) or RuntimeError("closed while an image was waited for")

    def skip(self, number: int) -> None:
        """Say that the image with this number is not needed."""
        if self._is_streamed[number]:
            place = int(self._place[number])
            with self._changed:
                if place in self._ready:
                    self._free(len(self._ready.pop(place)))
                else:
                    self._unwanted.add(place)

    def _free(self, size: int) -> None:
        self._held -= size
        self._changed.notify_all()

    def _fetch_shards(self) -> None:
        """Have the node hold shards, one after another."""
        while not self._closed and (shard := next(self._whole, None)) is not None:
            try:
                self._shards.fetch(shard)
            except Exception:
                return  # whoever needs the shard meets the error

    def _fetch_blocks(self) -> None:
        """Read blocks, one after another."""
        while (fetch := self._next()) is not None:
            try:
                read = self._read(fetch)
            except Exception as error:  # whoever needs one of the images gets it
                with self._changed:
                    self._failed[fetch] = error
                    self._changed.notify_all()
                continue
            with self._changed:
                if self._closed:
                    return
                for place, data in read.items():
                    if place in self._unwanted:
                        self._held -= len(data)
                    else:
                        self._ready[place] = data
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Return the next fetch, once there is room for what it brings; None: there is no more.

        There comes to be room: fetches begin in the order of first use, so when an image is asked
        for whose fetch has not begun, those before it hold no more than `Fetches.held_bytes`.
        """
        with self._changed:
            while not self._closed and self._begun < len(self._fetches):
                places = self._fetches.of_fetch(self._begun)
                size = int(self._sizes[places].sum())
                if not self._held or self._held + size <= self._room:
                    self._held += size
                    self._begun += 1
                    return self._begun - 1
                self._changed.wait()
            return None

    def _read(self, fetch: int) -> dict[int, bytes]:
        """Return the bytes of a fetch's images, by place."""
        places = self._fetches.of_fetch(fetch)
        images = self._streamed.at(places)
        start = int(images.offsets.min())
        span = int((images.offsets + images.sizes).max()) - start
        whole = None
        if 2 * int(images.sizes.sum()) >= span:
            whole = self._shards.read_range(int(images.shards[0]), start, span)
        read = {}
        for place, image in zip(places.tolist(), images, strict=True):
            begin = image.offset - start
            if whole is None:
                data = self._shards.read_range(image.shard, image.offset, image.size)
            else:
                data = whole[begin : begin + image.size]
            self._shards.check(image.shard, data, self._digest(image))
            read[place] = data
        return read

    def _digest(self, image: Image) -> str | None:
        return stored_digest(image, self._max_side)


def stored_digest(image: Image, max_side: int) -> str | None:
    """Return the SHA-256 of an image's stored bytes; None: import shrank it, and no one knows."""
    return image.sha256 if max(image.width, image.height) <= max_side else None
