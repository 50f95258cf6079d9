"""Which requests a store on S3 sends, by operation."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graft.store import Store
from graft.store.requests import Requests
from graft.store.s3 import S3Bucket

READING = frozenset({"GetObject", "HeadObject"})
FREE = frozenset({"DeleteObject"})


@contextmanager
def counted(store: Store) -> Iterator[Counter[str]]:
    """Count the requests of a store in this process."""
    operations: Counter[str] = Counter()

    def note(event_name: str, **_: Any) -> None:
        operations[event_name.rpartition(".")[2]] += 1

    backend = store._backend
    assert isinstance(backend, S3Bucket)
    events = backend._client.meta.events
    events.register("before-send.s3", note)
    yield operations
    events.unregister("before-send.s3", note)


def charged(operations: Counter[str]) -> Requests:
    """Return how many write and how many read, as a provider charges them."""
    reads = sum(operations[name] for name in READING)
    free = sum(operations[name] for name in FREE)
    return Requests(operations.total() - reads - free, reads)
