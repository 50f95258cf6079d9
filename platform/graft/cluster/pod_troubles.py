"""What keeps pods of a job from running, and a job that has begun from going on; pure.

KubeRay makes no other pod while the object of the former is there (kuberay#4078). That of a pod
whose node has gone stays: its kubelet alone could say that it has ended. So people have to be told.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from graft.units import duration

Json = Mapping[str, Any]
NODE_TYPE = "ray.io/node-type"
"""Label of the pods of a Ray cluster: `head` or `worker`."""
KUBELET_S = 30
"""Seconds after a pod's time to end in which its node has to say that it has."""
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
"""Taint with which an administrator has Kubernetes let all pods of a node go."""
LONGEST = 300
"""Characters of a reason that are shown: its end, because Ray puts the end of the log there."""


@dataclass(frozen=True)
class Trouble:
    """What keeps a job from going on that has begun."""

    text: str
    """What it is, and what to do; a line."""
    has_driver: bool
    """Whether its driver goes on meanwhile."""


@dataclass(frozen=True)
class LostPod:
    """A pod whose node does not answer any more."""

    name: str
    namespace: str
    node: str
    since: datetime


class Wait(NamedTuple):
    """What keeps a pod from running: Kubernetes' word for it, and what a person is told."""

    reason: str
    text: str


def trouble_of(job: str, pods: Iterable[Json], deadline_s: float, now: datetime) -> Trouble | None:
    """Return what keeps a job from going on that has begun; None where nothing is seen.

    Args:
        job: its id.
        pods: its pods; none where nothing is known of them.
        deadline_s: seconds within which an attempt's pods have to run.
        now: the time.
    """
    nodes = [pod for pod in pods if NODE_TYPE in pod["metadata"].get("labels", {})]
    heads = [pod for pod in nodes if pod["metadata"]["labels"][NODE_TYPE] == "head"]
    workers = [pod for pod in nodes if pod not in heads]
    for role, group in (("head", heads), ("worker", workers)):
        for pod in group:
            if lost := lost_pod(pod, now):
                return Trouble(_loss(job, role, lost), has_driver=role == "worker")
    if workers and not heads:
        return Trouble("its head is gone, another one is made", has_driver=False)
    for pod in (*heads, *workers):
        if pod.get("status", {}).get("phase") == "Pending":
            role = pod["metadata"]["labels"][NODE_TYPE]
            return Trouble(_wait(job, role, pod, deadline_s, now), has_driver=role == "worker")
    return None


def _loss(job: str, role: str, lost: LostPod) -> str:
    return (
        f"node {lost.node} of its {role} does not answer since "
        f"{_shown(lost.since)}, and KubeRay makes no other "
        f"{role} while Kubernetes still has the pod: graft jobs cancel {job}, then graft jobs "
        f"resume {job} goes on elsewhere. Or, once the node is off for good: kubectl delete pod "
        f"{lost.name} -n {lost.namespace} --force --grace-period=0, or its administrator taints it "
        f"{OUT_OF_SERVICE}"
    )


def _wait(job: str, role: str, pod: Json, deadline_s: float, now: datetime) -> str:
    since = _time(pod["metadata"]["creationTimestamp"])
    text = f"its {role} was lost, and another one waits"
    if reasons := waits(pod):
        text += f": {reasons[0].text}"
    if (now - since).total_seconds() > deadline_s:
        # KubeRay holds its deadline for the pods of a new cluster alone.
        text += (
            f"; since {_shown(since)}, and its start deadline is {duration(deadline_s)}: graft "
            f"jobs cancel {job} frees its other pods, graft jobs resume {job} goes on later"
        )
    return text


def lost_pod(pod: Json, now: datetime) -> LostPod | None:
    """Return a pod as lost where its node does not let it go; None where nothing says so.

    Kubernetes takes pods of a silent node for unready. When they have borne that for as long as
    they tolerate it, it tells them to end, which nobody there hears.
    """
    meta, node = pod["metadata"], pod.get("spec", {}).get("nodeName")
    if not node or not meta.get("deletionTimestamp"):
        return None
    conditions = {(one["type"], one["status"]): one for one in _conditions(pod)}
    unready = conditions.get(("Ready", "False"))
    evicted = conditions.get(("DisruptionTarget", "True"))
    end = _time(meta["deletionTimestamp"])  # its grace period is over then
    since = min(_time(unready["lastTransitionTime"]), end) if unready else end
    by_taint = evicted is not None and evicted.get("reason") == "DeletionByTaintManager"
    # One that ends as it was told becomes unready after that, not before.
    was_silent = evicted and by_taint and since < _time(evicted["lastTransitionTime"])
    if was_silent or now - end > timedelta(seconds=KUBELET_S):
        return LostPod(meta["name"], meta.get("namespace", "default"), node, since)
    return None


def waits(pod: Json) -> list[Wait]:
    """Return all that keeps a pod from running."""
    name = pod["metadata"]["name"]
    found = []
    for condition in _conditions(pod):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = f"{name}: {on_a_line(condition.get('message'))}"
            found.append(Wait(condition.get("reason", ""), text))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in pod.get("status", {}).get(kind) or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if reason := waiting.get("reason"):
                text = f"{name}: {reason}: {on_a_line(waiting.get('message'))}"
                found.append(Wait(reason, text))
    return found


def is_ready(pod: Json) -> bool:
    """Whether a pod runs and answers."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in _conditions(pod))


def on_a_line(text: object) -> str:
    """Return a message without line breaks; of a long one, the end."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= LONGEST else f"…{line[-LONGEST:]}"


def _conditions(pod: Json) -> list[Json]:
    return list(pod.get("status", {}).get("conditions") or [])


def _shown(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
