"""Jobs as a person sees them: how they stand by their cluster and by the store, and how to cancel.

`cluster_jobs` knows the cluster alone, `job_records` the store alone; `Jobs` puts the two together.
"""

import time
from dataclasses import replace

from graft.cluster.cluster_jobs import ClusterJobs
from graft.cluster.job_progress import job_progress
from graft.cluster.job_records import (
    JobRecord,
    cancel_job,
    list_jobs,
    log_sources,
    read_job,
    read_job_spec,
    read_jobs,
    submit_job,
)
from graft.cluster.log_shipping import DRIVER_SOURCE
from graft.cluster.status import ENDED, NOT_TAKEN_UP, ClusterStatus, JobStatus, combine
from graft.errors import ClusterLost, InputError, NotFoundError, ResourceError
from graft.spec import nearest
from graft.store import Store
from graft.training.attempt_pointer import claim_attempt

PLACES = {"finetune": "runs", "sweep": "sweeps", "transfer-report": "reports"}
"""Where the store has what a job of a kind makes in attempts, under the job's id."""
ACCEPT_S = 20.0
"""Seconds in which an operator has to take up a job that was sent."""


class Jobs:
    """The jobs of a cluster and of a store, of which either may be out of reach."""

    def __init__(self, cluster: ClusterJobs | None, store: Store | None):
        """Look at a cluster and a store; None for what is out of reach."""
        self.cluster, self.store = cluster, store

    def ids(self) -> list[str]:
        """Return the ids of all jobs, of the store and of the cluster."""
        stored = list_jobs(self.store) if self.store else []
        running = [status.job for status in self.cluster.all()] if self.cluster else []
        return sorted({*stored, *running})

    def all(self) -> list[JobStatus]:
        """Return how all jobs stand."""
        stored = read_jobs(self.store) if self.store else {}
        try:
            statuses = {status.job: status for status in self.cluster.all()} if self.cluster else {}
        except ClusterLost:
            if not stored:
                raise
            statuses = {}
        return [
            combined
            for job in sorted({*statuses, *stored})
            if (combined := self._combined(job, statuses.get(job), stored.get(job)))
        ]

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

    def accepted(self, job: str) -> JobStatus:
        """Wait until the cluster has taken up a job that was just sent; return how it stands.

        Raises:
            ResourceError: it has not done so in `ACCEPT_S`.
        """
        deadline = time.monotonic() + ACCEPT_S
        while True:
            status = self.status(job)
            if status.why != NOT_TAKEN_UP:
                return status
            if time.monotonic() > deadline:
                raise ResourceError(
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
        record, identity = self._record(job), self.cluster.identity
        if on_cluster is None and record and record.where and not record.was_sent_to(identity):
            raise InputError(f"{job} runs in {record.where}, not in {identity.place}")
        if status.has_ended and (on_cluster is None or on_cluster.state in ENDED):
            raise InputError(f"{job} has ended already: {status}")
        if self.store:
            if on_cluster and on_cluster.spec:
                submit_job(self.store, job, on_cluster.spec)
            record = cancel_job(self.store, job, status.kind)
            if record.state != "cancelled":
                raise InputError(f"{job} has ended already: {record.state}")
            place = PLACES.get(status.kind)
            if place and self.store.exists(f"{place}/{job}/spec.yaml"):
                claim_attempt(self.store, f"{place}/{job}")  # the one that goes on is overtaken
        self.cluster.cancel(job)

    def sources(self, job: str) -> list[str]:
        """Return the names of a job's logs: the driver's of each attempt first, then others."""
        sources = log_sources(self.store, job) if self.store else []
        return sorted(sources, key=lambda source: (not source.startswith(DRIVER_SOURCE), source))

    def _record(self, job: str) -> JobRecord | None:
        try:
            return read_job(self.store, job) if self.store else None
        except NotFoundError:
            return None

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
        on_this_cluster = self.cluster is not None and (
            record is None or record.was_sent_to(self.cluster.identity)
        )
        combined = combine(job, status, record, None, on_this_cluster)
        if combined.state != "running" or self.store is None:
            return combined
        return replace(combined, progress=job_progress(self.store, job, combined.kind))
