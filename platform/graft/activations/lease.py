"""Leases: which process is computing something now, so that others wait instead of doing it too.

A lease saves work and decides nothing: shards are named by their content and an index is
created exclusively, so two writers at once only compute the same twice.
"""

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.errors import ObjectChanged, ObjectExists, ObjectNotFound, StoreError
from graft.store import Store
from graft.store.retries import swaps

EXPIRY_S = 30.0
"""A lease expires after this many seconds without a heartbeat: its owner counts as dead."""
HEARTBEATS = 6
"""Heartbeats of a living owner in that time."""
POLL_S = 0.5
"""Seconds between two looks at a lease that another process holds."""


@dataclass(frozen=True)
class LeaseTerms:
    """When a lease expires, and what a process does while it waits for one."""

    expiry_s: float = EXPIRY_S
    waiting: Callable[[str], object] = lambda holder: None
    """Called once, with the process that holds the lease."""
    pause: Callable[[float], object] = time.sleep
    """Called to wait, with the seconds."""
    alive: Callable[[str], object] = lambda holder: None
    """Called with that process each time it shows that it lives; may raise, to wait no longer."""


DEFAULT_TERMS = LeaseTerms()


_WORD = r"^[\w.:+-]*$"
"""What is shown of a lease is printed as it stands."""


class _Lease(BaseModel):
    """A lease as it lies in the store; the fields are the JSON document's keys."""

    model_config = ConfigDict(frozen=True)

    owner: str
    host: str = Field(pattern=_WORD)
    process: int
    since: str | None = Field(default=None, pattern=_WORD)
    """When the process took it, ISO 8601 in UTC; null: of an older release."""
    beat: int = 0
    """Heartbeats so far."""

    @classmethod
    def new(cls) -> "_Lease":
        """Return a lease of this process."""
        return cls(
            owner=uuid.uuid4().hex,
            host=re.sub(r"[^\w.:+-]", "_", socket.gethostname()),
            process=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def of(cls, data: bytes) -> "_Lease | None":
        """Return the lease in `data`; None: it is damaged, and expires as any other."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()


@contextlib.contextmanager
def hold_lease(store: Store, key: str, terms: LeaseTerms = DEFAULT_TERMS) -> Iterator[None]:
    """Hold the lease at `key` during the block: wait for it, or take over an expired one.

    A holder is alive while its heartbeat changes; this process's own clock says for how long
    it has not.

    Raises:
        StoreError: it can be neither taken nor taken over, though nobody shows that they hold it.
    """
    lease = _Lease.new()
    _acquire(store, key, lease, terms)
    ended = threading.Event()
    every_s = terms.expiry_s / HEARTBEATS
    # A daemon: an interpreter that ends does not wait for it.
    heart = threading.Thread(target=_beat, args=(store, key, lease, every_s, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        _release(store, key, lease.owner)


def _acquire(store: Store, key: str, lease: _Lease, terms: LeaseTerms) -> None:
    last: bytes | None = None  # what the holder wrote last
    changed_s = 0.0
    turn = swaps(f"{store.uri}/{key}")
    while True:
        # Not found: it was there, and was released before it could be compared.
        with contextlib.suppress(ObjectExists, ObjectNotFound):
            return store.create(key, lease.to_json())
        try:
            current = store.read(key)
        except ObjectNotFound:  # released meanwhile
            next(turn)
            continue
        if current.data != last:
            (terms.waiting if last is None else terms.alive)(_holder(current.data))
            last, changed_s = current.data, time.monotonic()
            turn = swaps(f"{store.uri}/{key}")
        elif time.monotonic() - changed_s > terms.expiry_s:
            next(turn)
            with contextlib.suppress(ObjectChanged, ObjectNotFound):
                return store.replace(key, lease.to_json(), current.etag)
        terms.pause(min(POLL_S, terms.expiry_s / 4))


def _beat(store: Store, key: str, lease: _Lease, every_s: float, ended: threading.Event) -> None:
    while not ended.wait(every_s):
        lease = lease.model_copy(update={"beat": lease.beat + 1})
        try:
            current = store.read(key)
            if _owner(current.data) != lease.owner:
                return  # taken over: this process was too slow to be told from a dead one
            store.replace(key, lease.to_json(), current.etag)
        except (ObjectChanged, ObjectNotFound):
            return
        except StoreError:
            continue  # the work itself will say what is wrong, if it lasts


def _release(store: Store, key: str, owner: str) -> None:
    with contextlib.suppress(StoreError):  # then it expires
        if _owner(store.read(key).data) == owner:
            store.delete(key)


def _holder(data: bytes) -> str:
    lease = _Lease.of(data)
    if lease is None:
        return "a process whose lease cannot be read"
    since = f", since {lease.since}" if lease.since else ""
    return f"process {lease.process} on {lease.host}{since}"


def _owner(data: bytes) -> str | None:
    lease = _Lease.of(data)
    return lease.owner if lease else None
