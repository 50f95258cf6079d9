"""What a cluster does with jobs; a namespace (`kube_jobs`) and a running Ray (`ray_jobs`) do it."""

from typing import Protocol

from graft.cluster.job_records import ClusterIdentity
from graft.cluster.rayjob_manifest import Submission
from graft.cluster.status import ClusterStatus


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

    def output(self, job: str) -> str:
        """Return the log of the current attempt's driver, as far as the cluster has it."""
