"""Which objects a store on S3 is asked for."""

import os
import time
from pathlib import Path
from typing import Any

from graft.store import ObjectRef, Store
from graft.store.s3 import S3Bucket


def gets(store: Store) -> list[tuple[str, str]]:
    """Return a list that gets the name and the range of every object that is read from now on."""
    requests: list[tuple[str, str]] = []

    def note(request: Any, **_: object) -> None:
        asked = request.headers.get("Range") or b""
        asked = asked.decode() if isinstance(asked, bytes) else asked
        requests.append((request.url.rpartition("/")[2].partition("?")[0], asked))

    backend = store._backend
    assert isinstance(backend, S3Bucket)
    backend._client.meta.events.register("before-send.s3.GetObject", note)
    return requests


def fetch_all(uri: str, refs: list[ObjectRef], folder: str) -> None:
    """Open payloads of folder `a` in a process of its own, at the time that another one does.

    Each of the two writes how many GETs that took into a file of `folder`.
    """
    store = Store.open(uri)
    asked = gets(store)
    ready = Path(folder, f"ready-{os.getpid()}")
    ready.touch()
    while len(list(Path(folder).glob("ready-*"))) < 2:
        time.sleep(0.001)
    for ref in refs:
        file = store.open_file("a", ref)
        assert file is not None
        file.close()
    Path(folder, f"gets-{os.getpid()}").write_text(str(len(asked)))
