"""Shards: plain tar files of image bytes, written once, then read at random.

``tar`` opens them, and so does anything that reads WebDataset's layout. Graft itself never walks
a shard: the index says where each payload begins.
"""

import io
import mmap
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import BoundedSemaphore, Lock

from graft.errors import ObjectDamaged
from graft.store import ObjectRef, Store, sha256

SHARD_BYTES = 64 << 20
"""Once a shard has this many bytes, the next payload begins a new one."""

MAPS = 128
"""Shards that a reader has mapped at once; each takes a file descriptor, of which there may be no
more than 1,024."""

SHARDS_AT_ONCE = 4
"""Shards that a process fetches at once, each in parallel parts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload lies."""

    shard: int
    """Number of the shard, from 0."""
    offset: int
    """Bytes from the shard's beginning to the payload's."""
    size: int
    """Bytes of the payload."""


@dataclass(frozen=True)
class StoredShard:
    """A shard in a store."""

    folder: str
    """The store's folder that it lies in."""
    ref: ObjectRef

    @property
    def key(self) -> str:
        """Where it lies in the store."""
        return f"{self.folder}/{self.ref.name}"


class ShardReader:
    """Reads payloads of shards in a store.

    A shard is fetched, verified and mapped on its first use; of a bucket's, those for which the
    node-local cache has no room are read part by part. Of a part no digest is known but those of
    the images that import left as they were.
    """

    def __init__(self, store: Store, shards: Sequence[StoredShard]):
        self._store = store
        self._shards = shards
        self._map = lru_cache(MAPS)(self._open)
        self._locks = [Lock() for _ in shards]
        self._fetching = BoundedSemaphore(SHARDS_AT_ONCE)

    def __len__(self) -> int:
        return len(self._shards)

    @cached_property
    def cacheable(self) -> int:
        """How many shards, the first ones, this node has room for.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
        """
        return self._store.cacheable(self._shards[-1].folder, [shard.ref for shard in self._shards])

    def read(self, shard: int, offset: int, size: int, digest: str | None = None) -> bytes:
        """Return a payload; any thread may call.

        `digest`: its SHA-256. It is checked where the shard's own is not: of one read in parts.

        Raises:
            ResourceError: the node-local cache has no room even for one shard.
            StoreError: the shard is damaged.
        """
        if not size:
            return b""
        if mapped := self._map(shard):
            return mapped[offset : offset + size]
        data = self.read_range(shard, offset, size)
        self.check(shard, data, digest)
        return data

    def fetch(self, shard: int) -> None:
        """Have this node hold a shard, if it has room; any thread may call.

        Raises:
            ResourceError, StoreError: as `read`.
        """
        self._map(shard)

    def read_range(self, shard: int, start: int, length: int) -> bytes:
        """Return a part of a shard from the store; any thread may call.

        Raises:
            StoreError: the shard cannot be read, or is shorter.
        """
        data = self._store.read_range(self._shards[shard].key, start, length)
        if len(data) != length:
            raise self._damaged(shard, f"it ends {length - len(data):,} bytes too early")
        return data

    def check(self, shard: int, data: bytes, digest: str | None) -> None:
        """Check a payload that was read by `read_range`; `digest`: its SHA-256, None: unknown.

        Raises:
            ObjectDamaged: it is not the payload.
        """
        if digest is not None and sha256(data) != digest:
            raise self._damaged(shard, f"the image {digest[:12]}… in it has another SHA-256")

    def _open(self, shard: int) -> mmap.mmap | None:
        if shard >= self.cacheable:
            return None
        # Threads that need the same shard fetch it once, and few shards are fetched at once.
        with self._locks[shard], self._fetching:
            file = self._store.open_file(self._shards[shard].folder, self._shards[shard].ref)
            if file is None:
                return None
            with file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _damaged(self, shard: int, problem: str) -> ObjectDamaged:
        return ObjectDamaged(f"{self._store.uri}/{self._shards[shard].key} is damaged: {problem}")


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar file of a few payloads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            append_member(tar, name, data)
    return out.getvalue()


def unpack(data: bytes) -> list[tuple[str, bytes]]:
    """Return name and bytes of each payload in a tar file made by `pack`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, file.read()) for member in tar if (file := tar.extractfile(member))]


def append_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a payload; without time, owner and mode, so that the same ones make the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
