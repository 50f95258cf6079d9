"""How a job stands, as a person understands it: from what a cluster and the store know; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from graft.cluster.jobs import JobRecord
from graft.cluster.rayjob import JOB_LABEL, KIND_LABEL, sent_spec

Json = Mapping[str, Any]
State = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled"]
NODE_TYPE = "ray.io/node-type"
"""Label of pods with Ray's nodes; a submitter's has none."""
ENDED = ("succeeded", "failed", "cancelled")
UNTAKEN = "the KubeRay operator has not taken it up"
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
"""Why a container waits, where the wait will hardly end by itself."""
REASONS = {
    "PreRunningDeadlineExceeded": "its pods did not run within the start deadline",
    "DeadlineExceeded": "it ran into its deadline",
    "SubmissionFailed": "its driver could not be started, or its head was lost",
}
LONGEST = 300
"""Characters of a reason that are shown: its end, where Ray puts the log's."""


@dataclass(frozen=True)
class Seen:
    """What a cluster says of a job."""

    job: str
    kind: str
    state: State
    why: str | None = None
    """Why it is not running yet, or how it ended; a line."""
    spec: str | None = None
    """The text of the spec that was sent."""


@dataclass(frozen=True)
class JobStatus:
    """How a job stands."""

    job: str
    kind: str
    state: State
    why: str | None
    progress: str | None
    """How far it is, on a line."""
    attempt: int
    """0 before the first."""
    model: str | None
    """NAME@VERSION of what it registered."""
    started: str | None
    ended: str | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def document(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [self.state, self.progress if self.state == "running" else self.why]
        if self.state == "succeeded" and self.model:
            parts.append(self.model)
        return ": ".join(part for part in parts if part)


def combine(
    job: str, seen: Seen | None, record: JobRecord | None, progress: str | None, here: bool
) -> JobStatus:
    """Return how a job stands.

    Args:
        job: its id.
        seen: what the cluster says, None where it has no such job.
        record: what the job itself has recorded in the store, None for nothing yet.
        progress: how far its run or sweep is, as the store has it.
        here: whether the cluster that was asked is the one it was sent to.
    """
    state: State = "starting"
    why = None
    if seen:
        state, why = seen.state, seen.why
    if record and record.final:
        # The job's own word; its cluster may know of that later, or start another attempt in vain.
        state, why = record.state, record.error
    elif record and record.state == "failed" and seen and state in ("starting", "failed"):
        # What ended an attempt, and what has come of it since.
        later = why if state == "starting" or why in REASONS.values() else None
        why = "; ".join(part for part in (record.error, later) if part)
    elif not seen and record:
        state, why = record.state, record.error
        if state == "running" and here:
            state, why = "failed", "its cluster is gone, and it did not say how it ended"
    elif not seen and here:
        state, why = "failed", "it was deleted before it began"
    return JobStatus(
        job=job,
        kind=seen.kind if seen else record.kind if record else "",
        state=state,
        why=why,
        progress=progress,
        attempt=record.attempt if record else 0,
        model=record.model if record else None,
        started=record.started if record else None,
        ended=record.ended if record else None,
    )


def on_a_line(text: object) -> str:
    """Return the end of what somebody says, without line breaks."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= LONGEST else f"…{line[-LONGEST:]}"


def seen(rayjob: Json, pods: Iterable[Json]) -> Seen:
    """Return what a RayJob and its pods, as Kubernetes' API gives them, say."""
    meta, status = rayjob["metadata"], rayjob.get("status") or {}
    state, why = _state(rayjob, status, list(pods))
    return Seen(
        job=meta["labels"][JOB_LABEL],
        kind=meta["labels"].get(KIND_LABEL, ""),
        state=state,
        why=why,
        spec=sent_spec(rayjob),
    )


def _state(rayjob: Json, status: Json, pods: list[Json]) -> tuple[State, str | None]:
    deployment = status.get("jobDeploymentStatus") or ""
    if rayjob["metadata"].get("deletionTimestamp"):
        return "cancelled", "its pods are being deleted"
    if deployment == "Complete":
        if status.get("jobStatus") == "SUCCEEDED":
            return "succeeded", None
        return "failed", f"Ray says {status.get('jobStatus')}"
    if deployment in ("Failed", "ValidationFailed"):
        reason = status.get("reason") or ""
        said = on_a_line(status.get("message"))
        return "failed", REASONS.get(reason) or said or reason or "no reason given"
    if deployment in ("Suspended", "Suspending"):
        return "queued", "waits for its queue to admit it"
    if deployment == "Running" and status.get("jobStatus") not in (None, "", "PENDING"):
        return "running", None  # also when it has ended, and its submitter not yet
    if deployment == "Retrying":
        return "starting", "its cluster failed, another one is made"
    failed = status.get("failed") or 0
    again = f"attempt {failed + 1}: " if failed else ""
    return "starting", again + _why_waiting(rayjob, status, deployment, pods)


def _why_waiting(rayjob: Json, status: Json, deployment: str, pods: list[Json]) -> str:
    """Say what a job that does not run yet waits for; the worst first."""
    if not deployment:
        return UNTAKEN
    waits = [wait for pod in pods for wait in _waits(pod)]
    for reasons in (STUCK, ("Unschedulable",)):
        for reason, text in waits:
            if reason in reasons:
                return text
    conditions = (status.get("rayClusterStatus") or {}).get("conditions") or []
    for condition in conditions:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return on_a_line(condition.get("message"))
    ready = sum(_is_ready(pod) for pod in pods if NODE_TYPE in pod["metadata"].get("labels", {}))
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    wanted = 1 + sum(group["replicas"] for group in groups)
    if ready < wanted:
        return f"{ready} of {wanted} pods are ready"
    return "its pods are ready, the driver starts"


def _waits(pod: Json) -> list[tuple[str, str]]:
    """Return reason and text of all that keeps a pod from running."""
    status = pod.get("status", {})
    name = pod["metadata"]["name"]
    found = []
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = f"{name}: {on_a_line(condition.get('message'))}"
            found.append((condition.get("reason", ""), text))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if reason := waiting.get("reason"):
                found.append((reason, f"{name}: {reason}: {on_a_line(waiting.get('message'))}"))
    return found


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
