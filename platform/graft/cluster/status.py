"""How a job stands, as a person understands it: from its cluster and its record; pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from graft.cluster.job_records import JobRecord
from graft.cluster.pod_templates import JOB_LABEL
from graft.cluster.pod_troubles import NODE_TYPE, is_ready, on_a_line, trouble_of, waits
from graft.cluster.rayjob_manifest import KIND_LABEL, OWNER, sent_digest, sent_spec

Json = Mapping[str, Any]
JobState = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled"]
"""How a job stands, as a person is shown it."""
ENDED = ("succeeded", "failed", "cancelled")
NOT_TAKEN_UP = "the KubeRay operator has not taken it up"
STUCK = (
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)
"""Reasons for which a container waits, and which hardly go away by themselves."""
REASONS = {
    "PreRunningDeadlineExceeded": "its pods did not run within the start deadline",
    "DeadlineExceeded": "it ran into its deadline",
    "SubmissionFailed": "its driver could not be started, or its head was lost",
    "JobStatusCheckTimeoutExceeded": "its head did not answer for too long",
}


@dataclass(frozen=True)
class ClusterStatus:
    """How a job stands by what its cluster says."""

    job: str
    kind: str
    state: JobState
    why: str | None = None
    """Why it is not running yet, or does not go on, or how it ended; a line."""
    spec: str | None = None
    """The text of the spec that was sent; None: only the store has it."""
    digest: str | None = None
    """The `spec_digest` of the spec that was sent."""
    owner: str | None = None
    """Who sent it, as the cluster knows them."""
    created: str | None = None
    """When the cluster got it; ISO 8601 in UTC."""
    ended: str | None = None
    """When the cluster saw its end; ISO 8601 in UTC."""
    uid: str | None = None
    """Of the cluster's object; one that is sent again is another. None: the cluster has none."""


