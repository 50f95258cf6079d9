"""Following a job until it ends: each change of its status, and its log as it grows."""

import contextlib
import math
import time
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from graft.cluster.cluster_jobs import ClusterJobs
from graft.cluster.job_logs import DRIVER_SOURCE, log_chunks, log_tail
from graft.cluster.job_overview import Jobs
from graft.cluster.status import JobStatus
from graft.errors import ClusterLost, StillRuns, StoreError
from graft.store import Store
from graft.units import duration

EVERY_S = 2.0
"""Seconds between two looks at a job."""
LOST_S = 60.0
"""Seconds in which a cluster that does not answer has to come back."""


class LogChunk(NamedTuple):
    """A piece of a job's log."""

    source: str
    """Name of the log: of a driver, or of a worker."""
    data: bytes
    """May begin or end within a character."""
    shipped: datetime | None = None
    """When it got into the store; None: not known."""


class Log:
    """A job's log since the last look at it: from the store, or else from the cluster."""

    def __init__(
        self,
        jobs: Jobs,
        job: str,
        source: str | None = None,
        since: datetime | None = None,
        tail: int | None = None,
    ):
        """Look at a log.

        Args:
            jobs: where the job is looked for.
            job: its id.
            source: which log; None: those of the drivers of all attempts.
            since: what was shipped before is left out; None: nothing is.
            tail: at least so many of each log's last lines, first; None: from its beginning on.
        """
        self._jobs, self._job, self._source, self._since = jobs, job, source, since
        self._tail = tail
        self._read: dict[str, int] = {}
        """Bytes that were yielded, by source."""

    def new(self, last: bool = False) -> Iterator[LogChunk]:
        """Yield what is new; `last`: nobody will look again."""
        sources = self._jobs.sources(self._job)
        if self._source is None:
            sources = [source for source in sources if source.startswith(DRIVER_SOURCE)]
            cluster, store = self._jobs.cluster, self._jobs.store
            # A log that is shipped may get into the store yet: the cluster is asked at the end.
            if cluster and (store is None or (not sources and (last or not cluster.ships_logs))):
                yield from self._from_cluster(cluster)
                return
        # What a driver says when it dies is shipped before the next but one begins.
        over = {*sources[:-2]} & self._read.keys() if self._source is None and not last else set()
        for source in sources:
            if self._source in (None, source) and source not in over and self._jobs.store:
                start = self._start(self._jobs.store, source)
                for chunk in log_chunks(self._jobs.store, self._job, source, start):
                    if not (self._since and chunk.shipped and chunk.shipped < self._since):
                        data = self._jobs.store.read(chunk.key).data
                        yield LogChunk(source, data, chunk.shipped)
                    self._read[source] = chunk.end

    def _start(self, store: Store, source: str) -> int:
        """Return the offset from which on a source's log is new."""
        if source in self._read or self._tail is None:
            return self._read.get(source, 0)
        return log_tail(store, self._job, source, self._tail)

    def _from_cluster(self, cluster: ClusterJobs) -> Iterator[LogChunk]:
        output = cluster.output(self._job).encode()
        start = self._read.get(DRIVER_SOURCE, 0)
        if len(output) < start:
            start = 0  # another attempt's
        self._read[DRIVER_SOURCE] = len(output)
        if output[start:]:
            yield LogChunk(DRIVER_SOURCE, output[start:])


def follow(
    jobs: Jobs,
    job: str,
    log: Log | None,
    every_s: float = EVERY_S,
    timeout_s: float | None = None,
) -> Iterator[JobStatus | LogChunk]:
    """Yield each change of a job's status, and its log, until it has ended.

    A cluster that does not answer is asked again for a minute.

    Raises:
        StillRuns: it has not ended within `timeout_s`; None: it has any time.
        NotFoundError: there is no such job.
        ClusterLost: the cluster still does not answer; the message says how to look later.
    """
    last: JobStatus | None = None
    silent_since: float | None = None
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while True:
        status: JobStatus | None = None
        try:
            status = jobs.status(job)
            if status != last and not status.has_ended:
                last = status
                yield status
            if log:
                yield from log.new()
            silent_since = None
        except (ClusterLost, StoreError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > LOST_S:
                raise ClusterLost(
                    f"{error}; the job may well go on: look later with graft jobs show {job}, "
                    f"or go on here with graft jobs logs {job} -f"
                ) from error
            status = None
        if status and status.has_ended:
            if log:  # the end of the log is shipped after the job has recorded its end
                time.sleep(2 * every_s)
                with contextlib.suppress(ClusterLost, StoreError):
                    yield from log.new(last=True)
            yield status
            return
        if time.monotonic() > deadline:
            raise StillRuns(
                f"{job} has not ended within {duration(timeout_s or 0)}: {last}; it goes on"
            )
        time.sleep(min(every_s, max(deadline - time.monotonic(), 0)))
