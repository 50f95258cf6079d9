"""What a cluster does with jobs: a namespace (`kubernetes_jobs`), or a running Ray (`ray_jobs`)."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Protocol

from graft.cluster.job_records import ClusterIdentity, Owner, read_job
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.status import ENDED, ClusterStatus
from graft.errors import GraftError, InputError, NotFoundError
from graft.store import Store


class ClusterJobs(Protocol):
    """The jobs of one cluster: check, submit, look at and cancel them."""

    identity: ClusterIdentity
    """Which cluster it is, by place and uid; a job records it."""
    ships_logs: bool
    """Whether the logs of its jobs get into the store."""
    store_is_volume: bool
    """Whether its store is a volume of the cluster, which this machine may not have."""

    def check(self, submission: Submission) -> list[str]:
        """Return what could not be checked, a line each.

        Raises:
            InputError: the job could never run; all reasons are listed.
        """

    def show(self, submission: Submission, as_json: bool) -> str:
        """Return what `submit` would send, as text: YAML where that is what people read."""

    def submit(self, submission: Submission) -> None:
        """Send a job; nothing happens where it is there already, with the same spec.

        Raises:
            InputError: there is a job of that id with another spec.
        """

    def find(self, job: str) -> ClusterStatus | None:
        """Return how a job stands on the cluster, None where there is none of that id."""

    def all(self) -> list[ClusterStatus]:
        """Return how all jobs stand on the cluster."""

    def cancel(self, job: str) -> None:
        """Stop a job and free its pods or processes; nothing happens where there is none."""

    def remove(self, job: str, over: ClusterStatus | None = None, wait: bool = True) -> None:
        """Remove what the cluster still has of a job that has ended; the store's record stays.

        Args:
            job: its id.
            over: what the cluster had of it before its record was read, which says that it has
                ended: a job records its end before its cluster learns of it. None: whether it has
                ended is the cluster's to say.
            wait: until it is gone.

        Raises:
            InputError: it has not ended, perhaps because another person had it go on.
        """

    def tidy(self) -> list[str]:
        """Remove jobs that ended longer ago than the cluster is to keep them; return their ids."""

    def owner(self) -> Owner:
        """Return who the cluster takes its user for: the owner of the jobs that are sent."""

    def output(self, job: str) -> str:
        """Return the log of the current attempt's driver, as far as the cluster has it."""


def remove_ended(cluster: ClusterJobs, store: Store | None, job: str) -> None:
    """Remove from a cluster a job that has ended, by what the cluster or the job's record says.

    Raises:
        InputError: it has not ended, perhaps because another person had it go on.
    """
    seen = cluster.find(job)
    try:
        record = read_job(store, job) if seen and store else None
    except NotFoundError:
        record = None
    is_over = record is not None and record.state != "resumed" and record.final
    cluster.remove(job, over=seen if is_over else None)


def tidied(cluster: ClusterJobs) -> list[str]:
    """Have whoever has sent a job tidy up; return what to tell them of it, a line at most.

    KubeRay keeps what has ended, and pods have no rights to remove it.
    """
    try:
        jobs = cluster.tidy()
    except GraftError:  # the job was sent; another one tidies up
        return []
    if not jobs:
        return []
    return [
        f"jobs that ended long ago are gone from the cluster, not from the store: {', '.join(jobs)}"
    ]


def prune_jobs(cluster: ClusterJobs, older_s: float, most: int | None = None) -> list[str]:
    """Remove from a cluster the jobs that ended so many seconds ago; return their ids.

    KubeRay by itself keeps the object of every job, and its Service, for ever.

    Args:
        cluster: where they ended.
        older_s: how long ago, in seconds.
        most: how many to remove, those that ended first; None: all of them.
    """
    before = (datetime.now(UTC) - timedelta(seconds=older_s)).isoformat(timespec="seconds")
    ended = sorted(
        (_utc(status.ended), status.job)
        for status in cluster.all()
        if status.state in ENDED and status.ended and _utc(status.ended) <= before
    )
    pruned = []
    for _, job in ended[:most]:
        with contextlib.suppress(InputError):  # it goes on, or another person was faster
            cluster.remove(job, wait=False)
            pruned.append(job)
    return pruned


def _utc(time: str) -> str:
    """Return a time as Kubernetes writes it (2026-01-31T12:00:00Z) in the form that we compare."""
    return datetime.fromisoformat(time).astimezone(UTC).isoformat(timespec="seconds")