@dataclass(frozen=True)
class JobStatus:
    """How a job stands by all that is known."""

    job: str
    kind: str
    state: JobState
    why: str | None
    progress: str | None
    """How far it is, on a line."""
    attempt: int
    """0 before the first."""
    model: str | None
    """NAME@VERSION of the model that it registered."""
    submitted: str | None
    """When a person sent it first, as far as is known; ISO 8601 in UTC."""
    started: str | None
    """When its current attempt began, or the cluster got it; ISO 8601 in UTC."""
    ended: str | None
    owner: str | None
    """Who submitted it; None: not known."""
    gpu_hours: float
    """What its attempts have taken so far."""
    losses: int
    """Attempts that failed or died, which `jobs.retries` bounds."""
    preemptions: int
    """Attempts whose pods were told to end, which nothing bounds."""

    @property
    def has_ended(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in ENDED

    def document(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        running = (self.progress, self.why) if self.state == "running" else (self.why,)
        parts = [self.state, *running]
        if self.state == "succeeded" and self.model:
            parts.append(self.model)
        return ": ".join(part for part in parts if part)


def combine(
    job: str,
    status: ClusterStatus | None,
    record: JobRecord | None,
    progress: str | None,
    on_this_cluster: bool,
) -> JobStatus:
    """Return how a job stands.

    Args:
        job: its id.
        status: what the cluster says, None where it has no such job.
        record: the job's record in the store, None before its first attempt.
        progress: how far its run or sweep is, by the store.
        on_this_cluster: whether the cluster that was asked is the one it was sent to.
    """
    state, why = _state(status, record, on_this_cluster)
    ended = (record and record.ended) or (status and status.ended) or None
    until = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return JobStatus(
        job=job,
        kind=status.kind if status else record.kind if record else "",
        state=state,
        why=why,
        progress=progress,
        attempt=record.attempt if record else 0,
        model=record.model if record else None,
        submitted=_submitted(status, record),
        started=record.started if record else status.created if status else None,
        ended=ended if state in ENDED else None,
        owner=(record and record.owner) or (status and status.owner) or None,
        gpu_hours=round(record.gpu_hours(until), 3) if record else 0.0,
        losses=record.losses if record else 0,
        preemptions=record.preemptions if record else 0,
    )


def _submitted(status: ClusterStatus | None, record: JobRecord | None) -> str | None:
    """Return when a job was sent; its RayJob is a new one each time that it is sent again."""
    if record and record.submitted:
        return record.submitted
    times = (status and status.created, record and record.started)
    return min((time for time in times if time), key=datetime.fromisoformat, default=None)


def _state(
    status: ClusterStatus | None, record: JobRecord | None, on_this_cluster: bool
) -> tuple[JobState, str | None]:
    """Return a job's state, and the reason for it."""
    recorded: JobState | None = None
    if record and record.state != "resumed":
        recorded = record.state
    if record and recorded and record.final:
        # The cluster may learn of that later, or start another attempt in vain.
        return recorded, record.error
    if status and record and recorded == "failed" and status.state in ("starting", "failed"):
        # Why the last attempt failed, and what the cluster says of the next one.
        later = status.why if status.state == "starting" or status.why in REASONS.values() else None
        return status.state, "; ".join(reason for reason in (record.error, later) if reason)
    if status:
        return status.state, status.why
    if record and recorded is None:
        if on_this_cluster:
            return "failed", "it was to go on, but was not sent again"
        return "starting", f"it was sent again to {record.where}" if record.where else None
    if record and recorded and not (recorded == "running" and on_this_cluster):
        return recorded, record.error
    if record:
        return "failed", "its cluster is gone, and it did not say how it ended"
    if on_this_cluster:
        return "failed", "it was not sent, or was deleted before it began"
    return "starting", None


def rayjob_status(rayjob: Json, pods: Iterable[Json], now: datetime | None = None) -> ClusterStatus:
    """Return how a job stands, from its RayJob and its pods as Kubernetes' API gives them.

    `now`: when they were given; None: just now.
    """
    meta = rayjob["metadata"]
    seen: Json = rayjob.get("status") or {}
    state, why = _rayjob_state(rayjob, list(pods), now or datetime.now(UTC))
    return ClusterStatus(
        job=meta["labels"][JOB_LABEL],
        kind=meta["labels"].get(KIND_LABEL, ""),
        state=state,
        why=why,
        spec=sent_spec(rayjob),
        digest=sent_digest(rayjob),
        owner=(meta.get("annotations") or {}).get(OWNER),
        created=meta.get("creationTimestamp"),
        ended=seen.get("endTime") if state in ENDED else None,
        uid=meta.get("uid"),
    )


def _rayjob_state(rayjob: Json, pods: list[Json], now: datetime) -> tuple[JobState, str | None]:
    status = rayjob.get("status") or {}
    deployment = status.get("jobDeploymentStatus") or ""
    if rayjob["metadata"].get("deletionTimestamp"):
        return "cancelled", "its pods are being deleted"
    if deployment == "Complete":
        if status.get("jobStatus") == "SUCCEEDED":
            return "succeeded", None
        return "failed", f"Ray says {status.get('jobStatus')}"
    if deployment in ("Failed", "ValidationFailed"):
        reason = status.get("reason") or ""
        message = on_a_line(status.get("message"))
        return "failed", REASONS.get(reason) or message or reason or "no reason given"
    if deployment in ("Suspended", "Suspending"):
        return "queued", "waits for its queue to admit it"
    if deployment == "Running" and status.get("jobStatus") not in (None, "", "PENDING"):
        return _running(rayjob, pods, now)
    if deployment == "Retrying":
        return "starting", "its cluster failed, another one is made"
    failed = status.get("failed") or 0
    prefix = f"attempt {failed + 1}: " if failed else ""
    return "starting", prefix + _why_waiting(rayjob, deployment, pods)


def _running(rayjob: Json, pods: list[Json], now: datetime) -> tuple[JobState, str | None]:
    """Return how a job stands that KubeRay takes for running: its head may be lost all the same."""
    deadline_s = rayjob["spec"].get("preRunningDeadlineSeconds") or math.inf
    trouble = trouble_of(rayjob["metadata"]["name"], pods, deadline_s, now)
    if trouble is None or rayjob["status"]["jobStatus"] != "RUNNING":  # its pods may go by now
        return "running", None
    return "running" if trouble.has_driver else "starting", trouble.text


def _why_waiting(rayjob: Json, deployment: str, pods: list[Json]) -> str:
    """Say what a job that does not run yet waits for; the worst first."""
    if not deployment:
        return NOT_TAKEN_UP
    all_waits = [wait for pod in pods for wait in waits(pod)]
    for reasons in (STUCK, ("Unschedulable",)):
        for wait in all_waits:
            if wait.reason in reasons:
                return wait.text
    conditions = (rayjob["status"].get("rayClusterStatus") or {}).get("conditions") or []
    for condition in conditions:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return on_a_line(condition.get("message"))
    ready = sum(is_ready(pod) for pod in pods if NODE_TYPE in pod["metadata"].get("labels", {}))
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    expected = 1 + sum(group["replicas"] for group in groups)
    if ready < expected:
        return f"{ready} of {expected} pods are ready"
    return "its pods are ready, the driver starts"


def rivals(job: str, pods: Iterable[Json]) -> list[str]:
    """Return the other jobs that hold nodes while they wait for more, as this one does.

    Two such jobs may wait for each other: each has what the other lacks.

    Args:
        job: its id.
        pods: all pods of jobs in its namespace.
    """
    holds: dict[str, set[bool]] = {}
    for pod in pods:
        placed = not any(wait.reason == "Unschedulable" for wait in waits(pod))
        holds.setdefault(pod["metadata"]["labels"][JOB_LABEL], set()).add(placed)
    torn = [name for name, placed in sorted(holds.items()) if len(placed) == 2]
    return [name for name in torn if name != job] if job in torn else []
