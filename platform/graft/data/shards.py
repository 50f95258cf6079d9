"""Shards: plain tar files of image bytes, written once, then read at random.

``tar`` opens them, and so does anything that reads WebDataset's layout. Graft itself never walks
a shard: the index says where each payload begins.
"""

import io
import mmap
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from graft.store import ObjectRef, Store

SHARD_BYTES = 64 << 20
"""Once a shard has this many bytes, the next payload begins a new one."""


@dataclass(frozen=True)
class Place:
    """Where a payload lies."""

    shard: int
    """Number of the shard, from 0."""
    offset: int
    """Bytes from the shard's beginning to the payload's."""
    size: int
    """Bytes of the payload."""


class ShardWriter:
    """Appends payloads to shards in a local folder."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES):
        self.paths: list[Path] = []
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._tar: tarfile.TarFile | None = None

    def add(self, name: str, data: bytes) -> Place:
        """Append a payload under `name`, and return where it lies."""
        if self._tar is not None and self._tar.offset >= self._shard_bytes:
            self.close()
        if self._tar is None:
            self.paths.append(self._folder / f"shard-{len(self.paths):05}.tar")
            self._tar = tarfile.TarFile(self.paths[-1], "w", format=tarfile.USTAR_FORMAT)
        offset = self._tar.offset + tarfile.BLOCKSIZE
        _append(self._tar, name, data)
        return Place(len(self.paths) - 1, offset, len(data))

    def close(self) -> None:
        """Finish the shard that is open."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


class ShardReader:
    """Reads payloads of shards in a store; a shard is fetched and mapped on its first use."""

    def __init__(self, store: Store, folder: str, shards: Sequence[ObjectRef]):
        self._store = store
        self._folder = folder
        self._shards = shards
        self._maps: dict[int, mmap.mmap] = {}
        self._lock = Lock()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return a payload; any thread may call."""
        mapped = self._maps.get(shard) or self._map(shard)
        return mapped[offset : offset + size]

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            if shard not in self._maps:
                path = self._store.fetch(self._folder, self._shards[shard])
                with path.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._maps[shard]


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar file of a few payloads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            _append(tar, name, data)
    return out.getvalue()


def unpack(data: bytes) -> list[tuple[str, bytes]]:
    """Return name and bytes of each payload in a tar file made by `pack`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, file.read()) for member in tar if (file := tar.extractfile(member))]


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Without the source's time, owner and mode, so that the same images make the same bytes.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
