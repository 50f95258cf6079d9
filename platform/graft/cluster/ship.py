"""Ships what the processes of a pod write to the store, as they write it.

Runs beside Ray, in a container of its own, and outlives it: what a dying driver said last is
shipped too. One that is started again goes on behind what the store has.
"""

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from graft.cluster.jobs import log_end, put_log
from graft.errors import GraftError, StoreError
from graft.store import Store

SHIPPED = re.compile(r"job-driver-.+\.log|worker-.+\.(out|err)")
"""Files of Ray's log folder that a person would want to read."""
DRIVER = "job-driver-"
DRIVER_SOURCE = "driver@"
"""How the names of logs of an attempt's driver begin; they sort by the time of its Ray's start."""
CHUNK_BYTES = 4 << 20
"""A chunk has at most as many."""
EVERY_S = 2.0
LAST_TRIES_S = 20.0
"""For what was said last to get into a store that fails, once the pod is to end."""


class Shipper:
    """Ships the log files of one pod: `folder` is Ray's, of its latest session."""

    def __init__(self, store: Store, job: str, folder: Path, pod: str):
        self._store, self._job, self._folder, self._pod = store, job, folder, pod
        self._done: dict[str, int] = {}
        """By source, bytes that the store has."""

    def ship(self) -> int:
        """Ship what is new; return how many bytes that were.

        Raises:
            StoreError: the store cannot be used; nothing is lost, the next call tries again.
        """
        shipped = 0
        # Every start of Ray's in this pod has a session, `session_latest` is a link to the last.
        for path in sorted(self._folder.parent.parent.glob("session_[0-9]*/logs/*")):
            if SHIPPED.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # Ray has just removed it
                    shipped += self._ship_file(path, path.parent.parent.name)
        return shipped

    def _ship_file(self, path: Path, session: str) -> int:
        source = source_name(path.name, session, self._pod)
        if source not in self._done:
            self._done[source] = log_end(self._store, self._job, source)
        shipped = 0
        with path.open("rb") as file:
            file.seek(self._done[source])
            while data := file.read(CHUNK_BYTES):
                try:
                    put_log(self._store, self._job, source, self._done[source], data)
                except StoreError:  # perhaps it got there, and only the answer was lost
                    del self._done[source]
                    raise
                self._done[source] += len(data)
                shipped += len(data)
        return shipped


def source_name(file: str, session: str, pod: str) -> str:
    """Return what a log file of Ray's is called in the store: `driver@SESSION@POD`."""
    kind = DRIVER_SOURCE if file.startswith(DRIVER) else f"{file}@"
    return f"{kind}{session}@{pod}"


def ship_until(
    shipper: Shipper,
    ended: threading.Event,
    warn: Callable[[str], object],
    every_s: float = EVERY_S,
) -> None:
    """Ship again and again, and once more after `ended`; `warn` is told what goes wrong, once."""
    last: str | None = None
    give_up = math.inf
    while True:
        if ended.wait(every_s):
            give_up = min(give_up, time.monotonic() + LAST_TRIES_S)
            time.sleep(every_s)  # what dies beside it has a last word
        try:
            shipper.ship()
            last = None
        except GraftError as error:  # the job goes on; its logs may come later
            if str(error) != last:
                warn(f"logs are not shipped for now: {error}")
            last = str(error)
        if give_up < math.inf and (last is None or time.monotonic() > give_up):
            return
