"""Ships the log files of a pod to the store, while they grow.

The shipper runs in a container beside Ray's and outlives it, so that the last lines of a dying
driver are shipped, too. A shipper that is started again goes on where the log in the store ends.
"""

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from graft.cluster.job_logs import DRIVER_SOURCE, log_end, put_log
from graft.errors import GraftError, StoreError
from graft.store import Store

SHIPPED = re.compile(r"job-driver-.+\.log|(worker-.+|raylet|gcs_server)\.(out|err)")
"""Names of the files in Ray's log folder that a person may want to read; the raylet's says which
process it ended for want of memory."""
DRIVER = "job-driver-"
CHUNK_BYTES = 4 << 20
"""The most bytes that a chunk has."""
EVERY_S = 2.0
"""Seconds between two looks at the files."""
LAST_TRIES_S = 20.0
"""Seconds for which the shipper tries again a store that fails, once the pod is told to end."""


class Shipper:
    """Ships the log files of one pod; `folder` is the log folder of Ray's latest session."""

    def __init__(
        self,
        store: Store,
        job: str,
        folder: Path,
        pod: str,
        echo: Callable[[bytes], object] | None = None,
    ):
        """Ship to a store; `echo` gets what is shipped of the driver's log, too."""
        self._store, self._job, self._folder, self._pod = store, job, folder, pod
        self._echo = echo
        self._shipped: dict[str, int] = {}
        """Bytes that the store has, by source."""

    def ship(self) -> int:
        """Ship what is new; return its bytes.

        Raises:
            StoreError: the store cannot be used; the next call tries the same bytes again.
        """
        shipped = 0
        # Each start of Ray in this pod makes a session; `session_latest` is a link to the last.
        for path in sorted(self._folder.parent.parent.glob("session_[0-9]*/logs/*")):
            if SHIPPED.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # Ray has just removed it
                    shipped += self._ship_file(path, path.parent.parent.name)
        return shipped

    def _ship_file(self, path: Path, session: str) -> int:
        source = source_name(path.name, session, self._pod)
        if source not in self._shipped:
            self._shipped[source] = log_end(self._store, self._job, source)
        shipped = 0
        with path.open("rb") as file:
            file.seek(self._shipped[source])
            while data := file.read(CHUNK_BYTES):
                try:
                    put_log(self._store, self._job, source, self._shipped[source], data)
                except StoreError:  # the chunk may be stored, and only the answer lost
                    del self._shipped[source]
                    raise
                self._shipped[source] += len(data)
                shipped += len(data)
                if self._echo and source.startswith(DRIVER_SOURCE):
                    self._echo(data)
        return shipped


def source_name(file: str, session: str, pod: str) -> str:
    """Return the name in the store of a log file of Ray's: `driver@SESSION@POD`."""
    kind = DRIVER_SOURCE if file.startswith(DRIVER) else f"{file}@"
    return f"{kind}{session}@{pod}"


def ship_until(
    shipper: Shipper,
    ended: threading.Event,
    warn: Callable[[str], object],
    every_s: float = EVERY_S,
) -> None:
    """Ship every few seconds, and once more after `ended`; `warn` gets each new problem once."""
    last: str | None = None
    give_up = math.inf
    while True:
        if ended.wait(every_s):
            give_up = min(give_up, time.monotonic() + LAST_TRIES_S)
            time.sleep(every_s)  # what dies beside it may still write
        try:
            shipper.ship()
            last = None
        except GraftError as error:  # the job goes on; its logs are shipped later
            if str(error) != last:
                warn(f"logs are not shipped for now: {error}")
            last = str(error)
        if give_up < math.inf and (last is None or time.monotonic() > give_up):
            return
