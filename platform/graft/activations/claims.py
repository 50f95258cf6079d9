"""Claims: who is computing something now, so that others wait instead of doing it too.

A claim saves work and decides nothing: shards are named by their content and an index is
created exclusively, so two writers at once only compute the same twice.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from graft.errors import ObjectChanged, ObjectExists, ObjectNotFound, StoreError
from graft.store import Store

LEASE_S = 30.0
"""A claim that has not moved for as long belongs to a dead process."""
BEATS = 6
"""How often a claim moves in that time."""
POLL_S = 0.5
"""How often a claim that someone else has is looked at, in seconds."""


@contextlib.contextmanager
def claimed(
    store: Store,
    key: str,
    lease_s: float = LEASE_S,
    waiting: Callable[[str], object] = lambda holder: None,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Hold the claim at `key` during the block; wait for it, or take it from a dead process.

    Whether a holder is alive is seen by its claim moving, on this process's own clock.
    `waiting` is told once whom this process waits for; `pause` waits a part of it, in seconds.
    """
    owner = uuid.uuid4().hex
    _acquire(store, key, owner, lease_s, waiting, pause)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, key, owner, lease_s / BEATS, ended))
    heart.daemon = True  # an interpreter that ends does not wait for it
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        _release(store, key, owner)


def _acquire(
    store: Store,
    key: str,
    owner: str,
    lease_s: float,
    waiting: Callable[[str], object],
    pause: Callable[[float], object],
) -> None:
    seen, since = b"", time.monotonic()
    told = False
    while True:
        # Not found: it was there, and was released before it could be compared.
        with contextlib.suppress(ObjectExists, ObjectNotFound):
            return store.create(key, _claim(owner, 0))
        try:
            found = store.read(key)
        except ObjectNotFound:
            continue  # released meanwhile
        if found.data != seen:
            seen, since = found.data, time.monotonic()
        elif time.monotonic() - since > lease_s:
            with contextlib.suppress(ObjectChanged, ObjectNotFound):
                return store.replace(key, _claim(owner, 0), found.etag)
        if not told:
            told = True
            holder = json.loads(found.data)
            waiting(f"process {holder['process']} on {holder['host']}")
        pause(min(POLL_S, lease_s / 4))


def _beat(store: Store, key: str, owner: str, every_s: float, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(every_s):
        number += 1
        try:
            found = store.read(key)
            if json.loads(found.data)["owner"] != owner:
                return  # taken over: this process was too slow to be told from a dead one
            store.replace(key, _claim(owner, number), found.etag)
        except (ObjectChanged, ObjectNotFound):
            return
        except StoreError:
            continue  # the work itself will say what is wrong, if it lasts


def _release(store: Store, key: str, owner: str) -> None:
    with contextlib.suppress(StoreError):  # then it is taken over, once its lease has run out
        if json.loads(store.read(key).data)["owner"] == owner:
            store.delete(key)


def _claim(owner: str, beat: int) -> bytes:
    return json.dumps(
        {"owner": owner, "host": socket.gethostname(), "process": os.getpid(), "beat": beat}
    ).encode()
