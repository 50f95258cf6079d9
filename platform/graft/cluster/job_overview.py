"""Jobs as a person sees them: how they stand by their cluster and by the store, and how to cancel.

`cluster_jobs` knows the cluster alone, `job_records` the store alone; `Jobs` puts the two together.
"""

import heapq
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from graft.cluster.cluster_jobs import ClusterJobs, prune_jobs, remove_ended
from graft.cluster.job_attempts import cancel_job, overtake
from graft.cluster.job_list import list_jobs, newest_jobs, read_jobs
from graft.cluster.job_logs import DRIVER_SOURCE, last_shipped, log_sources
from graft.cluster.job_progress import job_progress
from graft.cluster.job_records import (
    ClusterIdentity,
    JobRecord,
    read_job,
    read_job_spec,
    submit_job,
)
from graft.cluster.job_resuming import resume_job
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.sent_jobs import elsewhere, home_of, read_sent
from graft.cluster.status import ENDED, NOT_TAKEN_UP, ClusterStatus, JobStatus, combine
from graft.errors import ClusterLost, InputError, NotFoundError
from graft.registry import user_and_host
from graft.spec import nearest
from graft.store import Store

BATCH = 32
"""Records that are read at once for a list."""
NOTHING: Mapping[str, str] = MappingProxyType({})
ACCEPT_S = 20.0
"""Seconds in which an operator has to take up a job that was sent."""


