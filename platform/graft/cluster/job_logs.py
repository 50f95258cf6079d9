"""Logs of jobs in the store: chunks that are shipped while a log grows, and outlive its pod.

jobs/<job>/logs/<source>/<offset>-<seconds>   a chunk of a source's log, from byte `offset` on, and
                                              when it was shipped; earlier releases wrote no time
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from graft.store import Store

OFFSET_DIGITS = 12
DRIVER_SOURCE = "driver@"
"""Beginning of the names of drivers' logs, which sort by the time at which their Ray started."""
PAGE = 1000
"""Keys that a listing has at once."""
TAIL_BYTES = 64 << 10
"""Bytes of a log's end that are read first for its last lines."""


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
    last = last_chunk(store, job, source)
    return last.end if last else 0


def put_log(store: Store, job: str, source: str, offset: int, data: bytes) -> None:
    """Add a chunk to a source's log, which begins at byte `offset` of it."""
    store.create(f"{_folder(job, source)}{_name(offset)}-{int(time.time())}", data)


def log_chunks(store: Store, job: str, source: str, start: int = 0) -> list[StoredChunk]:
    """Return the chunks of a source's log that begin at byte `start` or after it.

    Those before are not listed.
    """
    return sorted(_scan(store, job, source, start))


def _scan(store: Store, job: str, source: str, start: int) -> Iterator[StoredChunk]:
    folder = _folder(job, source)
    # `-` and digits come after the name of an earlier release's chunk, which is the offset alone.
    for key, size in store.scan(folder, after=f"{folder}{_name(start - 1)}-~" if start else ""):
        yield StoredChunk(int(key.removeprefix(folder).partition("-")[0]), size, key)


def last_chunk(store: Store, job: str, source: str) -> StoredChunk | None:
    """Return the last chunk of a source's log; None: it has none.

    A listing is in order and begins anywhere, but not at its end: that is found by halving.
    """
    last: StoredChunk | None = None
    low, high = 0, 10**OFFSET_DIGITS
    while low < high:
        middle = (low + high) // 2 if last else 0
        page = list(itertools.islice(_scan(store, job, source, middle), PAGE))
        if not page:
            high = middle
            continue
        last = max(page)
        if len(page) < PAGE:
            return last
        low = last.offset + 1
    return last


def last_shipped(store: Store, job: str) -> datetime | None:
    """Return when a job's last driver was heard of last; None: not known."""
    drivers = [source for source in log_sources(store, job) if source.startswith(DRIVER_SOURCE)]
    last = last_chunk(store, job, max(drivers)) if drivers else None
    return last.shipped if last else None


def log_tail(store: Store, job: str, source: str, lines: int) -> int:
    """Return the offset of a chunk from which on a source's log has so many lines, or all it has.

    Of a long log its end alone is read.
    """
    last = last_chunk(store, job, source)
    span = TAIL_BYTES
    while last and last.end > span:
        chunks = log_chunks(store, job, source, last.end - span)
        found = sum(store.read(chunk.key).data.count(b"\n") for chunk in chunks)
        if found > lines:
            return chunks[0].offset
        span *= 4
    return 0


def read_log(store: Store, job: str, source: str, start: int = 0) -> Iterator[bytes]:
    """Yield a source's log from byte `start` on, where a chunk has to begin."""
    for chunk in log_chunks(store, job, source, start):
        yield store.read(chunk.key).data


def _folder(job: str, source: str) -> str:
    return f"jobs/{job}/logs/{source}/"


def _name(offset: int) -> str:
    return f"{offset:0{OFFSET_DIGITS}}"
