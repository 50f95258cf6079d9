"""Ships what the processes of a pod write to the store, as they write it.

Runs beside Ray, in a container of its own, and outlives it: what a dying driver said last is
shipped too. One that is started again goes on behind what the store has.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from graft.cluster.jobs import log_end, put_log
from graft.errors import GraftError, StoreError
from graft.store import Store

SHIPPED = re.compile(r"job-driver-.+\.log|worker-.+\.(out|err)")
"""Files of Ray's log folder that a person would want to read."""
DRIVER = "job-driver-"
CHUNK_BYTES = 4 << 20
"""A chunk has at most as many."""
EVERY_S = 2.0


class Shipper:
    """Ships the log files of one folder."""

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
        for path in sorted(self._folder.glob("*")):
            if SHIPPED.fullmatch(path.name):
                shipped += self._ship_file(path)
        return shipped

    def _ship_file(self, path: Path) -> int:
        source = source_name(self._pod, path.name)
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


def source_name(pod: str, file: str) -> str:
    """Return the name of what writes a file: `driver-` and the attempt's pod, or pod and file."""
    kind = "driver" if file.startswith(DRIVER) else Path(file).name
    return f"{kind}@{pod}"


def ship_until(
    shipper: Shipper,
    ended: threading.Event,
    warn: Callable[[str], object],
    every_s: float = EVERY_S,
) -> None:
    """Ship again and again, and once more after `ended`; `warn` is told what goes wrong, once."""
    last: str | None = None
    more = True
    while more:
        more = not ended.wait(every_s)
        try:
            shipper.ship()
            last = None
        except GraftError as error:  # the job goes on; its logs may come later
            if str(error) != last:
                warn(f"logs are not shipped for now: {error}")
            last = str(error)
