"""What a store's storage really guarantees, found out by trying it.

S3-compatible endpoints differ where it matters most: some take a conditional write and
check nothing, some check and then write. `probe` races writers against each other.
"""

import contextlib
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from graft.errors import ObjectChanged, ObjectExists, StoreError
from graft.store import PART_SIZE, Store

WRITERS = 8
"""Threads that race; a check-then-write server let 8 of 60 keys be won twice by as many."""
ROUNDS = 60
LISTED = 1001
"""Objects to list: one more than a page holds."""


@dataclass(frozen=True)
class Finding:
    """Whether one guarantee holds."""

    guarantee: str
    holds: bool
    required: bool
    """Whether Graft cannot use the storage without it."""
    seen: str
    """What was tried, and what came of it."""
    otherwise: str
    """What it means where it does not hold."""
    seconds: float


@dataclass(frozen=True)
class _Guarantee:
    name: str
    required: bool
    otherwise: str
    check: Callable[[Store, str], tuple[bool, str]]


def probe(store: Store) -> Iterator[Finding]:
    """Try each guarantee in a folder of its own, which is removed afterwards.

    Raises:
        StoreError: not even a first object can be written.
    """
    return _probe(store, _GUARANTEES)


def fences(store: Store) -> bool:
    """Whether the storage keeps two attempts at one run from both committing."""
    return all(f.holds for f in _probe(store, [g for g in _GUARANTEES if not g.required]))


def _probe(store: Store, guarantees: Iterable[_Guarantee]) -> Iterator[Finding]:
    folder = f"probe-{uuid.uuid4().hex}"
    store.write(f"{folder}/first", b"")
    try:
        for guarantee in guarantees:
            started = time.monotonic()
            try:
                holds, seen = guarantee.check(store, folder)
            except StoreError as error:
                holds, seen = False, str(error)
            yield Finding(
                guarantee=guarantee.name,
                holds=holds,
                required=guarantee.required,
                seen=seen,
                otherwise=guarantee.otherwise,
                seconds=round(time.monotonic() - started, 2),
            )
    finally:
        _remove(store, folder)


def _read_after_write(store: Store, folder: str) -> tuple[bool, str]:
    stale = 0
    for number in range(ROUNDS):
        key, data = f"{folder}/read/{number}", uuid.uuid4().bytes
        was_there = store.exists(key)
        store.write(key, data)
        stale += was_there or store.read(key).data != data
    return stale == 0, f"{ROUNDS} objects written and read: {stale} stale"


def _overwrite(store: Store, folder: str) -> tuple[bool, str]:
    stale = 0
    for _ in range(ROUNDS):
        data = uuid.uuid4().bytes
        store.write(f"{folder}/overwrite", data)
        stale += store.read(f"{folder}/overwrite").data != data
    return stale == 0, f"{ROUNDS} overwrites read back: {stale} stale"


def _listing(store: Store, folder: str) -> tuple[bool, str]:
    keys = [f"{folder}/list/{number:05}" for number in range(LISTED)]
    with ThreadPoolExecutor(2 * WRITERS) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))
    found = [key for key, _ in store.scan(f"{folder}/list/")]
    holds = found == keys and "list" in store.children(f"{folder}/")
    return holds, f"{LISTED} objects written, {len(found)} listed"


def _range(store: Store, folder: str) -> tuple[bool, str]:
    data = bytes(range(256))
    store.write(f"{folder}/range", data)
    holds = all(
        store.read_range(f"{folder}/range", start, 16) == data[start : start + 16]
        for start in (0, 100, 240)
    )
    return holds, "16 bytes from the beginning, the middle and the end"


def _multipart(store: Store, folder: str) -> tuple[bool, str]:
    size = PART_SIZE + 1
    with tempfile.NamedTemporaryFile() as source:
        source.write(random.randbytes(size))
        source.flush()
        ref = store.put(folder, "large", Path(source.name))
    fetched = store.fetch(folder, ref)  # verified against its SHA-256
    if not store.is_directory:
        fetched.unlink()
    return True, f"{size:,} bytes sent, fetched and verified"


def _exclusive_create(store: Store, folder: str) -> tuple[bool, str]:
    barrier = threading.Barrier(WRITERS)

    def create(key: str, data: bytes) -> bool:
        barrier.wait()
        with contextlib.suppress(ObjectExists):
            store.create(key, data)
            return True
        return False

    wrong = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(ROUNDS):
            key = f"{folder}/create/{number}"
            written = [uuid.uuid4().bytes for _ in range(WRITERS)]
            won = list(pool.map(create, [key] * WRITERS, written))
            wrong += sum(won) != 1 or store.read(key).data != written[won.index(True)]
    return wrong == 0, f"{WRITERS} writers race for each of {ROUNDS} keys: {wrong} not won by one"


def _compare_and_swap(store: Store, folder: str) -> tuple[bool, str]:
    key, steps = f"{folder}/counter", ROUNDS // WRITERS
    store.create(key, b"0")
    barrier = threading.Barrier(WRITERS)

    def count(writer: int) -> None:
        barrier.wait()
        for _ in range(steps):
            _increment(store, key, writer)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(count, range(WRITERS)))
    lost = steps * WRITERS - int(store.read(key).data.split()[0])
    return lost == 0, f"{WRITERS} writers count to {steps * WRITERS} together: {lost} updates lost"


def _increment(store: Store, key: str, writer: int) -> None:
    for _ in range(10 * ROUNDS):
        seen = store.read(key)
        with contextlib.suppress(ObjectChanged):
            # The writer's number: one's own bytes, found there, count as written.
            store.replace(key, f"{int(seen.data.split()[0]) + 1} {writer}".encode(), seen.etag)
            return
    raise StoreError(f"{store.uri}: an object cannot be replaced by who has just read it")


def _remove(store: Store, folder: str) -> None:
    if store.is_directory:
        shutil.rmtree(Path(store.uri, folder))
        return
    with ThreadPoolExecutor(2 * WRITERS) as pool:
        list(pool.map(store.delete, [key for key, _ in store.scan(f"{folder}/")]))


_UNUSABLE = "committed results may be missed or torn; Graft cannot use this storage"
_NO_FENCE = "two attempts at one run could both commit; going on with a run needs --take-over"

_GUARANTEES = (
    _Guarantee("read after write", True, _UNUSABLE, _read_after_write),
    _Guarantee("overwrite is visible", True, _UNUSABLE, _overwrite),
    _Guarantee(
        "listing after write", True, "datasets, runs and models go missing in lists", _listing
    ),
    _Guarantee("range reads", True, "parts of a shard cannot be read", _range),
    _Guarantee(
        "multipart", True, f"objects above {PART_SIZE >> 20} MiB cannot be kept", _multipart
    ),
    _Guarantee("exclusive create", False, _NO_FENCE, _exclusive_create),
    _Guarantee(
        "compare and swap",
        False,
        "moves of an alias or of `latest` at the same moment may be lost; " + _NO_FENCE,
        _compare_and_swap,
    ),
)
