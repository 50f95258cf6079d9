"""Logs of jobs in the store: chunks that are shipped while a log grows, and outlive its pod.

jobs/<job>/logs/<source>/<offset>-<seconds>   a chunk of a source's log, from byte `offset` on, and
                                              when it was shipped; earlier releases wrote no time
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from graft.store import Store

OFFSET_DIGITS = 12


@dataclass(frozen=True, order=True)
class StoredChunk:
    """A chunk of a log in the store; chunks sort by their offset in the log, in bytes."""

    offset: int
    size: int
    key: str

    @property
    def end(self) -> int:
        """The offset of the byte after its last."""
        return self.offset + self.size

    @property
    def shipped(self) -> datetime | None:
        """When it was shipped; None: not known."""
        seconds = self.key.rpartition("/")[2].partition("-")[2]
        return datetime.fromtimestamp(int(seconds), UTC) if seconds else None


def log_sources(store: Store, job: str) -> list[str]:
    """Return the names of a job's logs, one for each file that was shipped."""
    return store.children(f"jobs/{job}/logs/")


def log_end(store: Store, job: str, source: str) -> int:
    """Return how many bytes of a source's log are in the store."""
    return max((chunk.end for chunk in log_chunks(store, job, source)), default=0)


def put_log(store: Store, job: str, source: str, offset: int, data: bytes) -> None:
    """Add a chunk to a source's log, which begins at byte `offset` of it."""
    store.create(f"{_folder(job, source)}{_name(offset)}-{int(time.time())}", data)


def log_chunks(store: Store, job: str, source: str, start: int = 0) -> list[StoredChunk]:
    """Return the chunks of a source's log from byte `start` on, where a chunk has to begin.

    Those before are not listed.
    """
    folder = _folder(job, source)
    # `-` and digits come after the name of an earlier release's chunk, which is the offset alone.
    scanned = store.scan(folder, after=f"{folder}{_name(start - 1)}-~" if start else "")
    return sorted(
        StoredChunk(int(key.removeprefix(folder).partition("-")[0]), size, key)
        for key, size in scanned
    )


def read_log(store: Store, job: str, source: str, start: int = 0) -> Iterator[bytes]:
    """Yield a source's log from byte `start` on, where a chunk has to begin."""
    for chunk in log_chunks(store, job, source, start):
        yield store.read(chunk.key).data


def _folder(job: str, source: str) -> str:
    return f"jobs/{job}/logs/{source}/"


def _name(offset: int) -> str:
    return f"{offset:0{OFFSET_DIGITS}}"
