"""When activations were used last, which `graft gc` goes by.

activations/<trunk>/<kind>/used/<date>   that they were, on this day or the one before it

An empty object, whose time of writing is what counts: it is the storage's own.
"""

import contextlib
from datetime import UTC, datetime

from graft.activations.key import Key
from graft.errors import StoreError
from graft.store import Store

_noted: set[tuple[str, str]] = set()
"""What this process has noted: the store, and the key in it."""


def begin_use(store: Store, key: Key) -> bool:
    """Have the activations of a key stay, for they are about to be read.

    Returns whether the caller has to look again, since they may have been removed before this.
    That, and the note of it in the store, is once a day and process.
    """
    note = f"{key.folder}/used/{datetime.now(UTC):%Y-%m-%d}"
    if (store.uri, note) in _noted:
        return False
    store.rely_on([f"{key.folder}/"])
    with contextlib.suppress(StoreError):  # who may only read keeps nothing
        store.write(note, b"")
    _noted.add((store.uri, note))
    return True
