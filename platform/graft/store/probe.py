"""What a store's storage really guarantees, established by trying it.

S3-compatible endpoints differ where it matters most: some accept a conditional write without
checking the condition, others check first and write later. `probe` races writers to find out.
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
from graft.store import Store
from graft.store.s3 import PART_SIZE

WRITERS = 8
"""Threads that race: with 8, a server that checks first and writes later let 8 of 60 keys be won
twice."""
ROUNDS = 60
"""How many times each race is run."""
LISTED = 1001
"""How many objects the listing check writes: one more than a page of a listing holds."""


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
    """What it means for the user if the guarantee does not hold."""
    seconds: float
    """How long the check took."""


@dataclass(frozen=True)
class _Outcome:
    """What came of one check; see `Finding` for the fields."""

    holds: bool
    seen: str


@dataclass(frozen=True)
class _Guarantee:
    """One guarantee and the check that tries it; see `Finding` for the other fields."""

    name: str
    check: Callable[[Store, str], _Outcome]
    """Takes the store and a folder in it to write to."""
    otherwise: str
    required: bool = True


def probe(store: Store) -> Iterator[Finding]:
    """Try each guarantee in a folder of its own, which is removed afterwards.

    Raises:
        StoreError: not even a first object can be written.
    """
    return _probe(store, _GUARANTEES)


def fences(store: Store) -> bool:
    """Whether the storage prevents that two attempts at one run both commit."""
    fencing = [guarantee for guarantee in _GUARANTEES if not guarantee.required]
    return all(finding.holds for finding in _probe(store, fencing))


def _probe(store: Store, guarantees: Iterable[_Guarantee]) -> Iterator[Finding]:
    folder = f"probe-{uuid.uuid4().hex}"
    store.write(f"{folder}/first", b"")
    try:
        for guarantee in guarantees:
            started = time.monotonic()
            try:
                outcome = guarantee.check(store, folder)
            except StoreError as error:
                outcome = _Outcome(False, str(error))
            yield Finding(
                guarantee=guarantee.name,
                holds=outcome.holds,
                required=guarantee.required,
                seen=outcome.seen,
                otherwise=guarantee.otherwise,
                seconds=round(time.monotonic() - started, 2),
            )
    finally:
        _remove(store, folder)


def _read_after_write(store: Store, folder: str) -> _Outcome:
    stale = 0
    for number in range(ROUNDS):
        key, data = f"{folder}/read/{number}", uuid.uuid4().bytes
        was_there = store.exists(key)
        store.write(key, data)
        stale += was_there or store.read(key).data != data
    return _Outcome(stale == 0, f"{ROUNDS} objects written and read: {stale} stale")


def _overwrite(store: Store, folder: str) -> _Outcome:
    stale = 0
    for _ in range(ROUNDS):
        data = uuid.uuid4().bytes
        store.write(f"{folder}/overwrite", data)
        stale += store.read(f"{folder}/overwrite").data != data
    return _Outcome(stale == 0, f"{ROUNDS} overwrites read back: {stale} stale")


def _listing(store: Store, folder: str) -> _Outcome:
    keys = [f"{folder}/list/{number:05}" for number in range(LISTED)]
    with ThreadPoolExecutor(2 * WRITERS) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))
    listed = [key for key, _ in store.scan(f"{folder}/list/")]
    holds = listed == keys and "list" in store.children(f"{folder}/")
    return _Outcome(holds, f"{LISTED} objects written, {len(listed)} listed")


def _range(store: Store, folder: str) -> _Outcome:
    data = bytes(range(256))
    store.write(f"{folder}/range", data)
    holds = all(
        store.read_range(f"{folder}/range", start, 16) == data[start : start + 16]
        for start in (0, 100, 240)
    )
    return _Outcome(holds, "16 bytes from the beginning, the middle and the end")


def _multipart(store: Store, folder: str) -> _Outcome:
    size = PART_SIZE + 1
    with tempfile.NamedTemporaryFile() as source:
        source.write(random.randbytes(size))
        source.flush()
        ref = store.put(folder, "large", Path(source.name))
    store.get(folder, ref)  # verified against its SHA-256
    return _Outcome(True, f"{size:,} bytes sent, read and verified")


def _exclusive_create(store: Store, folder: str) -> _Outcome:
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
    seen = f"{WRITERS} writers race for each of {ROUNDS} keys: {wrong} not won by one"
    return _Outcome(wrong == 0, seen)


def _compare_and_swap(store: Store, folder: str) -> _Outcome:
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
    seen = f"{WRITERS} writers count to {steps * WRITERS} together: {lost} updates lost"
    return _Outcome(lost == 0, seen)


def _increment(store: Store, key: str, writer: int) -> None:
    for _ in range(10 * ROUNDS):
        current = store.read(key)
        with contextlib.suppress(ObjectChanged):
            # With the writer's number, since `replace` takes equal bytes for its own.
            number = int(current.data.split()[0]) + 1
            store.replace(key, f"{number} {writer}".encode(), current.etag)
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
    _Guarantee("read after write", _read_after_write, _UNUSABLE),
    _Guarantee("overwrite is visible", _overwrite, _UNUSABLE),
    _Guarantee("listing after write", _listing, "datasets, runs and models go missing in lists"),
    _Guarantee("range reads", _range, "parts of a shard cannot be read"),
    _Guarantee("multipart", _multipart, f"objects above {PART_SIZE >> 20} MiB cannot be stored"),
    _Guarantee("exclusive create", _exclusive_create, _NO_FENCE, required=False),
    _Guarantee(
        "compare and swap",
        _compare_and_swap,
        "moves of an alias or of `latest` at the same moment may be lost; " + _NO_FENCE,
        required=False,
    ),
)