class Jobs:
    """The jobs of a cluster and of a store, of which either may be out of reach."""

    def __init__(self, cluster: ClusterJobs | None, store: Store | None):
        """Look at a cluster and a store; None for what is out of reach."""
        self.cluster, self.store = cluster, store
        self.silence: ClusterLost | None = None
        """Why a list was of the store alone; None: it was not."""

    def user(self) -> str:
        """Return who the cluster takes its user for, else this machine's user."""
        return self.cluster.owner().who if self.cluster else user_and_host()

    def ids(self) -> list[str]:
        """Return the ids of all jobs, of the store and of the cluster."""
        stored = list_jobs(self.store) if self.store else []
        running = [status.job for status in self.cluster.all()] if self.cluster else []
        return sorted({*stored, *running})

    def newest(self) -> Iterator[JobStatus]:
        """Yield how jobs stand, of the cluster and of the store, the latest submitted first.

        The store is read as far as the caller goes on, so the first jobs cost the same however
        many there are.

        Raises:
            ClusterLost: the cluster does not answer, and there is no store.
        """
        try:
            statuses = self.cluster.all() if self.cluster else []
        except ClusterLost as error:
            if self.store is None:
                raise
            self.silence = error
            yield from Jobs(None, self.store).newest()
            return
        on_cluster = {status.job: status for status in statuses}
        latest = datetime.max.replace(tzinfo=UTC)
        created = sorted(
            (
                (datetime.fromisoformat(status.created) if status.created else latest, status.job)
                for status in statuses
            ),
            reverse=True,
        )
        stored = newest_jobs(self.store) if self.store else iter(())
        others = (entry for entry in stored if entry[1] not in on_cluster)
        merged = heapq.merge(created, others, key=itemgetter(0), reverse=True)
        seen = set[str]()  # one that was sent again has two times
        while batch := list(itertools.islice(merged, BATCH)):
            new = dict.fromkeys(job for _, job in batch if job not in seen)
            seen |= new.keys()
            yield from self._combined_all({job: on_cluster.get(job) for job in new})

    def _combined_all(self, statuses: Mapping[str, ClusterStatus | None]) -> Iterator[JobStatus]:
        records = read_jobs(self.store, list(statuses)) if self.store and statuses else {}
        for job, status in statuses.items():
            if combined := self._combined(job, status, records.get(job)):
                yield combined

    def status(self, job: str) -> JobStatus:
        """Return how a job stands.

        Raises:
            NotFoundError: neither the cluster nor the store has it.
            ClusterLost: the cluster does not answer.
        """
        try:
            status = self.cluster.find(job) if self.cluster else None
        except ClusterLost:
            record = self._record(job)
            if record is None or not record.final:
                raise
            # The cluster could add nothing.
            return combine(job, None, record, None, on_this_cluster=False)
        combined = self._combined(job, status, self._record(job))
        if combined is None:
            places = [
                self.cluster.identity.place if self.cluster else None,
                self.store.uri if self.store else None,
            ]
            searched = " and ".join(place for place in places if place)
            raise NotFoundError(f"no job '{job}' in {searched}{nearest(job, self.ids())}")
        return combined

    def spec(self, job: str) -> str | None:
        """Return the text of the spec that was sent, None where it is not known."""
        if spec := self._stored_spec(job):
            return spec
        status = self.cluster.find(job) if self.cluster else None
        return status.spec if status else None

    def sent(self, job: str) -> dict[str, Any]:
        """Return to where a job was sent last, when and by whom, and with what, as JSON types."""
        sent = read_sent(self.store, job) if self.store else None
        return sent.model_dump(exclude={"job", "cluster", "manifest"}) if sent else {}

    def began(self, job: str) -> bool:
        """Whether a job was sent; its spec alone may be in the store before that."""
        on_cluster = self.cluster.find(job) if self.cluster else None
        return on_cluster is not None or self._record(job) is not None

    def accepted(self, job: str) -> JobStatus:
        """Wait until the cluster has taken up a job that was just sent; return how it stands.

        Raises:
            ClusterLost: it has not done so in `ACCEPT_S`.
        """
        deadline = time.monotonic() + ACCEPT_S
        while True:
            status = self.status(job)
            if status.why != NOT_TAKEN_UP:
                return status
            if time.monotonic() > deadline:
                raise ClusterLost(
                    f"{job} was sent, but nothing has taken it up within {ACCEPT_S:.0f} s: is the "
                    f"KubeRay operator running? graft jobs show {job} says when it was"
                )
            time.sleep(0.5)

    def cancel(self, job: str) -> None:
        """Stop a job: no other attempt begins, and its pods or processes are freed.

        What it trains may go on for a moment, but publishes nothing any more.

        Raises:
            NotFoundError: there is no such job.
            InputError: it has ended already, or runs on another cluster.
        """
        if self.cluster is None:
            raise InputError(f"to cancel {job} takes the cluster that it runs on")
        status, on_cluster = self.status(job), self.cluster.find(job)
        if home := self._home_elsewhere(job, self._record(job)):
            raise elsewhere(job, home, self.cluster.identity, "cancelled")
        if status.has_ended and (on_cluster is None or on_cluster.state in ENDED):
            raise InputError(f"{job} has ended already: {status}")
        if self.store:
            if on_cluster and on_cluster.spec:
                submit_job(self.store, job, on_cluster.spec)
            record = cancel_job(self.store, job, status.kind, status.submitted)
            if record.state != "cancelled":
                raise InputError(f"{job} has ended already: {record.state}")
            overtake(self.store, job, status.kind)
        self.cluster.cancel(job)

    def resume(
        self,
        submission: Submission,
        changes: Mapping[str, str] = NOTHING,
        take_over: bool = False,
    ) -> list[str]:
        """Have a job go on that has ended, from what it has committed: see `resume_job`.

        Raises:
            InputError: as there, or the cluster or the store is out of reach.
        """
        job = submission.job
        if self.cluster is None or self.store is None:
            raise InputError(f"to go on with {job} takes its cluster and its store")
        status = self.status(job)
        return resume_job(self.cluster, self.store, status, submission, changes, take_over)

    def remove(self, job: str) -> None:
        """Remove from the cluster what it has of a job that has ended; the store's record stays.

        Raises:
            NotFoundError: there is no such job.
            InputError: it has not ended.
        """
        if self.cluster is None:
            raise InputError(f"to remove {job} takes the cluster that it ran on")
        status = self.status(job)
        if home := self._home_elsewhere(job, self._record(job)):
            if self.cluster.find(job) is None:
                raise elsewhere(job, home, self.cluster.identity, "removed")
            self.cluster.cancel(job)  # what is left here of one that was taken over
            return
        if not status.has_ended:
            raise InputError(f"{job} has not ended: {status}; graft jobs cancel {job} ends it")
        remove_ended(self.cluster, self.store, job)

    def prune(self, older_s: float) -> list[str]:
        """Remove from the cluster the jobs that ended so many seconds ago; return their ids."""
        if self.cluster is None:
            raise InputError("to prune jobs takes the cluster that they ran on")
        return prune_jobs(self.cluster, older_s)

    def sources(self, job: str) -> list[str]:
        """Return the names of a job's logs: the driver's of each attempt first, then others."""
        sources = log_sources(self.store, job) if self.store else []
        return sorted(sources, key=lambda source: (not source.startswith(DRIVER_SOURCE), source))

    def _record(self, job: str) -> JobRecord | None:
        try:
            return read_job(self.store, job) if self.store else None
        except NotFoundError:
            return None

    def _home_elsewhere(self, job: str, record: JobRecord | None) -> ClusterIdentity | None:
        """Return the cluster that a job is bound to, where that is another one."""
        if self.cluster is None or self.store is None:
            return None
        home = home_of(record, None if record else read_sent(self.store, job))
        return home if home and not self.cluster.identity.is_same(home) else None

    def _stored_spec(self, job: str) -> str | None:
        try:
            return read_job_spec(self.store, job) if self.store else None
        except NotFoundError:
            return None

    def _combined(
        self, job: str, status: ClusterStatus | None, record: JobRecord | None
    ) -> JobStatus | None:
        """Return how a job stands; None where neither cluster nor store has it."""
        if status is None and record is None and self._stored_spec(job) is None:
            return None  # the store may have logs of a job that never began
        home = self._home_elsewhere(job, record)
        on_this_cluster = self.cluster is not None and (
            record.was_sent_to(self.cluster.identity) if record else home is None
        )
        # What a cluster has of a job that another one has taken over says nothing of it.
        combined = combine(job, None if home else status, record, None, on_this_cluster)
        if home and record is None:
            combined = replace(combined, why=f"it was sent to {home.place or home.uid}")
        if self.store is None:
            return combined
        if record and combined.has_ended and combined.ended is None:  # it died without a word
            shipped = last_shipped(self.store, job)
            ended = max(shipped or record.start, record.start)
            hours = round(record.gpu_hours(ended), 3)
            return replace(combined, ended=ended.isoformat(), gpu_hours=hours)
        if combined.state != "running":
            return combined
        return replace(combined, progress=job_progress(self.store, job, combined.kind))
