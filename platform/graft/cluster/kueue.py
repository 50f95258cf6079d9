"""What Kueue, which admits jobs from queues, says of a namespace's queue and of a job in it."""

from graft.cluster.kubernetes_api import Kube, KubeObject
from graft.cluster.pod_troubles import on_a_line
from graft.errors import InputError, NotFoundError

GROUP = "kueue.x-k8s.io"
JOB_UID = f"{GROUP}/job-uid"
"""Label of a Workload: the UID of what Kueue made it for."""


def queue_problem(kube: Kube, queue: str) -> str | None:
    """Return why no job would ever leave a queue, None where jobs do.

    Raises:
        InputError: it cannot be found out, and why.
    """
    try:
        queues = kube.items(f"{_api(kube)}/localqueues")
    except NotFoundError:
        return f"its queue is '{queue}' (jobs.queue), and Kueue is not installed in this cluster"
    by_name = {found["metadata"]["name"]: found for found in queues}
    if queue not in by_name:
        others = ", ".join(sorted(by_name)) or "none"
        return f"there is no LocalQueue '{queue}' (jobs.queue); this namespace has: {others}"
    for condition in _conditions(by_name[queue]):
        if condition["type"] == "Active" and condition["status"] == "False":
            return f"LocalQueue '{queue}' admits nothing: {on_a_line(condition.get('message'))}"
    return None


def admission_reason(kube: Kube, uid: str) -> str | None:
    """Return why a job's quota is not reserved yet, as Kueue says it; None where it says nothing.

    `uid`: of the RayJob.
    """
    try:
        workloads = kube.items(f"{_api(kube)}/workloads", labelSelector=f"{JOB_UID}={uid}")
    except (NotFoundError, InputError):  # no Kueue any more, or no right to look
        return None
    for workload in workloads:
        for condition in _conditions(workload):
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return on_a_line(condition.get("message")) or None
    return None


def _api(kube: Kube) -> str:
    """Return the path of Kueue's objects, in the version that the cluster prefers."""
    version = kube.get(f"/apis/{GROUP}")["preferredVersion"]["version"]
    return f"/apis/{GROUP}/{version}/namespaces/{{ns}}"


def _conditions(stored: KubeObject) -> list[KubeObject]:
    return list((stored.get("status") or {}).get("conditions") or [])
